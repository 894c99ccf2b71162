"""Mandates through the servicers, in the database."""

import asyncio
import uuid
from datetime import timedelta
from typing import Any

import pytest
from solmu.authorisations.v1 import audit_pb2
from solmu.authorisations.v1 import mandate_service_pb2 as api
from solmu.authorisations.v1.events_pb2 import FactsChanged, MandateChanged
from solmu.authorisations.v1.issuing_rights_pb2 import ListIssuingRightsRequest
from solmu.authorisations.v1.mandates_pb2 import Mandate, MandateEvent
from solmu.authorisations.v1.parties_pb2 import ASSURANCE_LEVEL_SUBSTANTIAL, Party, ValidityPeriod
from solmu.authorisations.v1.themes_pb2 import ActivateThemeRequest, GetThemeRequest, HideThemeRequest, Theme

from services.authorisations.messages import instant, timestamp
from services.runtime.errors import Fault
from tests.integration.authorisations.people import (
    ACT,
    CITY,
    ISSUE,
    ISSUE_REPRESENT,
    REPRESENT,
    asking,
    company,
    give,
    make_theme,
    person,
)
from tests.integration.authorisations.service import Service, calls_as


async def reason(call: Any) -> str:
    with pytest.raises(Fault) as refusal:
        await call
    return refusal.value.reason


async def events(service: Service, mandate: Mandate) -> list[MandateEvent]:
    return list((await service.mandates.ListMandateEvents(api.ListMandateEventsRequest(parent=mandate.name))).events)


async def published(service: Service, kind: Any) -> list[Any]:
    rows = await service.database.fetch(
        "select payload from outbox where type = $1 order by seq", kind.DESCRIPTOR.full_name
    )
    return [kind.FromString(row["payload"]) for row in rows]


async def test_what_a_principal_gives_is_in_force_at_once_and_read_back(service: Service):
    theme, grandmother, daughter = await make_theme(service), person(), person()
    given = await give(service, theme.name, grandmother, daughter)
    assert given.state == Mandate.STATE_ACTIVE
    assert given.validity.end_time.ToJsonString() == "2027-06-30T21:00:00Z"
    read = await service.mandates.GetMandate(api.GetMandateRequest(name=given.name))
    read.consistency_token = given.consistency_token
    assert read == given
    told = [one for one in await published(service, MandateChanged) if one.mandate == given.name]
    assert [MandateEvent.Type.Name(one.type) for one in told] == ["TYPE_REQUESTED", "TYPE_CONFIRMED", "TYPE_ACTIVATED"]
    assert [change.name for change in (await published(service, FactsChanged))[-1].changes] == [given.name]


async def test_what_a_delegate_asks_for_waits_for_the_principal(service: Service):
    theme, grandmother, daughter = await make_theme(service), person(), person()
    calls_as(daughter)
    asked = await service.mandates.CreateMandate(asking(theme.name, principal=grandmother))
    assert asked.state == Mandate.STATE_REQUESTED
    confirm = api.ConfirmMandateRequest(name=asked.name, etag=asked.etag)
    assert await reason(service.mandates.ConfirmMandate(confirm)) == "WRONG_SIDE"
    calls_as(grandmother)
    listed = await service.mandates.ListMandates(
        api.ListMandatesRequest(side=api.ListMandatesRequest.SIDE_CONFIRMER, states=[Mandate.STATE_REQUESTED])
    )
    assert [one.name for one in listed.mandates] == [asked.name]
    confirmed = await service.mandates.ConfirmMandate(confirm)
    assert confirmed.state == Mandate.STATE_ACTIVE
    again = await service.mandates.ConfirmMandate(confirm)
    assert (again.etag, again.state) == (confirmed.etag, confirmed.state)
    assert [MandateEvent.Type.Name(one.type)[5:] for one in await events(service, asked)] == [
        "REQUESTED",
        "CONFIRMED",
        "ACTIVATED",
    ]


async def test_two_confirmations_at_one_instant_both_end_well(service: Service):
    theme, grandmother, daughter = await make_theme(service), person(), person()
    calls_as(daughter)
    asked = await service.mandates.CreateMandate(asking(theme.name, principal=grandmother))
    calls_as(grandmother)
    confirm = api.ConfirmMandateRequest(name=asked.name, etag=asked.etag)
    answers = await asyncio.gather(*(service.mandates.ConfirmMandate(confirm) for _ in range(5)))
    assert {answer.state for answer in answers} == {Mandate.STATE_ACTIVE}
    assert len(await events(service, asked)) == 3


