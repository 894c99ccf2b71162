"""Checks over what the database knows."""

import asyncio
import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from solmu.authorisations.v1 import audit_pb2, checks_pb2, clients_pb2, mandate_service_pb2, rights_pb2
from solmu.authorisations.v1.audit_pb2 import AuditRecord
from solmu.authorisations.v1.mandates_pb2 import Mandate
from solmu.authorisations.v1.parties_pb2 import Party
from solmu.authorisations.v1.watch_pb2 import WatchResponse
from solmu.types.v1.types_pb2 import NationalIdentifier

from services.authorisations.messages import instant, timestamp
from services.runtime.errors import Fault
from tests.integration.authorisations.people import REPRESENT, company, give, make_theme, person
from tests.integration.authorisations.service import Service, calls_as
from tests.integration.authorisations.test_watch import Follower

ALLOWED, DENIED = checks_pb2.DECISION_ALLOWED, checks_pb2.DECISION_DENIED


def asks(theme: str, delegate: str, principal: str, **fields: Any) -> checks_pb2.CheckRequest:
    return checks_pb2.CheckRequest(
        delegate=Party(name=delegate), principal=Party(name=principal), theme=theme, **fields
    )


async def check(service: Service, *question: str, **fields: Any) -> checks_pb2.CheckResponse:
    return await service.checks.Check(asks(*question, **fields))


async def revoke(service: Service, mandate: Mandate) -> Mandate:
    calls_as(mandate.principal.name)
    return await service.mandates.RevokeMandate(mandate_service_pb2.RevokeMandateRequest(name=mandate.name))


async def test_a_mandate_allows_until_it_is_revoked_and_past_instants_stay_as_they_were(service: Service):
    theme, owner, helper = await make_theme(service), person(), person()
    given = await give(service, theme.name, owner, helper)
    first = await check(service, theme.name, helper, owner, consistency_token=given.consistency_token)
    assert (first.decision, list(first.mandates)) == (ALLOWED, [given.name])
    assert first.expire_time == given.validity.end_time
    assert first.consistency_token >= given.consistency_token
    revoked = await revoke(service, given)
    after = await check(service, theme.name, helper, owner, consistency_token=revoked.consistency_token)
    assert (after.decision, after.reason) == (DENIED, checks_pb2.DENIAL_REASON_NO_RIGHT)
    end = instant(revoked.ending.end_time)
    for at, decision in ((end - timedelta(microseconds=1), ALLOWED), (end, DENIED)):
        assert (await check(service, theme.name, helper, owner, at=timestamp(at))).decision == decision


async def test_an_accountant_acts_for_customers_of_the_firm(service: Service):
    theme, firm, customer, accountant = await make_theme(service), company(), company(), person()
    given = await give(service, theme.name, customer, firm)
    right = await give(service, theme.name, firm, accountant, kind=REPRESENT)
    answer = await check(service, theme.name, accountant, customer)
    assert (answer.basis, answer.through.name) == (rights_pb2.RIGHT_BASIS_REPRESENTED_MANDATE, firm)
    assert list(answer.mandates) == [right.name, given.name]
    assert (await check(service, theme.name, accountant, firm)).decision == DENIED
    other = await make_theme(service)
    assert (await check(service, other.name, accountant, customer)).decision == DENIED
    await revoke(service, given)
    assert (await check(service, theme.name, accountant, customer)).decision == DENIED


async def test_a_party_may_be_named_by_its_code(service: Service):
    theme = await make_theme(service)
    code = NationalIdentifier(scheme=NationalIdentifier.SCHEME_FI_HETU, value="150390-900B")
    request = checks_pb2.CheckRequest(
        delegate=Party(identifier=code), principal=Party(identifier=code), theme=theme.name
    )
    assert (await service.checks.Check(request)).basis == rights_pb2.RIGHT_BASIS_SELF
    kept = await service.database.fetch("select content from audit_record")
    assert not any(b"150390" in row["content"] for row in kept)


