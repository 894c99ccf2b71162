"""What registers say, taken in whole or not at all, and what it does to mandates and checks."""

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from solmu.authorisations.v1 import mandate_service_pb2, rights_pb2
from solmu.authorisations.v1.events_pb2 import DeathsChanged
from solmu.authorisations.v1.issuing_rights_pb2 import ListIssuingRightsRequest
from solmu.authorisations.v1.mandates_pb2 import Ending, Mandate, MandateEvent
from solmu.authorisations.v1.parties_pb2 import TERMS_ALONE, TERMS_JOINTLY, Party, ValidityPeriod
from solmu.authorisations.v1.register_records_pb2 import (
    Block,
    Custody,
    Guardianship,
    OrganisationRole,
    OrganisationStatus,
    PersonStatus,
    RegisterRecord,
    SignatoryRule,
)
from solmu.authorisations.v1.registers_pb2 import (
    CreateRegisterRequest,
    GetRegisterRequest,
    Import,
    ImportRecordsRequest,
    Register,
    SearchRecordsRequest,
)
from solmu.authorisations.v1.themes_pb2 import Theme

from services.authorisations.acting import Acting
from services.authorisations.messages import instant, timestamp
from services.authorisations.provider_file import ASSURANCE
from services.runtime.errors import Fault
from services.runtime.identity import Caller
from tests.integration.authorisations.people import ISSUE, REPRESENT, asking, company, give, make_theme, person
from tests.integration.authorisations.service import HELSINKI, Service, calls_as
from tests.integration.authorisations.test_checks import ALLOWED, DENIED, check
from tests.integration.authorisations.test_mandates import reason
from tests.integration.authorisations.test_watch import Follower

ALL = [
    "guardianship",
    "custody",
    "organisation_role",
    "signatory_rule",
    "person_status",
    "organisation_status",
    "block",
]
KEEPER = "organisations/" + "k" * 26
_numbers = itertools.count(1)


class Keeper:
    """A register and its keeper."""

    def __init__(self, service: Service, name: str) -> None:
        self.service = service
        self.name = name
        self.latest = ""

    @classmethod
    async def of(cls, service: Service, contents: Sequence[str] = tuple(ALL), **fields: Any) -> "Keeper":
        register_id = f"register-{next(_numbers):04}"
        calls_as(KEEPER, client="keeper")
        register = Register(display_name="Register", importer="clients/keeper", contents=contents, **fields)
        made = await service.registers.CreateRegister(CreateRegisterRequest(register_id=register_id, register=register))
        return cls(service, made.name)

    def header(self, mode: Any, **fields: Any) -> ImportRecordsRequest:
        values = {
            "register": self.name,
            "mode": mode,
            "as_of": timestamp(self.service.clock()),
            "builds_on": self.latest if mode == Import.MODE_DELTA else "",
            "request_id": str(uuid.uuid4()),
        }
        return ImportRecordsRequest(header=ImportRecordsRequest.Header(**values | fields))

    async def send(self, *parts: ImportRecordsRequest) -> Import:
        async def stream() -> AsyncIterator[ImportRecordsRequest]:
            for part in parts:
                yield part

        calls_as(KEEPER, client="keeper")
        result = await self.service.registers.ImportRecords(stream())
        self.latest = result.name
        return result

    async def says(self, *records: RegisterRecord, mode: Any = Import.MODE_SNAPSHOT, **header: Any) -> Import:
        batches = [batch(*records)] if records else []
        return await self.send(self.header(mode, **header), *batches, trailer(len(records)))


def batch(*records: RegisterRecord) -> ImportRecordsRequest:
    return ImportRecordsRequest(batch=ImportRecordsRequest.Batch(records=records))


def trailer(count: int) -> ImportRecordsRequest:
    return ImportRecordsRequest(trailer=ImportRecordsRequest.Trailer(record_count=count))


def party(name: str) -> Party:
    return Party(name=name)


def custody(
    parent: str, child: str, *, born: str = "2015-05-05", terms: Any = TERMS_ALONE, key: str = "", until: str = ""
) -> RegisterRecord:
    content = Custody(custodian=party(parent), child=party(child), child_birth_day=born, terms=terms)
    return RegisterRecord(
        record_id=key or f"custody {parent} {child}", custody=content, validity=ValidityPeriod(last_day=until)
    )


def role(holder: str, organisation: str, code: str = "board-member", terms: Any = TERMS_JOINTLY) -> RegisterRecord:
    content = OrganisationRole(holder=party(holder), organisation=party(organisation), role=code, terms=terms)
    return RegisterRecord(record_id=f"role {holder} {organisation}", organisation_role=content)


def block(blocked: str, effect: Any, *, towards: str = "", kind: str = "disputed") -> RegisterRecord:
    content = Block(party=party(blocked), counterpart=party(towards) if towards else None, kind=kind, effect=effect)
    return RegisterRecord(record_id=f"block {blocked}", block=content)


