"""InboxService: what the owner of a mailbox sees and does."""

from __future__ import annotations

from uuid import UUID

from solmu.messages.v1 import events_pb2, inbox_pb2, messages_pb2

from services.messages import deliveries, store
from services.messages.servicers import names, views
from services.runtime import outbox, pages
from services.runtime.database import Connection, Database, Row
from services.runtime.errors import not_found
from services.runtime.ids import new_id
from services.runtime.outbox import Outbox
from services.runtime.sealing import Sealer, Vault

Delivery = messages_pb2.Delivery


class Inbox:
    """Shows a mailbox to its owner, and records that it was seen."""

    def __init__(self, *, database: Database, outbox: Outbox, vault: Vault) -> None:
        self._database = database
        self._outbox = outbox
        self._vault = vault

    async def ListInboxMessages(
        self, request: inbox_pb2.ListInboxMessagesRequest
    ) -> inbox_pb2.ListInboxMessagesResponse:
        """The messages in a mailbox, latest first, without their content."""
        mailbox_id = names.uid(request.parent, 1, field="parent")
        mailbox = await names.own_mailbox(self._database, mailbox_id)
        if request.deleted:
            return inbox_pb2.ListInboxMessagesResponse()
        question = f"{request.parent} {request.unread_only} {request.thread}"
        key = pages.key(request.page_token, question=question)
        size = pages.size(request.page_size)
        rows = await store.messages_in_mailbox(
            self._database,
            mailbox_id,
            before=UUID(key) if key else None,
            unread_only=request.unread_only,
            thread=names.uid(request.thread, 1, field="thread") if request.thread.startswith("threads/") else None,
            limit=size + 1,
        )
        sealer = self._sealer(mailbox)
        response = inbox_pb2.ListInboxMessagesResponse(
            messages=[
                views.inbox_message(row, [], sealer=sealer, vault=self._vault, whole=False) for row in rows[:size]
            ]
        )
        if len(rows) > size:
            response.next_page_token = pages.token(str(rows[size - 1]["message_id"]), question=question)
        return response

    async def OpenInboxMessage(self, request: inbox_pb2.OpenInboxMessageRequest) -> inbox_pb2.InboxMessage:
        """Opens a message: its content, and a record of who saw it."""
        mailbox_id, message_id = names.uid(request.name, 1), names.uid(request.name, 3)
        async with self._database.transaction() as transaction:
            mailbox = await names.own_mailbox(transaction, mailbox_id)
            row = await self.open(transaction, mailbox_id, message_id, method="OpenInboxMessage")
            attachments = await store.attachments_of(transaction, [message_id])
        self._outbox.wake()
        return views.inbox_message(row, attachments, sealer=self._sealer(mailbox), vault=self._vault, whole=True)

    async def open(self, transaction: Connection, mailbox_id: UUID, message_id: UUID, *, method: str) -> Row:
        """Marks a message as opened, the first time, and records the access, every time. Returns it as it is then."""
        row = await store.message_in_mailbox(transaction, mailbox_id, message_id)
        if row is None:
            raise not_found(f"mailboxes/{mailbox_id}/messages/{message_id}")
        now, actor = names.now(), names.actor().SerializeToString()
        before = deliveries.Delivery(deliveries.State(row["delivery_state"]), row["open_time"])
        after = deliveries.opened(before, now=now)
        await store.record_access(
            transaction,
            access_id=new_id(),
            mailbox_id=mailbox_id,
            message_id=message_id,
            method=method,
            actor=actor,
            now=now,
        )
        if after is before:
            return row
        await store.set_opened(transaction, delivery_id=row["delivery_id"], actor=actor, now=now)
        row = await store.message_in_mailbox(transaction, mailbox_id, message_id)
        assert row is not None
        reference = events_pb2.MessageReference(
            message=f"units/{row['unit_id']}/messages/{message_id}",
            idempotency_key=row["idempotency_key"],
            correlation_id=row["correlation_id"],
        )
        event = events_pb2.DeliveryChanged(reference=reference, delivery=views.delivery(row))
        await self._outbox.append(transaction, [outbox.event(event, now=now)])
        return row

    def _sealer(self, mailbox: Row) -> Sealer:
        return self._vault.sealer(mailbox["data_key"], owner=f"mailboxes/{mailbox['mailbox_id']}")