async def test_a_request_is_rejected_withdrawn_or_lapses(service: Service):
    theme, grandmother, daughter = await make_theme(service), person(), person()

    async def ask() -> Mandate:
        calls_as(daughter)
        return await service.mandates.CreateMandate(asking(theme.name, principal=grandmother))

    first = await ask()
    withdrawn = await service.mandates.WithdrawMandate(api.WithdrawMandateRequest(name=first.name))
    assert withdrawn.state == Mandate.STATE_WITHDRAWN
    second = await ask()
    calls_as(grandmother)
    assert await reason(service.mandates.WithdrawMandate(api.WithdrawMandateRequest(name=second.name))) == "WRONG_SIDE"
    rejected = await service.mandates.RejectMandate(api.RejectMandateRequest(name=second.name))
    assert rejected.state == Mandate.STATE_REJECTED
    third = await ask()
    assert service.clock.time is not None
    service.clock.time += timedelta(days=31)
    lapsed = await service.mandates.GetMandate(api.GetMandateRequest(name=third.name))
    assert lapsed.state == Mandate.STATE_LAPSED
    assert (await events(service, third))[-1].type == MandateEvent.TYPE_LAPSED
    calls_as(grandmother)
    confirm = api.ConfirmMandateRequest(name=third.name, etag=third.etag)
    assert await reason(service.mandates.ConfirmMandate(confirm)) == "MANDATE_STATE"
    lapsed_only = api.ListMandatesRequest(states=[Mandate.STATE_LAPSED])
    assert [one.name for one in (await service.mandates.ListMandates(lapsed_only)).mandates] == [third.name]


async def test_either_side_ends_it_and_strangers_do_not_know_of_it(service: Service):
    theme, owner, firm = await make_theme(service), person(), company()
    first = await give(service, theme.name, owner, firm)
    calls_as(person())
    for call in (
        service.mandates.GetMandate(api.GetMandateRequest(name=first.name)),
        service.mandates.RevokeMandate(api.RevokeMandateRequest(name=first.name)),
        service.mandates.ListMandateEvents(api.ListMandateEventsRequest(parent=first.name)),
    ):
        assert await reason(call) == "RESOURCE_NOT_FOUND"
    calls_as(firm)
    assert await reason(service.mandates.RevokeMandate(api.RevokeMandateRequest(name=first.name))) == "WRONG_SIDE"
    renounced = await service.mandates.RenounceMandate(api.RenounceMandateRequest(name=first.name))
    assert (renounced.state, renounced.ending.ended_by.party) == (Mandate.STATE_RENOUNCED, firm)
    second = await give(service, theme.name, owner, firm)
    stale = api.RevokeMandateRequest(name=second.name, etag="99")
    assert await reason(service.mandates.RevokeMandate(stale)) == "ETAG_MISMATCH"
    revoked = await service.mandates.RevokeMandate(api.RevokeMandateRequest(name=second.name))
    assert revoked.state == Mandate.STATE_REVOKED
    last = (await published(service, FactsChanged))[-1]
    assert last.changes[0].fact.end_time == revoked.ending.end_time


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"days": ("2026-11-21", "2031-11-21")}, "TERM_TOO_LONG"),
        ({"days": ("2026-11-20", "2027-11-21")}, "VALIDITY_INVALID"),
        ({"specifier": "1-2-3"}, "SPECIFIER_INVALID"),
        ({"kind": REPRESENT}, "PARTY_KIND"),
        ({"theme": "themes/no-such-theme"}, "THEME_UNSUITABLE"),
        ({"principal": "persons/" + "z" * 26}, "ISSUING_RIGHT_MISSING"),
        ({"delegate": ""}, "SAME_PARTY"),
    ],
)
async def test_what_cannot_be_given_is_refused(service: Service, fields: dict[str, Any], refused: str):
    theme = await make_theme(service)
    calls_as(person())
    values = {"theme": theme.name, "delegate": person(), **fields}
    assert await reason(service.mandates.CreateMandate(asking(**values))) == refused