CUSTODIANS = [Theme.RegisterRight(role="custodian", until_age=15)]


async def test_a_parent_acts_for_a_child_until_the_birthday_that_ends_it(service: Service):
    theme = await make_theme(service, register_rights=CUSTODIANS)
    parent, child = person(), person()
    keeper = await Keeper.of(service, ["custody"])
    await keeper.says(custody(parent, child, born="2012-05-05"))
    answer = await check(service, theme.name, parent, child)
    assert (answer.decision, answer.basis) == (ALLOWED, rights_pb2.RIGHT_BASIS_REGISTER)
    birthday = instant(answer.expire_time)
    assert birthday.isoformat() == "2027-05-04T21:00:00+00:00"
    for at, decision in ((birthday - timedelta(microseconds=1), ALLOWED), (birthday, DENIED)):
        assert (await check(service, theme.name, parent, child, at=timestamp(at))).decision == decision
    listed = await service.checks.ListPrincipals(rights_pb2.ListPrincipalsRequest(delegate=party(parent)))
    assert [(right.principal.name, right.role) for right in listed.rights] == [(child, "custodian")]
    rows = await service.database.fetch("select content, birth_day from register_record where subject = $1", parent)
    assert not any(b"2012-05-05" in (row["content"] + row["birth_day"]) for row in rows)


async def test_what_vanishes_from_a_snapshot_has_ended_and_held_until_then(service: Service):
    theme = await make_theme(service, register_rights=CUSTODIANS)
    parent, child, other = person(), person(), person()
    keeper = await Keeper.of(service)
    first = await keeper.says(custody(parent, child), custody(other, child))
    assert (first.added_count, first.ended_count) == (2, 0)
    before = service.clock()
    second = await keeper.says(custody(other, child))
    assert (second.added_count, second.changed_count, second.ended_count) == (0, 0, 1)
    assert (await check(service, theme.name, parent, child)).decision == DENIED
    assert (await check(service, theme.name, parent, child, at=timestamp(before))).decision == ALLOWED
    assert (await check(service, theme.name, other, child)).decision == ALLOWED


async def test_a_theme_may_name_an_age_that_no_theme_named_when_the_child_was_told_of(service: Service):
    parent, child = person(), person()
    keeper = await Keeper.of(service, ["custody"])
    await keeper.says(custody(parent, child, born="2012-05-05"))
    for age, year in ((17, "2029"), (16, "2028")):
        theme = await make_theme(service, register_rights=[Theme.RegisterRight(role="custodian", until_age=age)])
        answer = await check(service, theme.name, parent, child)
        assert answer.decision == ALLOWED
        assert instant(answer.expire_time).isoformat() == f"{year}-05-04T21:00:00+00:00"


async def test_a_delta_changes_adds_and_removes_what_it_names(service: Service):
    theme = await make_theme(service, register_rights=CUSTODIANS)
    child, one, two, three = person(), person(), person(), person()
    keeper = await Keeper.of(service)
    await keeper.says(custody(one, child, key="1"), custody(two, child, key="2"))
    follower = Follower(service, after_consistency_token=await service.revisions.head())
    made = await keeper.says(
        custody(one, child, key="1", terms=TERMS_JOINTLY),
        RegisterRecord(record_id="2", removed=True),
        custody(three, child, key="3"),
        mode=Import.MODE_DELTA,
    )
    assert (made.added_count, made.changed_count, made.ended_count) == (1, 1, 1)
    decisions = [(await check(service, theme.name, who, child)).decision for who in (one, two, three)]
    assert decisions == [DENIED, DENIED, ALLOWED]
    await follower.until(made.consistency_token)
    now = service.clock()
    holding = {
        fact.register_right.delegate
        for fact in follower.facts.values()
        if fact.HasField("register_right") and (not fact.HasField("end_time") or instant(fact.end_time) > now)
    }
    assert holding == {one, three}


async def test_the_same_snapshot_again_changes_nothing(service: Service):
    keeper = await Keeper.of(service)
    records = [custody(person(), person()) for _ in range(3)]
    await keeper.says(*records)
    again = await keeper.says(*records)
    assert (again.added_count, again.changed_count, again.ended_count, again.record_count) == (0, 0, 0, 3)


async def test_a_repeated_request_returns_the_first_result(service: Service):
    keeper, request_id = await Keeper.of(service), str(uuid.uuid4())
    first = await keeper.says(custody(person(), person()), request_id=request_id)
    assert await keeper.says(request_id=request_id) == first


