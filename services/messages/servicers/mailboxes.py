"""MailboxService."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC
from uuid import UUID

from solmu.messages.v1 import mailboxes_pb2
from solmu.types.v1 import types_pb2

from services.messages import (
    access_store,
    blob_store,
    closings,
    export_store,
    mailbox_store,
    mailboxes,
    message_store,
    unit_store,
)
from services.messages.acting import Acting, Represented
from services.messages.notifications import contact_store
from services.messages.servicers import accesses, names
from services.runtime import identity, pages
from services.runtime.database import Database, Row
from services.runtime.errors import Aborted, FailedPrecondition, InvalidArgument, Unavailable, not_found
from services.runtime.ids import new_id
from services.runtime.outbox import Outbox
from services.runtime.parties import PartyNames
from services.runtime.sealing import Vault

Mailbox = mailboxes_pb2.Mailbox


GOING_ON = "+"
"""Begins the place of every page but the first, also where nothing follows it."""

NAMED_AT_ONCE = 500
"""Identity codes turned into names before other calls have their turn: some 5 ms."""


class Mailboxes:
    """Opens, shows, closes, finds and erases mailboxes."""

    def __init__(
        self, *, database: Database, outbox: Outbox, parties: PartyNames, vault: Vault, acting: Acting
    ) -> None:
        self._acting = acting
        self._database = database
        self._outbox = outbox
        self._parties = parties
        self._vault = vault

    async def OpenMailbox(self, _: mailboxes_pb2.OpenMailboxRequest) -> Mailbox:
        """Opens the mailbox of the caller's own party, by its consent."""
        party = identity.caller().party
        kind = Mailbox.KIND_PERSON if party.startswith("persons/") else Mailbox.KIND_COMPANY
        return await self._open(
            party, kind, Mailbox.LEGAL_BASIS_CONSENT, "", despite_closing=False, method="OpenMailbox"
        )

    async def CreateMailbox(self, request: mailboxes_pb2.CreateMailboxRequest) -> Mailbox:
        """Opens a mailbox for another party, on a legal basis."""
        party = self._parties.name_of(request.owner, field="owner")
        basis, reference = request.legal_basis, request.legal_basis_reference
        return await self._open(party, request.kind, basis, reference, despite_closing=True, method="CreateMailbox")

    async def GetMailbox(self, request: mailboxes_pb2.GetMailboxRequest) -> Mailbox:
        """A mailbox, for its owner."""
        mailbox_id = names.uid(request.name, 1)
        row = await names.own_mailbox(self._database, mailbox_id)
        await accesses.record(self._database, mailbox_id, "GetMailbox")
        return await self._shown(row)

    async def ListMailboxes(self, request: mailboxes_pb2.ListMailboxesRequest) -> mailboxes_pb2.ListMailboxesResponse:
        """The caller's own mailbox, if it has one, then those that it may open by mandates.

        Where those cannot be known, the own one makes a page by itself.
        """
        size, caller = pages.size(request.page_size), identity.caller()
        response = mailboxes_pb2.ListMailboxesResponse()
        going_on = pages.key(request.page_token, question=caller.party)
        if not going_on:
            row = await mailbox_store.mailbox_of(self._database, caller.party)
            if row is not None and row["data_key"] is not None:
                await accesses.record(self._database, row["mailbox_id"], "ListMailboxes")
                response.mailboxes.append(await self._shown(row))
        if caller.actor:
            return response
        following, room = going_on.removeprefix(GOING_ON), size - len(response.mailboxes)
        if room:
            try:
                represented, following = await self._acting.principals(caller, page_token=following, size=room)
                response.mailboxes.extend(await self._represented(represented))
            except Unavailable:
                if not response.mailboxes:
                    raise
                room = 0
        if following or not room:
            response.next_page_token = pages.token(GOING_ON + following, question=caller.party)
        return response

    async def ListAccesses(self, request: mailboxes_pb2.ListAccessesRequest) -> mailboxes_pb2.ListAccessesResponse:
        """Who looked at what is in a mailbox, latest first, for its owner."""
        mailbox_id = names.uid(request.parent, 1, field="parent")
        await names.own_mailbox(self._database, mailbox_id)
        size = pages.size(request.page_size)
        key = pages.key(request.page_token, question=request.parent)
        rows = await access_store.of_mailbox(
            self._database, mailbox_id, before=UUID(key) if key else None, limit=size + 1
        )
        response = mailboxes_pb2.ListAccessesResponse(
            accesses=[accesses.access(request.parent, row) for row in rows[:size]]
        )
        if len(rows) > size:
            response.next_page_token = pages.token(str(rows[size - 1]["access_id"]), question=request.parent)
        return response

    async def CloseMailbox(self, request: mailboxes_pb2.CloseMailboxRequest) -> Mailbox:
        """Closes a mailbox for its owner; one that is closed stays so."""
        mailbox_id = names.uid(request.name, 1)
        async with self._database.transaction() as transaction:
            row = await names.hold_own_mailbox(transaction, mailbox_id)
            if request.etag and request.etag != str(row["version"]):
                raise Aborted("ETAG_MISMATCH", "somebody else changed the mailbox first; read it again")
            state = mailboxes.closed(mailboxes.State(row["state"]), obligatory=_obligatory(row))
            if state != row["state"]:
                changed = await mailbox_store.close(
                    transaction, mailbox_id, reason=mailboxes.Closing.OWNER, reference="", now=names.now()
                )
                assert changed is not None
                row = changed
                await accesses.record(transaction, mailbox_id, "CloseMailbox")
        return await self._shown(row)

    async def DiscontinueMailbox(self, request: mailboxes_pb2.DiscontinueMailboxRequest) -> Mailbox:
        """Closes another party's mailbox, also for its owner; asked again, on the ground said last."""
        party, now = self._parties.name_of(request.owner, field="owner"), names.now()
        async with self._database.transaction() as transaction:
            found = await mailbox_store.mailbox_of(transaction, party)
            row = found and await mailbox_store.lock_mailbox(transaction, found["mailbox_id"])
            if row is None:
                raise not_found("mailbox")
            state = mailboxes.State(row["state"])
            mailboxes.closed(state, obligatory=False)
            closed = await mailbox_store.close(
                transaction, row["mailbox_id"], reason=request.reason, reference=request.reference, now=now
            )
            assert closed is not None
            await accesses.record(transaction, row["mailbox_id"], "DiscontinueMailbox")
            await mailbox_store.record_audit(
                transaction,
                audit_id=new_id(),
                method="DiscontinueMailbox",
                actor=names.actor().SerializeToString(),
                mailbox_id=row["mailbox_id"],
                reason=request.reference,
                now=now,
            )
            if state is not mailboxes.State.CLOSED:
                ground = mailboxes.Closing(request.reason)
                await closings.tell(transaction, self._outbox, [row["mailbox_id"]], reason=ground, now=now)
        self._outbox.wake()
        return await self._shown(closed)

    async def OptOut(self, request: mailboxes_pb2.OptOutRequest) -> Mailbox:
        """Stops electronic delivery for a time, for the owner; asked again, for the time asked last."""
        mailbox_id, now = names.uid(request.name, 1), names.now()
        end_time = request.end_time.ToDatetime(UTC)
        async with self._database.transaction() as transaction:
            row = await names.hold_own_mailbox(transaction, mailbox_id)
            mailboxes.opted_out(mailboxes.State(row["state"]), obligatory=_obligatory(row), end_time=end_time, now=now)
            changed = await mailbox_store.opt_out(transaction, mailbox_id, end_time=end_time)
            assert changed is not None
            await accesses.record(transaction, mailbox_id, "OptOut")
        return await self._shown(changed)

    async def LookUpMailboxes(
        self, request: mailboxes_pb2.LookUpMailboxesRequest
    ) -> mailboxes_pb2.LookUpMailboxesResponse:
        """Says which codes can be reached electronically now, and has it recorded."""
        now, unit_id = names.now(), names.part(request.unit, 1) if request.unit else None
        await self._sends(unit_id)
        parties, refusals = await self._named(request.identifiers)
        distinct = list(dict.fromkeys(party for party in parties if party))
        rows = await mailbox_store.look_up(
            self._database,
            distinct,
            access_ids=[new_id() for _ in distinct],
            audit_id=new_id(),
            unit_id=unit_id,
            method="LookUpMailboxes",
            actor=names.actor().SerializeToString(),
            asked=len(request.identifiers),
            now=now,
        )
        reachable = {row["party"] for row in rows if _as_found(row).reachable(now=now)}
        return mailboxes_pb2.LookUpMailboxesResponse(
            results=[
                mailboxes_pb2.LookUpMailboxesResponse.Result(
                    index=index, reachable=party in reachable, refusal=refusals.get(index, "")
                )
                for index, party in enumerate(parties)
            ]
        )

    async def ExportMailbox(self, request: mailboxes_pb2.ExportMailboxRequest) -> mailboxes_pb2.MailboxExport:
        """Has an archive made of all that is in a mailbox, for its owner."""
        mailbox_id, now = names.uid(request.name, 1), names.now()
        async with self._database.transaction() as transaction:
            await names.hold_own_mailbox(transaction, mailbox_id)
            row = await export_store.insert(
                transaction, export_id=new_id(), mailbox_id=mailbox_id, attachment_id=new_id(), now=now
            )
            assert row is not None
            await accesses.record(transaction, mailbox_id, "ExportMailbox")
        return _export(row)

    async def GetMailboxExport(self, request: mailboxes_pb2.GetMailboxExportRequest) -> mailboxes_pb2.MailboxExport:
        """An archive, for the mailbox's owner."""
        mailbox_id = names.uid(request.name, 1)
        await names.own_mailbox(self._database, mailbox_id)
        row = await export_store.export(self._database, mailbox_id, names.uid(request.name, 3))
        if row is None:
            raise not_found(request.name)
        await accesses.record(self._database, mailbox_id, "GetMailboxExport")
        return _export(row)

    async def EraseMailbox(self, request: mailboxes_pb2.EraseMailboxRequest) -> Mailbox:
        """Destroys the key of a mailbox, and the attachments that nobody else has. Erased once, it stays so."""
        mailbox_id = names.uid(request.name, 1)
        async with self._database.transaction() as transaction:
            row = await mailbox_store.lock_mailbox(transaction, mailbox_id)
            if row is None:
                raise not_found(request.name)
            if row["data_key"] is None:
                return mailbox(row, unread=0)
            await blob_store.leave(transaction, await mailbox_store.erase_attachments(transaction, mailbox_id))
            await contact_store.delete_all(transaction, mailbox_id)
            erased = await mailbox_store.erase(transaction, mailbox_id)
            assert erased is not None
            await mailbox_store.record_audit(
                transaction,
                audit_id=new_id(),
                method="EraseMailbox",
                actor=names.actor().SerializeToString(),
                mailbox_id=mailbox_id,
                reason=request.justification,
                now=names.now(),
            )
        return mailbox(erased, unread=0)

    async def _shown(self, row: Row) -> Mailbox:
        return mailbox(row, unread=await message_store.unread(self._database, row["mailbox_id"], names.sight()))

    async def _represented(self, represented: Sequence[Represented]) -> list[Mailbox]:
        """The mailboxes of those for whom the caller acts; their owners read of it."""
        me, now = identity.caller().party, names.now()
        rows = await mailbox_store.represented(
            self._database,
            [(one.party, names.seen_by(one.right).unit_id) for one in represented],
            access_ids=[new_id() for _ in represented],
            actors=[names.representative(one.party, me, one.right).SerializeToString() for one in represented],
            method="ListMailboxes",
            now=now,
        )
        return [mailbox(row, unread=row["unread"]) for row in rows]

    async def _sends(self, unit_id: str | None) -> None:
        """Raises where the caller's organisation does not have this unit, or, where none is said, any."""
        if unit_id is not None:
            await names.own_unit(self._database, unit_id)
        elif not await unit_store.units_of(self._database, identity.caller().party, after="", limit=1):
            raise not_found("units/-")

    async def _named(self, identifiers: Sequence[types_pb2.NationalIdentifier]) -> tuple[list[str], dict[int, str]]:
        """The party of each code, "" where the code is refused, and the reasons of the refusals by position."""
        parties: list[str] = []
        refusals: dict[int, str] = {}
        for index, identifier in enumerate(identifiers):
            try:
                parties.append(self._parties.name_of(identifier))
            except InvalidArgument as refusal:
                parties.append("")
                refusals[index] = refusal.reason
            if index % NAMED_AT_ONCE == NAMED_AT_ONCE - 1:
                await asyncio.sleep(0)
        return parties, refusals

    async def _open(
        self, party: str, kind: int, basis: int, reference: str, *, despite_closing: bool, method: str
    ) -> Mailbox:
        mailbox_id = new_id()
        row = await mailbox_store.open_mailbox(
            self._database,
            mailbox_id=mailbox_id,
            party=party,
            kind=kind,
            legal_basis=basis,
            legal_basis_reference=reference,
            data_key=self._vault.new_key(owner=f"mailboxes/{mailbox_id}"),
            despite_closing=despite_closing,
            now=names.now(),
        )
        if row is None:
            raise FailedPrecondition("MAILBOX_CLOSED", "the mailbox was closed, and not by its owner")
        if row["data_key"] is None:
            raise FailedPrecondition("MAILBOX_CLOSED", "the mailbox has been erased")
        await accesses.record(self._database, row["mailbox_id"], method)
        return await self._shown(row)