async def test_the_same_mandate_is_not_there_twice_in_one_time(service: Service):
    theme, owner, delegate = await make_theme(service), person(), person()
    first = await give(service, theme.name, owner, delegate, days=("2026-12-01", "2026-12-31"))
    for overlapping in (("2026-12-31", "2027-01-31"), ("", "2026-12-01"), ("2026-12-10", "2026-12-11")):
        with pytest.raises(Fault) as refusal:
            await give(service, theme.name, owner, delegate, days=overlapping)
        assert (refusal.value.reason, refusal.value.metadata) == ("MANDATE_EXISTS", {"resource": first.name})
    await give(service, theme.name, owner, delegate, days=("2027-01-01", "2027-01-31"))
    results = await asyncio.gather(
        *(give(service, theme.name, owner, delegate, days=("2027-03-01", "2027-03-31")) for _ in range(4)),
        return_exceptions=True,
    )
    assert sorted(isinstance(one, Fault) for one in results) == [False, True, True, True]


async def test_a_repeated_creation_returns_the_first_result(service: Service):
    theme, owner, delegate, request_id = await make_theme(service), person(), person(), str(uuid.uuid4())
    first = await give(service, theme.name, owner, delegate, request_id=request_id)
    again = await give(service, theme.name, owner, delegate, request_id=request_id)
    assert again.name == first.name
    other = give(service, theme.name, owner, person(), request_id=request_id)
    assert await reason(other) == "REQUEST_ID_REUSED"


async def test_judging_stores_nothing(service: Service):
    theme, owner = await make_theme(service), person()
    would = await give(service, theme.name, owner, person(), validate_only=True)
    assert would.state == Mandate.STATE_ACTIVE
    assert await reason(service.mandates.GetMandate(api.GetMandateRequest(name=would.name))) == "RESOURCE_NOT_FOUND"


async def test_several_are_given_all_or_none(service: Service):
    theme, owner = await make_theme(service), person()
    calls_as(owner)
    good = [asking(theme.name, delegate=person()).mandate for _ in range(3)]
    bad = asking(theme.name, delegate=owner).mandate
    batch = api.BatchCreateMandatesRequest(mandates=[*good, bad], request_id=str(uuid.uuid4()))
    assert await reason(service.mandates.BatchCreateMandates(batch)) == "SAME_PARTY"
    assert not (await service.mandates.ListMandates(api.ListMandatesRequest())).mandates
    del batch.mandates[3:]
    made = await service.mandates.BatchCreateMandates(batch)
    assert len({one.group_id for one in made.mandates}) == 1
    pages: list[list[str]] = []
    token = ""
    while token or not pages:
        page = await service.mandates.ListMandates(api.ListMandatesRequest(page_size=2, page_token=token))
        pages.append([one.name for one in page.mandates])
        token = page.next_page_token
    assert [name for page in pages for name in page] == sorted((one.name for one in made.mandates), reverse=True)


async def test_a_renewal_begins_when_the_old_one_ends(service: Service):
    theme, owner, delegate = await make_theme(service), person(), person()
    old = await give(service, theme.name, owner, delegate, days=("", "2026-12-31"))

    def renewal(first: str) -> api.RenewMandateRequest:
        validity = ValidityPeriod(first_day=first, last_day="2027-12-31")
        return api.RenewMandateRequest(name=old.name, validity=validity, request_id=str(uuid.uuid4()))

    assert await reason(service.mandates.RenewMandate(renewal("2026-12-31"))) == "MANDATE_STATE"
    calls_as(delegate)
    fresh = await service.mandates.RenewMandate(renewal("2027-01-01"))
    assert (fresh.state, fresh.renews) == (Mandate.STATE_REQUESTED, old.name)
    assert (await events(service, old))[-1].renewed_by == fresh.name