@pytest.mark.parametrize(
    "defect", ["no trailer", "count", "twice", "not its subject", "bad day", "late header", "no header"]
)
async def test_an_import_with_one_defect_changes_nothing(service: Service, defect: str):
    theme = await make_theme(service, register_rights=CUSTODIANS)
    parent, child = person(), person()
    keeper = await Keeper.of(service, ["custody"])
    await keeper.says(custody(parent, child))
    header, good = keeper.header(Import.MODE_SNAPSHOT), batch(*(custody(person(), person()) for _ in range(3)))
    bad = {
        "no trailer": [header, good],
        "count": [header, good, trailer(4)],
        "twice": [header, good, good, trailer(6)],
        "not its subject": [header, good, batch(block(parent, Block.EFFECT_BOTH)), trailer(4)],
        "bad day": [header, good, batch(custody(person(), child, born="2015-02-30")), trailer(4)],
        "late header": [header, good, header, trailer(3)],
        "no header": [good, trailer(3)],
    }[defect]
    with pytest.raises(Fault) as refusal:
        await keeper.send(*bad)
    assert refusal.value.reason == "IMPORT_INVALID"
    assert refusal.value.violations
    assert (await check(service, theme.name, parent, child)).decision == ALLOWED
    register = await service.registers.GetRegister(GetRegisterRequest(name=keeper.name))
    assert (register.record_count, register.latest_import) == (1, keeper.latest)
    assert await service.database.fetchval("select count(*) from register_arrival") == 0


async def test_imports_come_in_order_and_from_the_importer_only(service: Service):
    keeper = await Keeper.of(service)
    delta = keeper.says(custody(person(), person()), mode=Import.MODE_DELTA)
    assert await reason(delta) == "IMPORT_OUT_OF_ORDER"
    first = await keeper.says(custody(person(), person()))
    earlier = timestamp(instant(first.as_of) - timedelta(seconds=1))
    assert await reason(keeper.says(as_of=earlier)) == "IMPORT_OUT_OF_ORDER"
    tomorrow = timestamp(service.clock() + timedelta(days=1))
    assert await reason(keeper.says(as_of=tomorrow)) == "IMPORT_INVALID"
    unknown = keeper.says(RegisterRecord(record_id="unknown", removed=True), mode=Import.MODE_DELTA)
    assert await reason(unknown) == "IMPORT_INVALID"
    assert (
        await reason(keeper.says(mode=Import.MODE_DELTA, builds_on=keeper.name + "/imports/x")) == "IMPORT_OUT_OF_ORDER"
    )

    async def stream() -> AsyncIterator[ImportRecordsRequest]:
        yield keeper.header(Import.MODE_SNAPSHOT)

    calls_as(KEEPER, client="stranger")
    assert await reason(service.registers.ImportRecords(stream())) == "IMPORTER_NOT_ALLOWED"


async def test_a_block_stops_a_delegate_at_once_and_lifting_it_lets_go_on(service: Service):
    theme, owner, helper = await make_theme(service), person(), person()
    await give(service, theme.name, owner, helper)
    keeper = await Keeper.of(service, ["block"])
    await keeper.says(block(helper, Block.EFFECT_ACTING))
    denied = await check(service, theme.name, helper, owner)
    assert (denied.decision, len(denied.mandates)) == (DENIED, 0)
    assert await reason(give(service, theme.name, person(), helper)) == "PARTY_NOT_ELIGIBLE"
    await keeper.says()
    assert (await check(service, theme.name, helper, owner)).decision == ALLOWED


async def test_a_firm_that_is_blocked_halfway_closes_the_way_through_it_and_no_other(service: Service):
    theme, firm, other_firm, customer, accountant = await make_theme(service), company(), company(), company(), person()
    for one in (firm, other_firm):
        await give(service, theme.name, customer, one)
        await give(service, theme.name, one, accountant, kind=REPRESENT)
    other_customer = company()
    await give(service, theme.name, other_customer, firm)
    keeper = await Keeper.of(service, ["block"])
    before = service.clock()
    await keeper.says(block(firm, Block.EFFECT_ACTING))
    answer = await check(service, theme.name, accountant, customer)
    assert (answer.decision, answer.through.name) == (ALLOWED, other_firm)
    assert (await check(service, theme.name, accountant, other_customer)).decision == DENIED
    assert (await check(service, theme.name, accountant, other_customer, at=timestamp(before))).decision == ALLOWED
    await keeper.says()
    assert (await check(service, theme.name, accountant, other_customer)).decision == ALLOWED


@pytest.mark.parametrize("blocked", ["the accountant", "the firm", "the customer"])
async def test_who_is_blocked_halfway_through_a_session_ends_it_with_the_next_call(service: Service, blocked: str):
    theme, firm, customer, accountant = await make_theme(service), company(), company(), person()
    await give(service, theme.name, customer, firm)
    await give(service, theme.name, firm, accountant, kind=REPRESENT)
    acting = Acting(facts=service.facts, latest=lambda: service.revisions.latest, clock=service.clock)
    detail = {"type": "mandate", "theme": theme.name}
    session = Caller(service="edge", client_id="portal", party=customer, actor=accountant, acr=ASSURANCE["HIGH"])
    session = replace(session, authorization_details=(detail,))
    assert (await acting.right(session)).through == firm
    keeper = await Keeper.of(service, ["block"])
    party, effect = {
        "the accountant": (accountant, Block.EFFECT_ACTING),
        "the firm": (firm, Block.EFFECT_ACTING),
        "the customer": (customer, Block.EFFECT_BEING_ACTED_FOR),
    }[blocked]
    await keeper.says(block(party, effect))
    assert await reason(acting.right(session)) == "MANDATE_NOT_ENOUGH"
    await keeper.says()
    assert (await acting.right(session)).through == firm


