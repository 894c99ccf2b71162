"""AdministrationService: what an authority's officers do, two of them together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from solmu.authorisations.v1 import administration_pb2 as service
from solmu.authorisations.v1.audit_pb2 import AuditRecord

from services.authorisations import callers, messages, proposal_store, proposals
from services.authorisations.officers import Decision, Officers
from services.authorisations.proposals import Proposal, State
from services.authorisations.revisions import Revisions, Write
from services.runtime import pages
from services.runtime.database import Connection, Database
from services.runtime.errors import AlreadyExists, not_found


class AdministrationServicer:
    """Answers AdministrationService. `clock` gives the time, with its zone."""

    def __init__(
        self,
        *,
        database: Database,
        revisions: Revisions,
        officers: Officers,
        clock: Callable[[], datetime],
        new_id: Callable[[], UUID],
    ) -> None:
        self._database = database
        self._revisions = revisions
        self._officers = officers
        self._clock = clock
        self._new_id = new_id

    async def CreateProposal(self, request: service.CreateProposalRequest) -> service.Proposal:
        """Proposes a change that could be made now."""
        actor, now = proposals.officer(callers.party_actor()), self._clock()
        change, request_id = self._officers.change(request.proposal), UUID(request.request_id)
        kept = change.SerializeToString(deterministic=True)
        digest = hashlib.sha256(repr((kept, request.proposal.purpose)).encode()).digest()
        async with self._revisions.writing("AdministrationService/CreateProposal") as write:
            known = await proposal_store.remembered(write.transaction, officer=actor.person, request_id=request_id)
            if known is not None:
                return _message(_same(known, digest, request.request_id), now=now)
            await self._officers.judge(write.transaction, change, actor, now=now)
            proposal = proposals.proposed(
                proposal_id=self._new_id(), change=kept, purpose=request.proposal.purpose, actor=actor, now=now
            )
            proposal = replace(proposal, token=write.token)
            await proposal_store.insert(write.transaction, proposal, request_id=request_id, digest=digest)
            await self._note(write, proposal)
        return _message(proposal, now=now)

    async def GetProposal(self, request: service.GetProposalRequest) -> service.Proposal:
        """Returns a proposal."""
        return _message(await _find(self._database, request.name), now=self._clock())

    async def ListProposals(self, request: service.ListProposalsRequest) -> service.ListProposalsResponse:
        """Returns a page of proposals, the newest first."""
        now, size, question = self._clock(), pages.size(request.page_size), f"proposals {request.state}"
        last = pages.key(request.page_token, question=question)
        found = await proposal_store.page(
            self._database, state=request.state, at=now, before=UUID(last) if last else None, size=size + 1
        )
        more = len(found) > size
        return service.ListProposalsResponse(
            proposals=[_message(one, now=now) for one in found[:size]],
            next_page_token=pages.token(str(found[size - 1].proposal_id), question=question) if more else "",
        )

    async def ApproveProposal(self, request: service.ApproveProposalRequest) -> service.Proposal:
        """Approves a proposal and applies it, in one transaction."""
        now = self._clock()
        async with self._revisions.writing("AdministrationService/ApproveProposal") as write:
            proposal = await _find(write.transaction, request.name)
            actor = callers.party_actor()
            fresh = proposals.decided(proposal, State.APPROVED, actor=actor, etag=request.etag, now=now)
            if fresh is not proposal:
                decision = Decision(name=proposal.name, proposed_by=proposal.proposed_by, approved_by=actor, now=now)
                result = await self._officers.apply(write, _change(proposal), decision)
                fresh = replace(fresh, result=result, token=write.token)
                await self._keep(write, fresh)
        return _message(fresh, now=now)

    async def RejectProposal(self, request: service.RejectProposalRequest) -> service.Proposal:
        """Refuses a proposal."""
        now = self._clock()
        async with self._revisions.writing("AdministrationService/RejectProposal") as write:
            proposal = await _find(write.transaction, request.name)
            actor = callers.party_actor()
            fresh = proposals.decided(proposal, State.REJECTED, actor=actor, etag=request.etag, now=now)
            if fresh is not proposal:
                await self._keep(write, fresh)
        return _message(fresh, now=now)

    async def WithdrawProposal(self, request: service.WithdrawProposalRequest) -> service.Proposal:
        """Takes a proposal back."""
        now = self._clock()
        async with self._revisions.writing("AdministrationService/WithdrawProposal") as write:
            proposal = await _find(write.transaction, request.name)
            fresh = proposals.withdrawn(proposal, actor=callers.party_actor(), etag=request.etag, now=now)
            if fresh is not proposal:
                await self._keep(write, fresh)
        return _message(fresh, now=now)

    async def _keep(self, write: Write, proposal: Proposal) -> None:
        await proposal_store.update(write.transaction, proposal)
        await self._note(write, proposal)

    async def _note(self, write: Write, proposal: Proposal) -> None:
        parties = await self._officers.parties(write.transaction, _change(proposal))
        concerned = sorted({party for party in parties if party})
        write.note(AuditRecord.KIND_PROPOSAL, proposal.name, *concerned, purpose=proposal.purpose)


async def _find(reader: Database | Connection, name: str) -> Proposal:
    proposal = await proposal_store.find(reader, messages.uid(name))
    if proposal is None:
        raise not_found(name)
    return proposal


def _same(known: tuple[bytes, Proposal], digest: bytes, request_id: str) -> Proposal:
    if known[0] != digest:
        raise AlreadyExists("REQUEST_ID_REUSED", "the request id was used for another content", request_id=request_id)
    return known[1]


def _change(proposal: Proposal) -> service.Proposal:
    return service.Proposal.FromString(proposal.change)


def _message(proposal: Proposal, *, now: datetime) -> service.Proposal:
    message = _change(proposal)
    message.MergeFrom(
        service.Proposal(
            name=proposal.name,
            purpose=proposal.purpose,
            state=proposal.state(now),  # type: ignore[arg-type]
            proposed_by=messages.actor(proposal.proposed_by),
            decided_by=messages.actor(proposal.decided_by) if proposal.decided_by else None,
            create_time=messages.timestamp(proposal.create_time),
            expire_time=messages.timestamp(proposal.expire_time),
            decide_time=messages.timestamp(proposal.decide_time),
            result=proposal.result,
            etag=proposal.etag,
            consistency_token=proposal.token,
        )
    )
    return message