async def test_a_right_to_issue_lets_others_act_and_not_oneself(service: Service):
    theme = await make_theme(service, issued_end_with_issuer=True)
    owner, firm, manager, clerk = company(), company(), person(), person()
    issue = await give(service, theme.name, owner, firm, kind=ISSUE)
    await give(service, theme.name, firm, manager, kind=ISSUE_REPRESENT)
    calls_as(manager)
    another_firm = company()
    to_issue = asking(theme.name, principal=owner, delegate=another_firm, kind=ISSUE)
    assert await reason(service.mandates.CreateMandate(to_issue)) == "ISSUING_RIGHT_MISSING"
    for_oneself = await service.mandates.CreateMandate(asking(theme.name, principal=owner, delegate=manager))
    assert for_oneself.state == Mandate.STATE_REQUESTED
    given = await service.mandates.CreateMandate(asking(theme.name, principal=owner, delegate=clerk))
    assert (given.state, given.issued_under) == (Mandate.STATE_ACTIVE, issue.name)
    too_long = asking(theme.name, principal=owner, delegate=person(), days=("", "2027-07-01"))
    assert await reason(service.mandates.CreateMandate(too_long)) == "TERM_TOO_LONG"
    rights = await service.mandates.ListIssuingRights(ListIssuingRightsRequest(principal=Party(name=owner)))
    mine = [right for right in rights.rights if right.theme == theme.name]
    assert [(right.kind, right.latest_last_day, right.issued_under) for right in mine] == [
        (ACT, "2027-06-30", issue.name)
    ]
    calls_as(owner)
    await service.mandates.RevokeMandate(api.RevokeMandateRequest(name=issue.name))
    ended = await service.mandates.GetMandate(api.GetMandateRequest(name=given.name))
    assert ended.state == Mandate.STATE_INVALIDATED
    calls_as(manager)
    more = asking(theme.name, principal=owner, delegate=person())
    assert await reason(service.mandates.CreateMandate(more)) == "ISSUING_RIGHT_MISSING"


async def test_a_consistency_token_of_another_node_or_of_the_future_is_refused(service: Service):
    theme = await make_theme(service)
    token = theme.consistency_token
    other_node = "00" * 8 + token[16:]
    future = f"{token[:16]}{int(token[16:], 16) + 1000:016x}"
    for wrong in (other_node, future, "nonsense", token[:-1], token + "00"):
        call = service.themes.GetTheme(GetThemeRequest(name=theme.name, consistency_token=wrong))
        assert await reason(call) == "CONSISTENCY_TOKEN_UNKNOWN"
    later = await give(service, theme.name, person(), person())
    assert token < later.consistency_token
    await service.themes.GetTheme(GetThemeRequest(name=theme.name, consistency_token=later.consistency_token))


async def test_revisions_have_the_order_of_commits_and_no_gaps(service: Service):
    theme, owner = await make_theme(service), person()
    made = await asyncio.gather(*(give(service, theme.name, owner, person()) for _ in range(20)))
    tokens = sorted(one.consistency_token for one in made)
    assert len(set(tokens)) == 20
    rows = await service.database.fetch("select distinct revision from fact_change order by revision")
    numbers = [row["revision"] for row in rows]
    assert numbers == list(range(numbers[0], numbers[-1] + 1))


async def test_a_theme_never_changes_once_active_and_hiding_it_ends_nothing(service: Service):
    draft = await make_theme(service, activate=False)
    owner = person()
    assert await reason(give(service, draft.name, owner, person())) == "THEME_NOT_IN_USE"
    calls_as(CITY)
    active = await service.themes.ActivateTheme(ActivateThemeRequest(name=draft.name, etag=draft.etag))
    assert active.state == Theme.STATE_ACTIVE
    given = await give(service, draft.name, owner, person())
    calls_as(CITY)
    hidden = await service.themes.HideTheme(HideThemeRequest(name=draft.name))
    assert hidden.state == Theme.STATE_HIDDEN
    assert await reason(give(service, draft.name, owner, person())) == "THEME_NOT_IN_USE"
    kept = await service.mandates.GetMandate(api.GetMandateRequest(name=given.name))
    assert kept.state == Mandate.STATE_ACTIVE


async def search(service: Service, **fields: Any) -> list[Mandate]:
    request = api.SearchMandatesRequest(**{"purpose": "case 5", **fields})
    return list((await service.mandates.SearchMandates(request)).mandates)


async def test_an_officer_finds_mandates_of_any_party(service: Service):
    theme, other = await make_theme(service), await make_theme(service)
    owner, helper = person(), person()
    first = await give(service, theme.name, owner, helper)
    second = await give(service, other.name, owner, person())
    calls_as(person(), client="case-system")
    by_owner = await search(service, principal=Party(name=owner))
    assert [one.name for one in by_owner] == [second.name, first.name]
    assert [one.name for one in await search(service, delegate=Party(name=helper))] == [first.name]
    both = await search(service, principal=Party(name=owner), delegate=Party(name=helper))
    assert [one.name for one in both] == [first.name]
    assert not await search(service, principal=Party(name=helper), delegate=Party(name=owner))
    in_theme = await search(service, principal=Party(name=owner), theme=other.name)
    assert [one.name for one in in_theme] == [second.name]
    assert await reason(search(service)) == "FIELD_INVALID"
    stale = search(service, principal=Party(name=owner), consistency_token="00" * 16)
    assert await reason(stale) == "CONSISTENCY_TOKEN_UNKNOWN"