async def test_a_company_with_joint_signatories_gives_a_mandate_when_enough_have_confirmed(service: Service):
    theme, firm, accountant = await make_theme(service), company(), company()
    chair, member, stranger = person(), person(), person()
    part = SignatoryRule.Part
    rule = SignatoryRule(
        organisation=party(firm),
        alternatives=[
            SignatoryRule.Alternative(
                parts=[
                    part(roles=["board-chair"], needed=1),
                    part(roles=["board-chair", "board-member"], needed=1),
                ]
            )
        ],
    )
    keeper = await Keeper.of(service, ["organisation_role", "signatory_rule"])
    await keeper.says(
        role(chair, firm, "board-chair"), role(member, firm), RegisterRecord(record_id="rule", signatory_rule=rule)
    )
    calls_as(stranger)
    assert await reason(service.mandates.CreateMandate(asking(theme.name, principal=firm, delegate=accountant))) == (
        "ISSUING_RIGHT_MISSING"
    )
    calls_as(chair)
    asked = await service.mandates.CreateMandate(asking(theme.name, principal=firm, delegate=accountant))
    assert asked.state == Mandate.STATE_PARTLY_CONFIRMED
    assert (await check(service, theme.name, accountant, firm)).decision == DENIED
    calls_as(member)
    confirm = mandate_service_pb2.ConfirmMandateRequest(name=asked.name, etag=asked.etag)
    assert (await service.mandates.ConfirmMandate(confirm)).state == Mandate.STATE_ACTIVE
    assert (await check(service, theme.name, accountant, firm)).decision == ALLOWED
    revoke = mandate_service_pb2.RevokeMandateRequest(name=asked.name)
    assert (await service.mandates.RevokeMandate(revoke)).state == Mandate.STATE_REVOKED


async def test_one_of_two_guardians_ends_what_both_had_to_confirm(service: Service):
    theme, ward, first, second, helper = await make_theme(service), person(), person(), person(), person()
    keeper = await Keeper.of(service)
    guardians = [
        RegisterRecord(
            record_id=guardian,
            guardianship=Guardianship(
                guardian=party(guardian), ward=party(ward), extent=Guardianship.EXTENT_ALL, terms=TERMS_JOINTLY
            ),
        )
        for guardian in (first, second)
    ]
    limited = block(ward, Block.EFFECT_ACTING, kind="limited-competence")
    await keeper.says(*guardians, limited)
    calls_as(first)
    asked = await service.mandates.CreateMandate(asking(theme.name, principal=ward, delegate=helper))
    assert asked.state == Mandate.STATE_PARTLY_CONFIRMED
    calls_as(second)
    confirm = mandate_service_pb2.ConfirmMandateRequest(name=asked.name, etag=asked.etag)
    given = await service.mandates.ConfirmMandate(confirm)
    assert given.state == Mandate.STATE_ACTIVE
    calls_as(first)
    ended = await service.mandates.RevokeMandate(mandate_service_pb2.RevokeMandateRequest(name=given.name))
    assert ended.ending.ended_by.party == first


async def test_a_death_ends_mandates_on_either_side(service: Service):
    theme, dying, other, third = await make_theme(service), person(), person(), person()
    given = await give(service, theme.name, dying, other)
    received = await give(service, theme.name, third, dying)
    keeper = await Keeper.of(service, ["person_status"])
    status = PersonStatus(person=party(dying), birth_day="1940-01-01", death_day="2026-11-20")
    made = await keeper.says(RegisterRecord(record_id="1", person_status=status))
    assert made.mandates_ended_count == 2
    for mandate, who, cause in (
        (given, other, Ending.CAUSE_PRINCIPAL_DIED),
        (received, third, Ending.CAUSE_DELEGATE_DIED),
    ):
        calls_as(who)
        read = await service.mandates.GetMandate(mandate_service_pb2.GetMandateRequest(name=mandate.name))
        assert (read.state, read.ending.cause) == (Mandate.STATE_INVALIDATED, cause)
        assert read.ending.record.startswith(keeper.name)
    assert (await check(service, theme.name, dying, dying)).decision == DENIED


async def deaths_told(service: Service, *persons: str) -> list[tuple[int, str]]:
    """What events have said of deaths of these persons so far: which person, and the record."""
    told = await service.database.fetch(
        "select payload from outbox where type = $1 order by seq", DeathsChanged.DESCRIPTOR.full_name
    )
    said = (death for row in told for death in DeathsChanged.FromString(row["payload"]).deaths)
    return [(persons.index(death.person), death.record) for death in said if death.person in persons]


