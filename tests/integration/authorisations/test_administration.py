"""What an authority's officers do, two of them together."""

import asyncio
import uuid
from datetime import timedelta
from typing import Any

import pytest
from solmu.authorisations.v1 import audit_pb2, mandate_service_pb2
from solmu.authorisations.v1.administration_pb2 import (
    ApproveProposalRequest,
    CreateProposalRequest,
    GetProposalRequest,
    ListProposalsRequest,
    Proposal,
    RejectProposalRequest,
    WithdrawProposalRequest,
)
from solmu.authorisations.v1.audit_pb2 import AuditRecord
from solmu.authorisations.v1.mandates_pb2 import Ending, Mandate, MandateEvent
from solmu.authorisations.v1.parties_pb2 import Party, ValidityPeriod
from solmu.authorisations.v1.register_records_pb2 import Block
from solmu.authorisations.v1.registers_pb2 import SearchRecordsRequest
from solmu.types.v1.types_pb2 import NationalIdentifier

from services.runtime.errors import Fault
from tests.integration.authorisations.people import asking, company, give, make_theme, person
from tests.integration.authorisations.service import Service, calls_as
from tests.integration.authorisations.test_checks import ALLOWED, DENIED, check
from tests.integration.authorisations.test_mandates import events, reason
from tests.integration.authorisations.test_registers import Keeper, block
from tests.integration.authorisations.test_watch import Follower

FIRST, SECOND = "persons/" + "f" * 26, "persons/" + "s" * 26


async def propose(
    service: Service, *, officer: str = FIRST, request_id: str = "", purpose: str = "case 7", **change: Any
) -> Proposal:
    calls_as(officer, client="case-system")
    request = CreateProposalRequest(
        proposal=Proposal(purpose=purpose, **change), request_id=request_id or str(uuid.uuid4())
    )
    return await service.administration.CreateProposal(request)


async def approve(service: Service, proposal: Proposal, *, officer: str = SECOND, client: str = "cases") -> Proposal:
    calls_as(officer, client=client)
    request = ApproveProposalRequest(name=proposal.name, etag=proposal.etag)
    return await service.administration.ApproveProposal(request)


async def get(service: Service, proposal: Proposal) -> Proposal:
    return await service.administration.GetProposal(GetProposalRequest(name=proposal.name))


def giving(theme: str, owner: str, helper: str, **fields: Any) -> Proposal.GiveMandate:
    return Proposal.GiveMandate(mandate=asking(theme, principal=owner, delegate=helper, **fields).mandate)


def placing(blocked: str, *, days: tuple[str, str] = ("", ""), **fields: Any) -> Proposal.PlaceBlock:
    values: dict[str, Any] = {"party": Party(name=blocked), "kind": "under-inquiry", "effect": Block.EFFECT_BOTH}
    return Proposal.PlaceBlock(
        block=Block(**values | fields), validity=ValidityPeriod(first_day=days[0], last_day=days[1])
    )


async def recorded(service: Service, resource: str) -> list[AuditRecord]:
    request = audit_pb2.SearchAuditRecordsRequest(resource=resource, purpose="test")
    return list((await service.audit.SearchAuditRecords(request)).records)[::-1]


async def test_a_mandate_applied_for_on_paper_is_active_once_a_second_officer_approves(service: Service):
    theme, owner, helper = await make_theme(service), person(), person()
    proposal = await propose(service, give_mandate=giving(theme.name, owner, helper))
    assert (proposal.state, proposal.result) == (Proposal.STATE_PENDING, "")
    assert (await check(service, theme.name, helper, owner)).decision == DENIED, "nothing happens before"
    done = await approve(service, proposal)
    assert (done.state, done.proposed_by.party, done.decided_by.party) == (Proposal.STATE_APPROVED, FIRST, SECOND)
    answer = await check(service, theme.name, helper, owner, consistency_token=done.consistency_token)
    assert (answer.decision, list(answer.mandates)) == (ALLOWED, [done.result])

    calls_as(owner)
    given = await service.mandates.GetMandate(mandate_service_pb2.GetMandateRequest(name=done.result))
    assert (given.state, given.requested_by.party) == (Mandate.STATE_ACTIVE, FIRST)
    assert not given.confirmations
    happened = [(one.type, one.actor.party) for one in await events(service, given)]
    assert happened == [(MandateEvent.TYPE_REQUESTED, FIRST), (MandateEvent.TYPE_ACTIVATED, SECOND)]
    revoked = await service.mandates.RevokeMandate(mandate_service_pb2.RevokeMandateRequest(name=given.name))
    assert revoked.state == Mandate.STATE_REVOKED, "it is the principal's as any other"