async def test_a_batch_answers_each_and_one_fault_is_its_own(service: Service):
    theme, owner, helper = await make_theme(service), person(), person()
    await give(service, theme.name, owner, helper)
    checks = [
        asks(theme.name, helper, owner),
        asks(theme.name, owner, helper),
        asks("themes/no-such-theme", helper, owner),
        asks(theme.name, helper, owner),
    ]

    async def decisions(semantics: Any) -> list[Any]:
        request = checks_pb2.BatchCheckRequest(checks=checks, semantics=semantics)
        results = (await service.checks.BatchCheck(request)).results
        return [one.fault.reason or one.response.decision for one in results]

    kind = checks_pb2.BatchCheckRequest
    assert await decisions(kind.SEMANTICS_ALL) == [ALLOWED, DENIED, "THEME_UNSUITABLE", ALLOWED]
    assert await decisions(kind.SEMANTICS_STOP_AT_ALLOWED) == [ALLOWED]
    assert await decisions(kind.SEMANTICS_STOP_AT_DENIED) == [ALLOWED, DENIED]
    del checks[1]
    assert await decisions(kind.SEMANTICS_STOP_AT_DENIED) == [ALLOWED, "THEME_UNSUITABLE"]


async def test_an_explanation_is_for_auditors_and_says_what_was_met(service: Service):
    theme, owner, helper = await make_theme(service), person(), person()
    given = await give(service, theme.name, owner, helper)
    await revoke(service, given)
    request = checks_pb2.ExplainCheckRequest(check=asks(theme.name, helper, owner), purpose="case 1")
    explained = await service.checks.ExplainCheck(request)
    met = {(item.name, item.shortfall) for step in explained.steps for item in step.items}
    assert met == {(given.name, checks_pb2.CheckStep.SHORTFALL_ENDED)}


async def test_every_answer_is_recorded_with_the_parties_it_is_about(service: Service):
    theme, owner, helper = await make_theme(service), person(), person()
    calls_as(owner, client="tax-office")
    answer = await check(service, theme.name, helper, owner)
    row = await service.database.fetchrow(
        "select content, client, parties from audit_record where record = $1::uuid", answer.audit_record[13:]
    )
    assert row is not None
    record = AuditRecord.FromString(row["content"])
    assert (row["client"], set(row["parties"])) == ("clients/tax-office", {owner, helper})
    assert (record.check_response, record.kind) == (answer, AuditRecord.KIND_CHECK)


async def test_an_organisation_sees_that_its_mandates_were_used(service: Service):
    theme, firm, customer, accountant = await make_theme(service), company(), company(), person()
    await give(service, theme.name, customer, firm)
    await give(service, theme.name, firm, accountant, kind=REPRESENT)
    calls_as(customer, client="tax-office")
    answer = await check(service, theme.name, accountant, customer)
    calls_as(firm)
    own = (await service.audit.ListOwnAuditRecords(audit_pb2.ListOwnAuditRecordsRequest())).records
    [seen] = [one for one in own if one.kind == AuditRecord.KIND_CHECK]
    assert (seen.check_response, seen.actor.client) == (answer, "clients/tax-office")