async def test_a_death_is_told_when_it_is_recorded_corrected_and_taken_back(service: Service):
    dying, living = person(), person()
    keeper, other = await Keeper.of(service, ["person_status"]), await Keeper.of(service, ["person_status"])

    def status(name: str, day: str = "") -> RegisterRecord:
        return RegisterRecord(record_id=name, person_status=PersonStatus(person=party(name), death_day=day))

    await keeper.says(status(living), status(dying, "2026-11-20"))
    ((_, first),) = await deaths_told(service, dying, living)
    assert first.startswith(keeper.name)
    await keeper.says(status(living), status(dying, "2026-11-20"))
    assert len(await deaths_told(service, dying, living)) == 1, "nothing changed"
    await keeper.says(status(living), status(dying, "2026-11-19"))
    corrected = (await deaths_told(service, dying, living))[-1]
    assert corrected[1] not in ("", first)
    await other.says(status(dying, "2026-11-19"))
    await keeper.says(status(living), status(dying))
    assert (await deaths_told(service, dying, living))[-1][1].startswith(other.name), "one register still says so"
    await other.says(status(dying))
    assert (await deaths_told(service, dying, living))[-1] == (0, "")


async def test_bankruptcy_ends_what_the_company_gave_and_leaves_what_it_received(service: Service):
    theme, bankrupt, other = await make_theme(service), company(), company()
    await give(service, theme.name, bankrupt, other)
    await give(service, theme.name, other, bankrupt)
    keeper = await Keeper.of(service, ["organisation_status"])
    status = OrganisationStatus(organisation=party(bankrupt), phase=OrganisationStatus.PHASE_BANKRUPTCY)
    assert (await keeper.says(RegisterRecord(record_id="1", organisation_status=status))).mandates_ended_count == 1
    assert (await check(service, theme.name, other, bankrupt)).decision == DENIED
    assert (await check(service, theme.name, bankrupt, other)).decision == ALLOWED


async def test_a_minor_neither_gives_nor_receives_a_mandate(service: Service):
    theme, child, adult = await make_theme(service), person(), person()
    keeper = await Keeper.of(service)
    await keeper.says(custody(adult, child, born="2015-05-05"))
    assert await reason(give(service, theme.name, adult, child)) == "PARTY_NOT_ELIGIBLE"
    assert await reason(give(service, theme.name, child, person())) in ("PARTY_NOT_ELIGIBLE", "ISSUING_RIGHT_MISSING")


async def test_a_register_that_was_silent_for_too_long_makes_checks_unavailable(service: Service):
    theme, owner, helper = await make_theme(service), person(), person()
    await give(service, theme.name, owner, helper)
    keeper = await Keeper.of(service, ["block"], greatest_age=Duration(seconds=3600))
    assert await reason(check(service, theme.name, helper, owner)) == "REGISTER_STALE"
    await keeper.says()
    assert (await check(service, theme.name, helper, owner)).decision == ALLOWED
    assert service.clock.time is not None
    service.clock.time += timedelta(hours=2)
    assert await reason(check(service, theme.name, helper, owner)) == "REGISTER_STALE"
    await service.database.execute("update register set greatest_age = null")


async def test_an_officer_finds_records_without_days_of_birth_and_the_party_sees_it(service: Service):
    parent, child = person(), person()
    keeper = await Keeper.of(service)
    record = custody(parent, child)
    record.validity.CopyFrom(ValidityPeriod(first_day="2015-05-05", last_day="2033-05-04"))
    await keeper.says(record)
    calls_as(KEEPER, client="officer")
    found = await service.registers.SearchRecords(SearchRecordsRequest(party=party(child), purpose="case 3"))
    assert [one.record_id for one in found.records] == [record.record_id]
    assert not found.records[0].custody.child_birth_day


async def test_what_a_custodian_gave_ends_with_the_custody(service: Service):
    theme = await make_theme(service, least_age=1)
    mother, father, child, helper = person(), person(), person(), person()
    keeper = await Keeper.of(service, ["custody"])
    await keeper.says(custody(mother, child), custody(father, child))
    calls_as(mother)
    given = await service.mandates.CreateMandate(asking(theme.name, principal=child, delegate=helper))
    calls_as(father)
    other = await service.mandates.CreateMandate(asking(theme.name, principal=child, delegate=person()))
    assert (given.state, other.state) == (Mandate.STATE_ACTIVE, Mandate.STATE_ACTIVE)
    # The record changes, and says the same of the mother.
    await keeper.says(custody(mother, child, terms=TERMS_JOINTLY), custody(father, child, terms=TERMS_JOINTLY))
    assert (await check(service, theme.name, helper, child)).decision == ALLOWED
    result = await keeper.says(custody(father, child))
    assert result.mandates_ended_count == 1
    assert (await check(service, theme.name, helper, child)).decision == DENIED
    assert (await check(service, theme.name, other.delegate.name, child)).decision == ALLOWED
    calls_as(helper)
    ended = await service.mandates.GetMandate(mandate_service_pb2.GetMandateRequest(name=given.name))
    assert (ended.ending.cause, ended.state) == (Ending.CAUSE_ISSUING_RIGHT_ENDED, Mandate.STATE_INVALIDATED)
    assert ended.ending.record.startswith(keeper.name)