async def test_a_mandate_is_ended_with_what_was_given_under_it(service: Service):
    theme = await make_theme(service, issued_end_with_issuer=True)
    owner, issuer, helper = company(), person(), person()
    issuing = await give(service, theme.name, owner, issuer, kind=3)
    calls_as(issuer)
    under = await service.mandates.CreateMandate(asking(theme.name, principal=owner, delegate=helper))
    assert under.issued_under == issuing.name
    done = await approve(service, await propose(service, end_mandate=Proposal.EndMandate(mandate=issuing.name)))
    assert done.result == issuing.name
    calls_as(owner)
    ended = await service.mandates.GetMandate(mandate_service_pb2.GetMandateRequest(name=issuing.name))
    assert (ended.ending.cause, ended.ending.proposal) == (Ending.CAUSE_OFFICER, done.name)
    assert (ended.ending.ended_by.party, ended.state) == (SECOND, Mandate.STATE_INVALIDATED)
    assert (await check(service, theme.name, helper, owner)).decision == DENIED
    again = propose(service, end_mandate=Proposal.EndMandate(mandate=issuing.name))
    assert await reason(again) == "MANDATE_STATE"


async def test_a_block_holds_from_its_approval_until_it_is_lifted_by_two_again(service: Service):
    theme, owner, helper = await make_theme(service), person(), person()
    await give(service, theme.name, owner, helper)
    follower = Follower(service)
    await follower.step()
    placed = await approve(service, await propose(service, place_block=placing(helper)))
    assert placed.result.startswith("blocks/")
    assert (await check(service, theme.name, helper, owner)).decision == DENIED
    await follower.until(placed.consistency_token)
    fact = follower.facts[placed.result]
    assert (fact.block.party, fact.block.kind, fact.HasField("end_time")) == (helper, "under-inquiry", False)
    calls_as(FIRST)
    found = await service.registers.SearchRecords(SearchRecordsRequest(party=Party(name=helper), purpose="case 7"))
    assert [record.name for record in found.records] == [placed.result]
    other = await make_theme(service)
    calls_as(owner)
    assert await reason(service.mandates.CreateMandate(asking(other.name, delegate=helper))) == "PARTY_NOT_ELIGIBLE"

    lifting = await propose(service, lift_block=Proposal.LiftBlock(block=placed.result))
    assert (await check(service, theme.name, helper, owner)).decision == DENIED
    lifted = await approve(service, lifting)
    assert (lifted.result, (await check(service, theme.name, helper, owner)).decision) == (placed.result, ALLOWED)
    await follower.until(lifted.consistency_token)
    assert follower.facts[placed.result].HasField("end_time")
    again = propose(service, lift_block=Proposal.LiftBlock(block=placed.result))
    assert await reason(again) == "BLOCK_NOT_LIFTABLE"


async def test_a_block_has_a_period_a_counterpart_and_effects_as_those_of_registers(service: Service):
    theme, owner, other, helper = await make_theme(service), person(), person(), person()
    for one in (owner, other):
        await give(service, theme.name, one, helper)
    between = placing(helper, days=("2026-12-01", "2026-12-31"), counterpart=Party(name=owner), effect=1)
    await approve(service, await propose(service, place_block=between))
    assert service.clock.time is not None
    later = service.clock.time + timedelta(days=15)
    for at, principal, decision in (
        (None, owner, ALLOWED), (later, owner, DENIED), (later, other, ALLOWED),
        (later + timedelta(days=30), owner, ALLOWED),
    ):  # fmt: skip
        assert (await check(service, theme.name, helper, principal, at=at)).decision == decision
    over = placing(helper, days=("2026-01-01", "2026-02-01"))
    assert await reason(propose(service, place_block=over)) == "VALIDITY_INVALID"


