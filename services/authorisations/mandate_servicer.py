"""MandateService: what parties do with mandates."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

from solmu.authorisations.v1 import mandate_service_pb2 as service
from solmu.authorisations.v1 import mandates_pb2
from solmu.authorisations.v1.audit_pb2 import AuditRecord
from solmu.authorisations.v1.issuing_rights_pb2 import (
    IssuingRight,
    ListIssuingRightsRequest,
    ListIssuingRightsResponse,
)
from solmu.authorisations.v1.parties_pb2 import Party

from services.authorisations import acting, callers, issuing, mandate_store, mandates, messages
from services.authorisations.audit_log import AuditLog
from services.authorisations.issuing import Draft, Issuing, keep
from services.authorisations.mandates import Actor, Mandate, State, Step
from services.authorisations.revisions import Revisions, Write
from services.runtime import pages
from services.runtime.database import Connection, Database
from services.runtime.errors import AlreadyExists, InvalidArgument, PermissionDenied, not_found
from services.runtime.parties import PartyNames


class MandateServicer:
    """Answers MandateService. `clock` gives the time, with its zone."""

    def __init__(
        self,
        *,
        database: Database,
        revisions: Revisions,
        issuing: Issuing,
        audit: AuditLog,
        parties: PartyNames,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._revisions = revisions
        self._issuing = issuing
        self._audit = audit
        self._parties = parties
        self._clock = clock

    async def CreateMandate(self, request: service.CreateMandateRequest) -> mandates_pb2.Mandate:
        """Gives or asks for a mandate."""
        made, token = await self._create(
            "CreateMandate", [request.mandate], request.request_id, validate_only=request.validate_only
        )
        return messages.mandate(made[0], now=self._clock(), token=token)

    async def BatchCreateMandates(
        self, request: service.BatchCreateMandatesRequest
    ) -> service.BatchCreateMandatesResponse:
        """Gives or asks for several mandates, all or none."""
        made, token = await self._create(
            "BatchCreateMandates", request.mandates, request.request_id, validate_only=request.validate_only
        )
        now = self._clock()
        return service.BatchCreateMandatesResponse(
            mandates=[messages.mandate(one, now=now) for one in made], consistency_token=token
        )

    async def RenewMandate(self, request: service.RenewMandateRequest) -> mandates_pb2.Mandate:
        """Makes a new mandate like an old one, for another period."""
        old = await self._visible(self._database, request.name)
        like = mandates_pb2.Mandate(
            kind=old.kind,  # type: ignore[arg-type]
            theme=old.theme,
            specifier=old.specifier,
            validity=request.validity,
        )
        like.principal.name, like.delegate.name = old.principal, old.delegate
        made, token = await self._create("RenewMandate", [like], request.request_id, renews=old)
        return messages.mandate(made[0], now=self._clock(), token=token)

    async def GetMandate(self, request: service.GetMandateRequest) -> mandates_pb2.Mandate:
        """Returns a mandate to those it concerns."""
        token = await self._revisions.head(request.consistency_token)
        mandate = await self._visible(self._database, request.name)
        return messages.mandate(mandate, now=self._clock(), token=token)

    async def ListMandates(self, request: service.ListMandatesRequest) -> service.ListMandatesResponse:
        """Returns a page of the caller's mandates."""
        token = await self._revisions.head(request.consistency_token)
        party, side, theme = callers.party_actor().party, request.side, acting.theme() or request.theme
        if request.theme not in ("", theme):
            raise PermissionDenied("MANDATE_NOT_ENOUGH", "the token is for another theme")
        every = side == request.SIDE_UNSPECIFIED
        question = f"mandates {party} {side} {sorted(request.states)} {theme}"
        at, before = _position(request.page_token, question, self._clock())
        size = pages.size(request.page_size)
        found = await mandate_store.page(
            self._database,
            principal=party if every or side == request.SIDE_PRINCIPAL else None,
            delegate=party if every or side == request.SIDE_DELEGATE else None,
            confirmer=party if every or side == request.SIDE_CONFIRMER else None,
            theme_id=theme.removeprefix("themes/"),
            states=[State(state) for state in request.states],
            at=at,
            before=before,
            size=size + 1,
        )
        return service.ListMandatesResponse(
            mandates=[messages.mandate(one, now=at) for one in found[:size] if acting.may_read(one)],
            next_page_token=_next(found, size, question, at),
            consistency_token=token,
        )

    async def SearchMandates(self, request: service.SearchMandatesRequest) -> service.SearchMandatesResponse:
        """Finds mandates of any party, and records that somebody looked."""
        token = await self._revisions.head(request.consistency_token)
        principal, delegate = self._named(request, "principal"), self._named(request, "delegate")
        if not principal and not delegate:
            raise InvalidArgument(
                "FIELD_INVALID", "a search needs a party", violations=[("principal", "or delegate is needed")]
            )
        then = messages.instant(request.at) if request.HasField("at") else None
        question = f"search mandates {principal} {delegate} {request.theme} {then}"
        at, before = _position(request.page_token, question, then or self._clock())
        size = pages.size(request.page_size)
        found = await mandate_store.page(
            self._database,
            principal=principal or None,
            delegate=delegate or None,
            theme_id=request.theme.removeprefix("themes/"),
            states=(),
            at=at,
            before=before,
            size=size + 1,
            everyone=True,
            asked_for_by=then,
        )
        await self._looked_up("SearchMandates", {principal, delegate}, found[:size], purpose=request.purpose)
        stood = [mandates.as_of(one, then) if then else one for one in found[:size]]
        return service.SearchMandatesResponse(
            mandates=[messages.mandate(one, now=at) for one in stood if one is not None],
            next_page_token=_next(found, size, question, at),
            consistency_token=token,
        )

    async def ListMandateEvents(self, request: service.ListMandateEventsRequest) -> service.ListMandateEventsResponse:
        """Returns a page of what happened to a mandate."""
        await self._revisions.head(request.consistency_token)
        mandate = await self._visible(self._database, request.parent)
        happened = mandates.history(
            mandate, await mandate_store.events(self._database, mandate.mandate_id), now=self._clock()
        )
        question, size = f"events {request.parent}", pages.size(request.page_size)
        first = int(pages.key(request.page_token, question=question) or 0)
        last = first + size
        return service.ListMandateEventsResponse(
            events=[
                messages.mandate_event(mandate.name, number, one)
                for number, one in enumerate(happened[first:last], start=first + 1)
            ],
            next_page_token=pages.token(str(last), question=question) if len(happened) > last else "",
        )

    async def ConfirmMandate(self, request: service.ConfirmMandateRequest) -> mandates_pb2.Mandate:
        """Confirms a request; with the last confirmation it takes effect."""

        async def step(mandate: Mandate, actor: Actor, transaction: Connection) -> Step:
            now = self._clock()
            confirmed = mandates.confirmed(
                mandate,
                actor=actor,
                etag=request.etag,
                now=now,
                needed_level=await self._issuing.needed_level(transaction, mandate),
                still_may=await self._issuing.may_confirm(transaction, mandate, actor, now=now),
            )
            return await self._issuing.foreseen(transaction, confirmed, now=now)

        return await self._change("ConfirmMandate", request.name, step)

    async def RejectMandate(self, request: service.RejectMandateRequest) -> mandates_pb2.Mandate:
        """Refuses a request."""

        async def step(mandate: Mandate, actor: Actor, _: Connection) -> Step:
            return mandates.rejected(mandate, actor=actor, etag=request.etag, now=self._clock())

        return await self._change("RejectMandate", request.name, step)

    async def WithdrawMandate(self, request: service.WithdrawMandateRequest) -> mandates_pb2.Mandate:
        """Takes a request back."""

        async def step(mandate: Mandate, actor: Actor, _: Connection) -> Step:
            return mandates.withdrawn(mandate, actor=actor, etag=request.etag, now=self._clock())

        return await self._change("WithdrawMandate", request.name, step)

    async def RevokeMandate(self, request: service.RevokeMandateRequest) -> mandates_pb2.Mandate:
        """Ends a mandate from the principal's side."""

        async def step(mandate: Mandate, actor: Actor, transaction: Connection) -> Step:
            now = self._clock()
            entitled = await self._issuing.entitled(transaction, mandate, actor, now=now)
            return mandates.revoked(mandate, actor=actor, entitled=entitled, etag=request.etag, now=now)

        return await self._change("RevokeMandate", request.name, step)

    async def RenounceMandate(self, request: service.RenounceMandateRequest) -> mandates_pb2.Mandate:
        """Gives a mandate up."""

        async def step(mandate: Mandate, actor: Actor, _: Connection) -> Step:
            return mandates.renounced(mandate, actor=actor, etag=request.etag, now=self._clock())

        return await self._change("RenounceMandate", request.name, step)

    async def ListIssuingRights(self, request: ListIssuingRightsRequest) -> ListIssuingRightsResponse:
        """Returns a page of what the caller may give in a principal's name."""
        token = await self._revisions.head(request.consistency_token)
        actor = callers.party_actor()
        named = request.HasField("principal")
        principal = messages.party_name(request.principal, self._parties, field="principal") if named else actor.party
        rights = await self._issuing.rights(self._database, principal, actor, now=self._clock())
        question, size = f"issuing {actor.party} {principal}", pages.size(request.page_size)
        first = int(pages.key(request.page_token, question=question) or 0)
        last = first + size
        return ListIssuingRightsResponse(
            rights=[
                IssuingRight(
                    theme=right.theme.name,
                    kind=right.kind,  # type: ignore[arg-type]
                    latest_last_day=right.latest_last_day.isoformat(),
                    confirmation_rule=messages.confirmation_rule(right.rule),
                    issued_under=right.issued_under.name if right.issued_under else "",
                )
                for right in rights[first:last]
            ],
            next_page_token=pages.token(str(last), question=question) if len(rights) > last else "",
            consistency_token=token,
        )

    async def _create(
        self,
        method: str,
        asked: Sequence[mandates_pb2.Mandate],
        request_id: str,
        *,
        validate_only: bool = False,
        renews: Mandate | None = None,
    ) -> tuple[list[Mandate], str]:
        actor, now = callers.party_actor(), self._clock()
        drafts = [issuing.draft(one, actor, parties=self._parties) for one in asked]
        if validate_only:
            async with self._database.transaction() as transaction:
                judged = await self._issuing.judge(transaction, drafts, actor, now=now, renews=renews)
            return [mandate for mandate, _ in judged], await self._revisions.head()
        digest = _digest(drafts, renews)
        async with self._revisions.writing(f"MandateService/{method}") as write:
            known = await mandate_store.remembered(write.transaction, party=actor.party, request_id=UUID(request_id))
            if known is not None:
                return await self._again(write, known, digest, request_id), write.token
            steps = await self._issuing.judge(write.transaction, drafts, actor, now=now, renews=renews)
            made = [mandate for mandate, _ in steps]
            for mandate, happened in steps:
                await mandate_store.insert(write.transaction, mandate)
                await keep(write, mandate, happened)
            if renews is not None:
                await keep(write, renews, [mandates.renewed(renews, by=made[0].mandate_id, actor=actor, now=now)])
            await mandate_store.remember(
                write.transaction, party=actor.party, request_id=UUID(request_id), digest=digest, mandates=made
            )
        return made, write.token

    async def _again(
        self, write: Write, known: tuple[bytes, list[UUID]], digest: bytes, request_id: str
    ) -> list[Mandate]:
        if known[0] != digest:
            raise AlreadyExists(
                "REQUEST_ID_REUSED", "the request id was used for another content", request_id=request_id
            )
        return await mandate_store.find_all(write.transaction, known[1])

    def _named(self, request: service.SearchMandatesRequest, side: Literal["principal", "delegate"]) -> str:
        if not request.HasField(side):
            return ""
        return messages.party_name(getattr(request, side), self._parties, field=side)

    async def _looked_up(self, method: str, asked: set[str], found: Sequence[Mandate], *, purpose: str) -> None:
        parties = asked.union(*({one.principal, one.delegate} for one in found)) - {""}
        record = AuditRecord(
            kind=AuditRecord.KIND_LOOKUP,
            actor=messages.actor(callers.actor()),
            method=f"{service.DESCRIPTOR.package}.MandateService/{method}",
            parties=[Party(name=party) for party in sorted(parties)],
            purpose=purpose,
        )
        await self._audit.record([record])

    async def _visible(self, reader: Database | Connection, name: str) -> Mandate:
        """A mandate of which the caller may know. Raises NotFound, alike where there is none."""
        mandate = await mandate_store.find(reader, messages.uid(name))
        actor = callers.party_actor()
        seen = mandate is not None and acting.may_read(mandate)
        if mandate is None or not seen or not await self._issuing.may_see(reader, mandate, actor, now=self._clock()):
            raise not_found(name)
        return mandate

    async def _change(
        self, method: str, name: str, step: Callable[[Mandate, Actor, Connection], Awaitable[Step]]
    ) -> mandates_pb2.Mandate:
        async with self._revisions.writing(f"MandateService/{method}") as write:
            mandate = await self._visible(write.transaction, name)
            fresh, happened = await step(mandate, callers.party_actor(), write.transaction)
            if happened:
                await mandate_store.update(write.transaction, fresh)
                await keep(write, fresh, happened)
                await self._issuing.cascade(write, fresh, now=self._clock())
        return messages.mandate(fresh, now=self._clock(), token=write.token)


def _digest(drafts: Sequence[Draft], renews: Mandate | None) -> bytes:
    return hashlib.sha256(repr((drafts, renews and renews.mandate_id)).encode()).digest()


def _position(page_token: str, question: str, now: datetime) -> tuple[datetime, UUID | None]:
    """The instant of a listing's first page, and the last mandate shown."""
    key = pages.key(page_token, question=question)
    if not key:
        return now, None
    at, _, last = key.partition(" ")
    return datetime.fromisoformat(at), UUID(last)


def _next(found: Sequence[Mandate], size: int, question: str, at: datetime) -> str:
    if len(found) <= size:
        return ""
    return pages.token(f"{at.isoformat()} {found[size - 1].mandate_id}", question=question)