async def test_what_a_custodian_gave_ends_on_the_day_to_which_the_custody_is_shortened(service: Service):
    theme = await make_theme(service, least_age=1)
    mother, father, child, helper = person(), person(), person(), person()
    keeper = await Keeper.of(service, ["custody"])
    await keeper.says(custody(mother, child), custody(father, child))
    calls_as(mother)
    given = await service.mandates.CreateMandate(asking(theme.name, principal=child, delegate=helper))
    assert not given.HasField("ending")
    shortened = await keeper.says(custody(mother, child, until="2026-12-31"), custody(father, child))
    assert shortened.mandates_ended_count == 0
    last, over = (datetime(2026, 12, 31, 23, 59, tzinfo=HELSINKI), datetime(2027, 1, 1, tzinfo=HELSINKI))
    assert (await check(service, theme.name, helper, child, at=last)).decision == ALLOWED
    assert (await check(service, theme.name, helper, child, at=over)).decision == DENIED
    read, listing = mandate_service_pb2.GetMandateRequest(name=given.name), mandate_service_pb2.ListMandatesRequest()
    listing.states.append(Mandate.STATE_INVALIDATED)
    calls_as(helper)
    foreseen = await service.mandates.GetMandate(read)
    assert (foreseen.state, foreseen.ending.cause) == (Mandate.STATE_ACTIVE, Ending.CAUSE_ISSUING_RIGHT_ENDED)
    assert foreseen.ending.end_time.ToDatetime(UTC) == over
    assert not (await service.mandates.ListMandates(listing)).mandates
    service.clock.time = over
    ended = await service.mandates.GetMandate(read)
    assert ended.state == Mandate.STATE_INVALIDATED
    assert [one.name for one in (await service.mandates.ListMandates(listing)).mandates] == [given.name]
    history = mandate_service_pb2.ListMandateEventsRequest(parent=given.name)
    told = (await service.mandates.ListMandateEvents(history)).events[-1]
    assert (told.type, told.ending.record) == (MandateEvent.TYPE_INVALIDATED, ended.ending.record)


async def test_a_custody_that_is_lengthened_again_lets_its_mandates_go_on(service: Service):
    theme = await make_theme(service, least_age=1)
    mother, child, helper = person(), person(), person()
    keeper = await Keeper.of(service, ["custody"])
    await keeper.says(custody(mother, child))
    calls_as(mother)
    given = await service.mandates.CreateMandate(asking(theme.name, principal=child, delegate=helper))
    over = datetime(2027, 1, 1, tzinfo=HELSINKI)
    await keeper.says(custody(mother, child, until="2026-12-31"))
    assert (await check(service, theme.name, helper, child, at=over)).decision == DENIED
    await keeper.says(custody(mother, child))
    assert (await check(service, theme.name, helper, child, at=over)).decision == ALLOWED
    calls_as(helper)
    read = mandate_service_pb2.GetMandateRequest(name=given.name)
    assert not (await service.mandates.GetMandate(read)).HasField("ending")


async def test_what_one_of_two_custodians_gives_ends_with_its_own_care(service: Service):
    theme = await make_theme(service, least_age=1)
    mother, father, child, helper = person(), person(), person(), person()
    keeper = await Keeper.of(service, ["custody"])
    await keeper.says(custody(mother, child, until="2026-12-31"), custody(father, child))
    calls_as(mother)
    given = await service.mandates.CreateMandate(asking(theme.name, principal=child, delegate=helper))
    assert given.ending.end_time.ToDatetime(UTC) == datetime(2027, 1, 1, tzinfo=HELSINKI)
    calls_as(father)
    lasting = await service.mandates.CreateMandate(asking(theme.name, principal=child, delegate=person()))
    assert not lasting.HasField("ending")