async def test_what_registers_say_is_not_the_officers_to_change(service: Service):
    party = person()
    keeper = await Keeper.of(service, ["block"])
    await keeper.says(block(party, Block.EFFECT_BOTH, kind="business-ban"))
    for kind in ("business-ban", "dead", "dissolved"):
        assert await reason(propose(service, place_block=placing(person(), kind=kind))) == "FIELD_INVALID"
    row = await service.database.fetchrow("select record from register_record where subject = $1", party)
    assert row is not None
    lift = Proposal.LiftBlock(block=f"blocks/{row['record']}")
    assert await reason(propose(service, lift_block=lift)) == "BLOCK_NOT_LIFTABLE"
    nothing = Proposal.LiftBlock(block=f"blocks/{uuid.uuid4()}")
    assert await reason(propose(service, lift_block=nothing)) == "RESOURCE_NOT_FOUND"


async def test_one_person_is_one_whatever_client_they_use(service: Service):
    party = person()
    proposal = await propose(service, place_block=placing(party))
    for client in ("case-system", "another-system"):
        assert await reason(approve(service, proposal, officer=FIRST, client=client)) == "FOUR_EYES_NEEDED"
    reject = RejectProposalRequest(name=proposal.name)
    assert await reason(service.administration.RejectProposal(reject)) == "FOUR_EYES_NEEDED"
    assert (await get(service, proposal)).state == Proposal.STATE_PENDING


async def test_a_system_is_no_officer(service: Service):
    proposal = await propose(service, place_block=placing(person()))
    office = company()
    assert await reason(propose(service, officer=office, place_block=placing(person()))) == "PERSON_NEEDED"
    assert await reason(approve(service, proposal, officer=office)) == "PERSON_NEEDED"


async def test_a_proposal_is_decided_once(service: Service):
    party = person()
    proposal = await propose(service, place_block=placing(party))
    stale = Proposal(name=proposal.name, etag="0")
    assert await reason(approve(service, stale)) == "ETAG_MISMATCH"
    done = await approve(service, proposal)
    assert await approve(service, proposal) == done, "asked again, nothing more happens"
    rows = await service.database.fetch("select record from register_record where subject = $1", party)
    assert len(rows) == 1
    third = "persons/" + "t" * 26
    with pytest.raises(Fault) as refused:
        await approve(service, done, officer=third)
    assert (refused.value.reason, refused.value.metadata["state"]) == ("PROPOSAL_STATE", "APPROVED")
    calls_as(FIRST)
    withdraw = WithdrawProposalRequest(name=proposal.name)
    assert await reason(service.administration.WithdrawProposal(withdraw)) == "PROPOSAL_STATE"


async def test_two_approvals_at_one_instant_apply_it_once(service: Service):
    party = person()
    proposal = await propose(service, place_block=placing(party))

    async def one(officer: str) -> str:
        try:
            return str((await approve(service, proposal, officer=officer)).decided_by.party)
        except Fault as fault:
            return fault.reason

    officers = [person(), person()]
    outcomes = await asyncio.gather(*(asyncio.create_task(one(officer)) for officer in officers))
    assert {"PROPOSAL_STATE"} == set(outcomes) - set(officers)
    assert len(set(outcomes) & set(officers)) == 1
    rows = await service.database.fetch("select record from register_record where subject = $1", party)
    assert len(rows) == 1


async def test_a_proposal_can_be_refused_and_taken_back(service: Service):
    refused, back = [await propose(service, place_block=placing(person())) for _ in range(2)]
    calls_as(SECOND)
    request = WithdrawProposalRequest(name=back.name)
    assert await reason(service.administration.WithdrawProposal(request)) == "WRONG_SIDE"
    done = await service.administration.RejectProposal(RejectProposalRequest(name=refused.name))
    assert (done.state, done.decided_by.party) == (Proposal.STATE_REJECTED, SECOND)
    calls_as(FIRST, client="another-system")
    assert (await service.administration.WithdrawProposal(request)).state == Proposal.STATE_WITHDRAWN
    for one in (refused, back):
        assert await reason(approve(service, await get(service, one))) == "PROPOSAL_STATE"
        rows = await service.database.fetch(
            "select record from register_record where subject = $1", one.place_block.block.party.name
        )
        assert not rows


async def test_a_proposal_lapses(service: Service):
    proposal = await propose(service, place_block=placing(person()))
    assert service.clock.time is not None
    service.clock.time += timedelta(days=7)
    assert (await get(service, proposal)).state == Proposal.STATE_LAPSED
    assert await reason(approve(service, proposal)) == "PROPOSAL_STATE"
    request = ListProposalsRequest(state=Proposal.STATE_LAPSED, page_size=1)
    [newest] = (await service.administration.ListProposals(request)).proposals
    assert newest.name == proposal.name


