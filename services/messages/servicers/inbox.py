"""InboxService: what the owner of a mailbox, or one who acts for it, sees and does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from solmu.messages.v1 import inbox_pb2, messages_pb2

from services.messages import attachment_store, course, mailboxes, message_store
from services.messages.course import Course
from services.messages.feed import Feed
from services.messages.servicers import accesses, courses, names, views
from services.messages.servicers.courses import Move
from services.messages.servicers.writing import Writing
from services.runtime import pages
from services.runtime.database import Connection, Database, Row
from services.runtime.errors import not_found
from services.runtime.outbox import Outbox
from services.runtime.sealing import Sealer, Vault

Message = messages_pb2.Message


Seeing = Callable[..., Course]
"""A rule of `course.py`: course, `actor` and `now` to what a message becomes once its recipient has seen it."""


class Inbox:
    """Shows a mailbox to its owner, and records that it was seen."""

    def __init__(self, *, database: Database, feed: Feed, outbox: Outbox, vault: Vault) -> None:
        self._database = database
        self._outbox = outbox
        self._vault = vault
        self._writing = Writing(database=database, feed=feed, outbox=outbox, vault=vault)

    async def ListInboxMessages(
        self, request: inbox_pb2.ListInboxMessagesRequest
    ) -> inbox_pb2.ListInboxMessagesResponse:
        """The messages in a mailbox, latest first, without their content."""
        mailbox_id = names.uid(request.parent, 1, field="parent")
        mailbox = await names.own_mailbox(self._database, mailbox_id)
        await accesses.record(self._database, mailbox_id, "ListInboxMessages")
        question = f"{request.parent} {request.unread_only} {request.thread} {request.deleted}"
        key = pages.key(request.page_token, question=question)
        size = pages.size(request.page_size)
        rows = await message_store.messages_in_mailbox(
            self._database,
            mailbox_id,
            names.sight(),
            before=_place(key),
            unread_only=request.unread_only,
            thread=names.uid(request.thread, 1, field="thread") if request.thread.startswith("threads/") else None,
            binned_at=names.now() if request.deleted else None,
            limit=size + 1,
        )
        shown = rows[:size]
        sealer, known = self._sealer(mailbox), await courses.of(self._database, shown)
        response = inbox_pb2.ListInboxMessagesResponse(
            messages=[
                views.inbox_message(row, at, [], sealer=sealer, vault=self._vault, whole=False)
                for row, at in zip(shown, known, strict=True)
            ]
        )
        if len(rows) > size:
            last = f"{shown[-1]['release_time'].isoformat()} {shown[-1]['message_id']}"
            response.next_page_token = pages.token(last, question=question)
        return response

    async def OpenInboxMessage(self, request: inbox_pb2.OpenInboxMessageRequest) -> inbox_pb2.InboxMessage:
        """Opens a message: its content, and a record of who saw it."""
        return await self._seen(request.name, method="OpenInboxMessage", move=course.opened)

    async def ConfirmReceipt(self, request: inbox_pb2.ConfirmReceiptRequest) -> inbox_pb2.InboxMessage:
        """Confirms receipt of a verifiable message and opens it."""
        return await self._seen(request.name, method="ConfirmReceipt", move=course.confirmed)

    async def WriteToUnit(self, request: inbox_pb2.WriteToUnitRequest) -> inbox_pb2.InboxMessage:
        """Replies to a message, or writes a new one to a unit that takes them."""
        return await self._writing.write(request)

    async def DeleteInboxMessage(self, request: inbox_pb2.DeleteInboxMessageRequest) -> inbox_pb2.InboxMessage:
        """Puts a message into the bin; one that lies there leaves it when it would have."""
        return await self._binned(request.name, method="DeleteInboxMessage", binned=True)

    async def UndeleteInboxMessage(self, request: inbox_pb2.UndeleteInboxMessageRequest) -> inbox_pb2.InboxMessage:
        """Takes a message out of the bin; one that is not in it stays where it is."""
        return await self._binned(request.name, method="UndeleteInboxMessage", binned=False)

    async def open(self, transaction: Connection, mailbox_id: UUID, message_id: UUID, *, method: str) -> None:
        """Opens a message, as OpenInboxMessage does, for one who looks at a part of it."""
        await self._move(transaction, mailbox_id, message_id, method=method, move=course.opened)

    async def _seen(self, name: str, *, method: str, move: Seeing) -> inbox_pb2.InboxMessage:
        mailbox_id, message_id = names.uid(name, 1), names.uid(name, 3)
        async with self._database.transaction() as transaction:
            mailbox = await names.own_mailbox(transaction, mailbox_id)
            row, after = await self._move(transaction, mailbox_id, message_id, method=method, move=move)
            attachments = await attachment_store.attachments_of(transaction, [message_id])
        self._outbox.wake()
        return views.inbox_message(row, after, attachments, sealer=self._sealer(mailbox), vault=self._vault, whole=True)

    async def _move(
        self, transaction: Connection, mailbox_id: UUID, message_id: UUID, *, method: str, move: Seeing
    ) -> tuple[Row, Course]:
        """Moves a message of the mailbox and records the access, every time. Returns it as it is then."""
        now, actor = names.now(), names.actor().SerializeToString()
        row = await _held(transaction, mailbox_id, message_id, now=now)
        (before,) = await courses.of(transaction, [row])
        after = before if row["direction"] == Message.DIRECTION_INBOUND else move(before, actor=actor, now=now)
        await accesses.record(transaction, mailbox_id, method, message_id=message_id)
        if after is not before:
            await courses.keep(transaction, self._outbox, [Move(row, before, after)], now=now)
        return row, after

    async def _binned(self, name: str, *, method: str, binned: bool) -> inbox_pb2.InboxMessage:
        """Moves a message into the bin or out of it, which is no look at it, and records the act."""
        mailbox_id, message_id, now = names.uid(name, 1), names.uid(name, 3), names.now()
        async with self._database.transaction() as transaction:
            mailbox = await names.own_mailbox(transaction, mailbox_id)
            row = await _held(transaction, mailbox_id, message_id, now=now)
            if binned is not (row["purge_time"] is not None):
                purge_time = now + mailboxes.BIN if binned else None
                await message_store.write_purge_time(transaction, message_id, purge_time=purge_time)
                row = await _held(transaction, mailbox_id, message_id, now=now)
            await accesses.record(transaction, mailbox_id, method, message_id=message_id)
            (known,) = await courses.of(transaction, [row])
        return views.inbox_message(row, known, [], sealer=self._sealer(mailbox), vault=self._vault, whole=False)

    def _sealer(self, mailbox: Row) -> Sealer:
        return self._vault.sealer(mailbox["data_key"], owner=f"mailboxes/{mailbox['mailbox_id']}")


async def _held(transaction: Connection, mailbox_id: UUID, message_id: UUID, *, now: datetime) -> Row:
    """A message that the caller may see, locked against another's change. Raises NotFound."""
    row = await message_store.message_in_mailbox(transaction, mailbox_id, message_id, names.sight(), now=now)
    if row is None:
        raise not_found(f"mailboxes/{mailbox_id}/messages/{message_id}")
    return row


def _place(key: str) -> tuple[datetime, UUID] | None:
    """Where a page goes on: the release time and id of the last message before it."""
    if not key:
        return None
    time, _, message_id = key.partition(" ")
    return datetime.fromisoformat(time), UUID(message_id)