async def test_what_was_given_under_a_right_to_issue_ends_where_the_registers_end_that(service: Service):
    theme = await make_theme(service, least_age=1, issued_end_with_issuer=True)
    mother, father, child, agency, clerk = person(), person(), person(), company(), person()
    keeper = await Keeper.of(service, ["custody"])
    await keeper.says(custody(mother, child), custody(father, child))
    calls_as(mother)
    await service.mandates.CreateMandate(asking(theme.name, principal=child, delegate=agency, kind=ISSUE))
    calls_as(agency)
    await service.mandates.CreateMandate(asking(theme.name, principal=child, delegate=clerk))
    over = datetime(2027, 1, 1, tzinfo=HELSINKI)
    assert (await check(service, theme.name, clerk, child, at=over)).decision == ALLOWED
    await keeper.says(custody(mother, child, until="2026-12-31"), custody(father, child))
    assert (await check(service, theme.name, clerk, child, at=over)).decision == DENIED
    # What a register says of somebody else changes nothing of that; that the custody goes on does.
    await keeper.says(custody(mother, child, until="2026-12-31"), custody(father, child, terms=TERMS_JOINTLY))
    assert (await check(service, theme.name, clerk, child, at=over)).decision == DENIED
    await keeper.says(custody(mother, child), custody(father, child))
    assert (await check(service, theme.name, clerk, child, at=over)).decision == ALLOWED
    await keeper.says(custody(mother, child, until="2026-12-31"), custody(father, child))
    calls_as(agency)
    beyond = asking(theme.name, principal=child, delegate=person())
    assert await reason(service.mandates.CreateMandate(beyond)) == "TERM_TOO_LONG"


async def test_what_joint_guardians_gave_needs_all_of_them_on(service: Service):
    theme = await make_theme(service)
    first, second, ward, helper = person(), person(), person(), person()

    def guardianship(guardian: str) -> RegisterRecord:
        content = Guardianship(
            guardian=party(guardian), ward=party(ward), extent=Guardianship.EXTENT_ALL, terms=TERMS_JOINTLY
        )
        return RegisterRecord(record_id=f"guardian {guardian}", guardianship=content)

    keeper = await Keeper.of(service, ["guardianship", "block"])
    limited = block(ward, Block.EFFECT_ACTING, kind="limited-competence")
    await keeper.says(guardianship(first), guardianship(second), limited)
    calls_as(first)
    asked = await service.mandates.CreateMandate(asking(theme.name, principal=ward, delegate=helper))
    calls_as(second)
    confirm = mandate_service_pb2.ConfirmMandateRequest(name=asked.name, etag=asked.etag)
    assert (await service.mandates.ConfirmMandate(confirm)).state == Mandate.STATE_ACTIVE
    assert (await keeper.says(guardianship(second), limited)).mandates_ended_count == 1
    assert (await check(service, theme.name, helper, ward)).decision == DENIED


async def test_what_signatories_gave_for_a_company_outlasts_their_time(service: Service):
    theme, chair, firm, helper = await make_theme(service), person(), company(), person()
    keeper = await Keeper.of(service, ["organisation_role", "signatory_rule"])
    rule = SignatoryRule(
        organisation=party(firm),
        alternatives=[SignatoryRule.Alternative(parts=[SignatoryRule.Part(roles=["board-chair"], needed=1)])],
    )
    signs = RegisterRecord(record_id=f"signs {firm}", signatory_rule=rule)
    await keeper.says(role(chair, firm, "board-chair"), signs)
    calls_as(chair)
    await service.mandates.CreateMandate(asking(theme.name, principal=firm, delegate=helper))
    assert (await keeper.says(role(person(), firm, "board-chair"), signs)).mandates_ended_count == 0
    assert (await check(service, theme.name, helper, firm)).decision == ALLOWED


async def test_who_may_confirm_no_longer_confirms_nothing(service: Service):
    theme, chair, firm, helper = await make_theme(service), person(), company(), person()
    keeper = await Keeper.of(service, ["organisation_role", "signatory_rule"])
    rule = SignatoryRule(
        organisation=party(firm),
        alternatives=[SignatoryRule.Alternative(parts=[SignatoryRule.Part(roles=["board-chair"], needed=1)])],
    )
    signs = RegisterRecord(record_id=f"signs {firm}", signatory_rule=rule)
    await keeper.says(role(chair, firm, "board-chair"), signs)
    calls_as(helper)
    asked = await service.mandates.CreateMandate(asking(theme.name, principal=firm))
    await keeper.says(role(person(), firm, "board-chair"), signs)
    calls_as(chair)
    confirm = mandate_service_pb2.ConfirmMandateRequest(name=asked.name, etag=asked.etag)
    assert await reason(service.mandates.ConfirmMandate(confirm)) == "WRONG_SIDE"
    assert (await check(service, theme.name, helper, firm)).decision == DENIED


async def test_a_custodian_gives_nothing_beyond_the_childs_majority(service: Service):
    theme = await make_theme(service, least_age=1)
    parent, child, helper = person(), person(), person()
    keeper = await Keeper.of(service, ["custody"])
    await keeper.says(custody(parent, child, born="2010-01-15"))
    calls_as(parent)
    longer = asking(theme.name, principal=child, delegate=helper, days=("", "2028-01-15"))
    with pytest.raises(Fault) as refused:
        await service.mandates.CreateMandate(longer)
    assert (refused.value.reason, refused.value.metadata) == ("TERM_TOO_LONG", {"latest_last_day": "2028-01-14"})
    fitting = asking(theme.name, principal=child, delegate=helper, days=("", "2028-01-14"))
    within = await service.mandates.CreateMandate(fitting)
    assert within.state == Mandate.STATE_ACTIVE
    request = ListIssuingRightsRequest(principal=party(child), page_size=1000)
    rights = (await service.mandates.ListIssuingRights(request)).rights
    assert {right.latest_last_day for right in rights if right.theme == theme.name} == {"2028-01-14"}


