"""MailboxService."""

from __future__ import annotations

from uuid import UUID

from solmu.messages.v1 import mailboxes_pb2
from solmu.types.v1 import types_pb2

from services.messages import store
from services.messages.servicers import names
from services.runtime import identity, pages
from services.runtime.database import Database, Row
from services.runtime.errors import FailedPrecondition, not_found
from services.runtime.ids import new_id
from services.runtime.parties import PartyNames
from services.runtime.sealing import Vault

Mailbox = mailboxes_pb2.Mailbox


class Mailboxes:
    """Opens and shows mailboxes."""

    def __init__(self, *, database: Database, parties: PartyNames, vault: Vault) -> None:
        self._database = database
        self._parties = parties
        self._vault = vault

    async def OpenMailbox(self, _: mailboxes_pb2.OpenMailboxRequest) -> Mailbox:
        """Opens the mailbox of the caller's own party, by its consent."""
        party = identity.caller().party
        kind = Mailbox.KIND_PERSON if party.startswith("persons/") else Mailbox.KIND_COMPANY
        return await self._open(party, kind, Mailbox.LEGAL_BASIS_CONSENT, "")

    async def CreateMailbox(self, request: mailboxes_pb2.CreateMailboxRequest) -> Mailbox:
        """Opens a mailbox for another party, on a legal basis."""
        party = self._parties.name_of(request.owner, field="owner")
        return await self._open(party, request.kind, request.legal_basis, request.legal_basis_reference)

    async def GetMailbox(self, request: mailboxes_pb2.GetMailboxRequest) -> Mailbox:
        """A mailbox, for its owner."""
        mailbox_id = names.uid(request.name, 1)
        row = await names.own_mailbox(self._database, mailbox_id)
        return mailbox(row, unread=await store.unread(self._database, mailbox_id))

    async def ListMailboxes(self, _: mailboxes_pb2.ListMailboxesRequest) -> mailboxes_pb2.ListMailboxesResponse:
        """The caller's own mailbox, if it has one."""
        row = await store.mailbox_of(self._database, identity.caller().party)
        if row is None or row["data_key"] is None:
            return mailboxes_pb2.ListMailboxesResponse()
        unread = await store.unread(self._database, row["mailbox_id"])
        return mailboxes_pb2.ListMailboxesResponse(mailboxes=[mailbox(row, unread=unread)])

    async def ListAccesses(self, request: mailboxes_pb2.ListAccessesRequest) -> mailboxes_pb2.ListAccessesResponse:
        """Who looked at what is in a mailbox, latest first, for its owner."""
        mailbox_id = names.uid(request.parent, 1, field="parent")
        await names.own_mailbox(self._database, mailbox_id)
        size = pages.size(request.page_size)
        key = pages.key(request.page_token, question=request.parent)
        rows = await store.accesses_of(self._database, mailbox_id, before=UUID(key) if key else None, limit=size + 1)
        response = mailboxes_pb2.ListAccessesResponse(accesses=[_access(request.parent, row) for row in rows[:size]])
        if len(rows) > size:
            response.next_page_token = pages.token(str(rows[size - 1]["access_id"]), question=request.parent)
        return response

    async def _open(self, party: str, kind: int, basis: int, reference: str) -> Mailbox:
        mailbox_id = new_id()
        row = await store.open_mailbox(
            self._database,
            mailbox_id=mailbox_id,
            party=party,
            kind=kind,
            legal_basis=basis,
            legal_basis_reference=reference,
            data_key=self._vault.new_key(owner=f"mailboxes/{mailbox_id}"),
            now=names.now(),
        )
        if row is None:
            raise not_found("mailbox")
        if row["data_key"] is None:
            raise FailedPrecondition("MAILBOX_CLOSED", "the mailbox has been erased")
        return mailbox(row, unread=await store.unread(self._database, row["mailbox_id"]))


def mailbox(row: Row, *, unread: int) -> Mailbox:
    """A mailbox as its owner sees it."""
    return Mailbox(
        name=f"mailboxes/{row['mailbox_id']}",
        party=row["party"],
        kind=row["kind"],
        state=row["state"],
        legal_basis=row["legal_basis"],
        legal_basis_reference=row["legal_basis_reference"],
        opt_out_end_time=names.timestamp(row["opt_out_end_time"]),
        create_time=names.timestamp(row["create_time"]),
        unread_count=unread,
        etag=str(row["version"]),
    )


def _access(parent: str, row: Row) -> mailboxes_pb2.Access:
    return mailboxes_pb2.Access(
        name=f"{parent}/accesses/{row['access_id']}",
        actor=types_pb2.Actor.FromString(row["actor"]),
        method=row["method"],
        message=f"{parent}/messages/{row['message_id']}" if row["message_id"] else "",
        time=names.timestamp(row["time"]),
    )