async def test_what_can_no_longer_be_applied_stays_pending_with_the_refusal_of_the_change(service: Service):
    theme, owner, helper = await make_theme(service), person(), person()
    proposal = await propose(service, give_mandate=giving(theme.name, owner, helper))
    given = await give(service, theme.name, owner, helper)
    assert await reason(approve(service, proposal)) == "MANDATE_EXISTS"
    assert (await get(service, proposal)).state == Proposal.STATE_PENDING
    calls_as(owner)
    await service.mandates.RevokeMandate(mandate_service_pb2.RevokeMandateRequest(name=given.name))
    assert (await approve(service, proposal)).state == Proposal.STATE_APPROVED


async def test_what_could_not_be_applied_is_not_proposed(service: Service):
    theme, owner = await make_theme(service), person()
    for change, why in (
        (giving("themes/no-such-theme", owner, person()), "THEME_UNSUITABLE"),
        (giving(theme.name, owner, owner), "SAME_PARTY"),
        (giving(theme.name, owner, person(), days=("", "2099-01-01")), "TERM_TOO_LONG"),
        (Proposal.GiveMandate(mandate=asking(theme.name, delegate=owner).mandate), "FIELD_INVALID"),
    ):
        assert await reason(propose(service, give_mandate=change)) == why
    gone = Proposal.EndMandate(mandate=f"mandates/{uuid.uuid4()}")
    assert await reason(propose(service, end_mandate=gone)) == "RESOURCE_NOT_FOUND"


async def test_a_repeated_request_is_known_and_another_content_refused(service: Service):
    party, request_id = person(), str(uuid.uuid4())
    first = await propose(service, request_id=request_id, place_block=placing(party))
    assert await propose(service, request_id=request_id, place_block=placing(party)) == first
    other = propose(service, request_id=request_id, place_block=placing(party), purpose="case 8")
    assert await reason(other) == "REQUEST_ID_REUSED"
    assert await propose(service, officer=SECOND, request_id=request_id, place_block=placing(party)) != first


async def test_identity_codes_are_kept_nowhere(service: Service):
    theme = await make_theme(service)
    code = NationalIdentifier(scheme=NationalIdentifier.SCHEME_FI_HETU, value="150390-900B")
    mandate = asking(theme.name, principal=person()).mandate
    mandate.delegate.identifier.CopyFrom(code)
    proposal = await propose(service, give_mandate=Proposal.GiveMandate(mandate=mandate))
    assert proposal.give_mandate.mandate.delegate.name.startswith("persons/")
    for table in ("proposal", "audit_record", "outbox"):
        rows = await service.database.fetch(f"select t::text as row from {table} t")
        assert not any("150390" in row["row"] or b"150390".hex() in row["row"] for row in rows)


async def test_both_officers_and_the_case_are_on_record_and_the_parties_see_it(service: Service):
    theme, owner, helper = await make_theme(service), person(), person()
    given = await give(service, theme.name, owner, helper)
    proposal = await propose(service, end_mandate=Proposal.EndMandate(mandate=given.name), purpose="case 99")
    await approve(service, proposal)
    proposing, approving = await recorded(service, proposal.name)
    assert [one.kind for one in (proposing, approving)] == [AuditRecord.KIND_PROPOSAL] * 2
    assert [one.actor.party for one in (proposing, approving)] == [FIRST, SECOND]
    assert [one.actor.client for one in (proposing, approving)] == ["clients/case-system", "clients/cases"]
    assert {one.purpose for one in (proposing, approving)} == {"case 99"}
    assert [one.method.rpartition("/")[2] for one in (proposing, approving)] == ["CreateProposal", "ApproveProposal"]
    for party in (owner, helper):
        calls_as(party)
        own = (await service.audit.ListOwnAuditRecords(audit_pb2.ListOwnAuditRecordsRequest())).records
        seen = [(one.resource, [each.name for each in one.parties], one.purpose) for one in own]
        assert seen.count((proposal.name, [party], "")) == 2


async def test_proposals_are_listed_newest_first_in_pages(service: Service):
    made = [(await propose(service, place_block=placing(person()))).name for _ in range(3)]
    listed: list[str] = []
    token = ""
    while len(listed) < 3:
        request = ListProposalsRequest(state=Proposal.STATE_PENDING, page_size=2, page_token=token)
        page = await service.administration.ListProposals(request)
        listed += [one.name for one in page.proposals]
        token = page.next_page_token
    assert listed[:3] == made[::-1]