async def test_two_signatories_at_one_instant_are_both_counted_once(service: Service):
    theme, firm, helper = await make_theme(service), company(), person()
    members = [person() for _ in range(3)]
    keeper = await Keeper.of(service, ["organisation_role", "signatory_rule"])
    rule = SignatoryRule(
        organisation=party(firm),
        alternatives=[SignatoryRule.Alternative(parts=[SignatoryRule.Part(roles=["board-member"], needed=2)])],
    )
    signs = RegisterRecord(record_id=f"signs {firm}", signatory_rule=rule)
    await keeper.says(*(role(one, firm) for one in members), signs)
    calls_as(helper)
    asked = await service.mandates.CreateMandate(asking(theme.name, principal=firm))

    async def confirms(member: str) -> str:
        etag = asked.etag
        while True:
            calls_as(member)
            request = mandate_service_pb2.ConfirmMandateRequest(name=asked.name, etag=etag)
            try:
                return Mandate.State.Name((await service.mandates.ConfirmMandate(request)).state)
            except Fault as fault:
                if fault.reason != "ETAG_MISMATCH":
                    return fault.reason
                read = mandate_service_pb2.GetMandateRequest(name=asked.name)
                etag = (await service.mandates.GetMandate(read)).etag

    outcomes = await asyncio.gather(*(asyncio.create_task(confirms(member)) for member in members))
    assert sorted(outcomes) == ["MANDATE_STATE", "STATE_ACTIVE", "STATE_PARTLY_CONFIRMED"]
    calls_as(helper)
    happened = await service.mandates.ListMandateEvents(mandate_service_pb2.ListMandateEventsRequest(parent=asked.name))
    kinds = [event.type for event in happened.events]
    kind = MandateEvent
    assert kinds == [kind.TYPE_REQUESTED, kind.TYPE_CONFIRMED, kind.TYPE_CONFIRMED, kind.TYPE_ACTIVATED]


async def test_where_registers_contradict_each_other_a_right_of_any_counts_and_a_block_of_any_before_it(
    service: Service,
):
    theme = await make_theme(service, register_rights=CUSTODIANS)
    parent, child = person(), person()
    one, other = await Keeper.of(service), await Keeper.of(service)
    await one.says(custody(parent, child, terms=TERMS_JOINTLY))
    assert (await check(service, theme.name, parent, child)).decision == DENIED
    await other.says(custody(parent, child))
    assert (await check(service, theme.name, parent, child)).decision == ALLOWED
    dead = RegisterRecord(
        record_id=f"status {parent}", person_status=PersonStatus(person=party(parent), death_day="2026-11-01")
    )
    alive = RegisterRecord(record_id=f"status {parent}", person_status=PersonStatus(person=party(parent)))
    await one.says(dead)
    await other.says(custody(parent, child), alive)
    assert (await check(service, theme.name, parent, child)).decision == DENIED


async def test_windows_that_overlap_are_one_right_until_the_last_of_them_ends(service: Service):
    theme = await make_theme(service, register_rights=CUSTODIANS)
    parent, child = person(), person()
    one, other = await Keeper.of(service), await Keeper.of(service)

    def during(first: str, last: str) -> RegisterRecord:
        record = custody(parent, child)
        record.validity.CopyFrom(ValidityPeriod(first_day=first, last_day=last))
        return record

    await one.says(during("2026-11-01", "2026-12-15"))
    await other.says(during("2026-12-01", "2026-12-31"))
    ends = (await check(service, theme.name, parent, child)).expire_time
    assert ends.ToDatetime().isoformat() == "2026-12-15T22:00:00"
    for day, decision, end in (
        ("2026-12-10T12:00:00+00:00", ALLOWED, "2026-12-31T22:00:00"),
        ("2026-12-20T12:00:00+00:00", ALLOWED, "2026-12-31T22:00:00"),
        ("2027-01-01T12:00:00+00:00", DENIED, None),
    ):
        at = timestamp(datetime.fromisoformat(day))
        answer = await check(service, theme.name, parent, child, at=at)
        found = answer.expire_time.ToDatetime().isoformat() if answer.HasField("expire_time") else None
        assert (answer.decision, found) == (decision, end)
    for first, last in (("2026-12-02", "2026-12-01"), ("2026-02-30", "2026-12-01")):
        assert await reason(other.says(during(first, last))) == "IMPORT_INVALID"