def mailbox(row: Row, *, unread: int) -> Mailbox:
    """A mailbox as its owner sees it."""
    return Mailbox(
        name=f"mailboxes/{row['mailbox_id']}",
        party=row["party"],
        kind=row["kind"],
        state=row["state"],
        legal_basis=row["legal_basis"],
        legal_basis_reference=row["legal_basis_reference"],
        opt_out_end_time=names.timestamp(row["opt_out_end_time"] if row["state"] == Mailbox.STATE_OPTED_OUT else None),
        create_time=names.timestamp(row["create_time"]),
        unread_count=unread,
        etag=str(row["version"]),
        closing=_closing(row) if row["state"] == Mailbox.STATE_CLOSED else None,
    )


def _closing(row: Row) -> Mailbox.Closing:
    return Mailbox.Closing(
        reason=row["close_reason"] or Mailbox.Closing.REASON_OWNER,
        reference=row["close_reference"],
        time=names.timestamp(row["close_time"]),
    )


def _export(row: Row) -> mailboxes_pb2.MailboxExport:
    ready = row["state"] == mailboxes_pb2.MailboxExport.STATE_READY
    return mailboxes_pb2.MailboxExport(
        name=f"mailboxes/{row['mailbox_id']}/exports/{row['export_id']}",
        state=row["state"],
        attachment=f"attachments/{row['attachment_id']}" if ready else "",
        create_time=names.timestamp(row["create_time"]),
        expire_time=names.timestamp(row["expire_time"]),
    )


def _obligatory(row: Row) -> bool:
    return bool(row["legal_basis"] == Mailbox.LEGAL_BASIS_OBLIGATION)


def _as_found(row: Row) -> mailboxes.Mailbox:
    return mailboxes.Mailbox(row["mailbox_id"], mailboxes.State(row["state"]), row["data_key"], row["opt_out_end_time"])