class World:
    """Random mandates over a few parties, and an oracle that walks them one by one."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.people = [person() for _ in range(3)]
        self.companies = [company() for _ in range(4)]
        self.parties = [*self.people, *self.companies]
        self.mandates: list[Mandate] = []
        self.depth = self.random.choice([2, 3, 4])

    async def build(self, service: Service) -> None:
        theme = await make_theme(service, greatest_depth=self.depth)
        self.theme = theme.name
        for _ in range(18):
            kind = self.random.choice([1, 2])
            principal = self.random.choice(self.companies if kind == 2 else self.parties)
            delegate = self.random.choice([one for one in self.parties if one != principal])
            try:
                given = await give(service, self.theme, principal, delegate, kind=kind)
            except Fault as fault:
                assert fault.reason == "MANDATE_EXISTS"
                continue
            if self.random.random() < 0.2:
                await revoke(service, given)
            else:
                self.mandates.append(given)

    def chains(self, delegate: str, principal: str, left: int, seen: tuple[str, ...]) -> Iterator[int]:
        for mandate in self.mandates:
            if mandate.delegate.name != delegate:
                continue
            if mandate.kind == 1 and mandate.principal.name == principal:
                yield 1
            if mandate.kind == 2 and left > 1 and mandate.principal.name not in (*seen, principal):
                step = mandate.principal.name
                yield from (1 + length for length in self.chains(step, principal, left - 1, (*seen, step)))

    def may(self, delegate: str, principal: str) -> bool:
        return delegate == principal or any(self.chains(delegate, principal, self.depth, (delegate,)))


@pytest.mark.parametrize("seed", range(6))
async def test_checks_and_lists_agree_with_one_who_walks_every_mandate(service: Service, seed: int):
    world = World(seed)
    await world.build(service)
    pairs = [(delegate, principal) for delegate in world.parties for principal in world.parties]
    request = checks_pb2.BatchCheckRequest(checks=[asks(world.theme, *pair) for pair in pairs])
    results = (await service.checks.BatchCheck(request)).results
    allowed = {pair for pair, one in zip(pairs, results, strict=True) if one.response.decision == ALLOWED}
    assert allowed == {pair for pair in pairs if world.may(*pair)}
    for party in world.parties:
        principals, token = [], ""
        while True:
            page = await service.checks.ListPrincipals(
                rights_pb2.ListPrincipalsRequest(delegate=Party(name=party), page_size=2, page_token=token)
            )
            principals += [right.principal.name for right in page.rights]
            token = page.next_page_token
            if not token:
                break
        assert principals == sorted(other for one, other in allowed if one == party != other)
        listed = await service.checks.ListDelegates(rights_pb2.ListDelegatesRequest(principal=Party(name=party)))
        delegates = [right.delegate.name for right in listed.rights]
        assert delegates == sorted(one for one, other in allowed if other == party != one)
        for other in world.parties:
            themes = await service.checks.ListAllowedThemes(
                rights_pb2.ListAllowedThemesRequest(delegate=Party(name=party), principal=Party(name=other))
            )
            assert bool(themes.rights) == ((party, other) in allowed and party != other)


async def test_a_client_asks_about_its_themes_and_no_others(service: Service):
    mine, other = await make_theme(service), await make_theme(service)
    owner, helper = person(), person()
    for theme in (mine, other):
        await give(service, theme.name, owner, helper)
    client = await service.register(themes=[mine.name])

    def asks_now() -> None:
        calls_as(company(), client=client.name.removeprefix("clients/"))

    asks_now()
    assert (await check(service, mine.name, helper, owner)).decision == ALLOWED
    with pytest.raises(Fault) as refused:
        await check(service, other.name, helper, owner)
    assert (refused.value.code, refused.value.reason) == ("PERMISSION_DENIED", "THEME_NOT_YOURS")
    assert refused.value.metadata == {"theme": other.name}
    batch = checks_pb2.BatchCheckRequest(checks=[asks(theme.name, helper, owner) for theme in (mine, other)])
    results = (await service.checks.BatchCheck(batch)).results
    assert [one.fault.reason or one.response.decision for one in results] == [ALLOWED, "THEME_NOT_YOURS"]

    acts, whom = Party(name=helper), Party(name=owner)
    for listed in (
        await service.checks.ListPrincipals(rights_pb2.ListPrincipalsRequest(delegate=acts)),
        await service.checks.ListDelegates(rights_pb2.ListDelegatesRequest(principal=whom)),
        await service.checks.ListAllowedThemes(rights_pb2.ListAllowedThemesRequest(delegate=acts, principal=whom)),
    ):
        assert [right.theme for right in listed.rights] == [mine.name]
    with pytest.raises(Fault, match="THEME_NOT_YOURS"):
        await service.checks.ListDelegates(rights_pb2.ListDelegatesRequest(principal=whom, theme=other.name))

    follower = Follower(service)
    while WatchResponse.KIND_SNAPSHOT_END not in follower.kinds:
        await follower.step()
    told = {fact.mandate.theme for fact in follower.facts.values() if fact.HasField("mandate")}
    assert told == {mine.name}
    with pytest.raises(Fault, match="THEME_NOT_YOURS"):
        await Follower(service, themes=[other.name]).step()

    # Within a second of the change it may ask about both.
    update = clients_pb2.UpdateClientRequest(
        client=clients_pb2.Client(name=client.name, themes=[mine.name, other.name])
    )
    changed = await service.clients.UpdateClient(update)
    assert list(changed.themes) == sorted([mine.name, other.name])
    asks_now()
    async with asyncio.timeout(30):
        while True:
            try:
                assert (await check(service, other.name, helper, owner)).decision == ALLOWED
                break
            except Fault as fault:
                assert fault.reason == "THEME_NOT_YOURS"
                await asyncio.sleep(0.1)