async def test_a_search_shows_mandates_as_they_stood(service: Service):
    theme, owner, helper = await make_theme(service), person(), person()
    calls_as(helper)
    asked = await service.mandates.CreateMandate(asking(theme.name, principal=owner))
    calls_as(owner)
    confirmed = await service.mandates.ConfirmMandate(api.ConfirmMandateRequest(name=asked.name, etag=asked.etag))
    revoked = await service.mandates.RevokeMandate(api.RevokeMandateRequest(name=asked.name))
    calls_as(person())

    async def at(time: Any) -> list[tuple[int, int, bool]]:
        found = await search(service, principal=Party(name=owner), at=time)
        return [(one.state, len(one.confirmations), one.HasField("ending")) for one in found]

    assert await at(timestamp(instant(asked.create_time) - timedelta(milliseconds=1))) == []
    assert await at(asked.create_time) == [(Mandate.STATE_REQUESTED, 0, False)]
    assert await at(confirmed.confirm_time) == [(Mandate.STATE_ACTIVE, 1, False)]
    assert await at(revoked.ending.end_time) == [(Mandate.STATE_REVOKED, 1, True)]
    future = timestamp(instant(asked.create_time) + timedelta(days=1000))
    assert await at(future) == [(Mandate.STATE_REVOKED, 1, True)]


async def test_a_search_goes_page_by_page_and_its_parties_see_it(service: Service):
    theme, owner = await make_theme(service), person()
    made = [(await give(service, theme.name, owner, person())) for _ in range(3)]
    calls_as(person(), client="case-system")
    names: list[str] = []
    token = ""
    while True:
        request = api.SearchMandatesRequest(
            principal=Party(name=owner), page_size=2, page_token=token, purpose="case 5"
        )
        page = await service.mandates.SearchMandates(request)
        names += [one.name for one in page.mandates]
        token = page.next_page_token
        if not token:
            break
    assert names == [one.name for one in made][::-1]
    for party, looks in ((owner, 2), (made[0].delegate.name, 1)):
        calls_as(party)
        own = (await service.audit.ListOwnAuditRecords(audit_pb2.ListOwnAuditRecordsRequest())).records
        seen = [one for one in own if one.kind == audit_pb2.AuditRecord.KIND_LOOKUP]
        assert [one.actor.client for one in seen] == ["clients/case-system"] * looks
        assert {one.method.rpartition("/")[2] for one in seen} == {"SearchMandates"}
        assert not any(one.purpose for one in seen)


async def test_who_confirms_must_be_known_as_surely_as_the_theme_says(service: Service):
    theme = await make_theme(service, assurance_level=ASSURANCE_LEVEL_SUBSTANTIAL)
    owner, helper = person(), person()
    calls_as(helper)
    asked = await service.mandates.CreateMandate(asking(theme.name, principal=owner))
    confirm = api.ConfirmMandateRequest(name=asked.name, etag=asked.etag)
    for level in ("", "low"):
        calls_as(owner, level=level)
        with pytest.raises(Fault) as refused:
            await service.mandates.ConfirmMandate(confirm)
        assert (refused.value.reason, refused.value.metadata) == (
            "ASSURANCE_TOO_LOW",
            {"assurance_level": "SUBSTANTIAL"},
        )
        assert await reason(service.mandates.CreateMandate(asking(theme.name, delegate=person()))) == (
            "ASSURANCE_TOO_LOW"
        )
    calls_as(owner, level="high")
    confirmed = await service.mandates.ConfirmMandate(confirm)
    assert (confirmed.state, confirmed.confirmations[0].assurance_level) == (Mandate.STATE_ACTIVE, 3)
    calls_as(owner)
    revoked = await service.mandates.RevokeMandate(api.RevokeMandateRequest(name=asked.name))
    assert revoked.state == Mandate.STATE_REVOKED, "a right is ended by whoever may, known how surely soever"


async def test_an_organisations_system_is_known_by_its_certificate(service: Service):
    theme = await make_theme(service, assurance_level=ASSURANCE_LEVEL_SUBSTANTIAL)
    assert (await give(service, theme.name, company(), person())).state == Mandate.STATE_ACTIVE
