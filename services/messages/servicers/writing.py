"""WriteToUnit: replies and new messages from residents and companies."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from uuid import UUID

from solmu.messages.v1 import inbox_pb2, messages_pb2

from services.messages import attachment_store, mailboxes, message_store, replies
from services.messages.acting import denied
from services.messages.feed import Feed
from services.messages.message_store import Address, Sight
from services.messages.servicers import accesses, contents, courses, names, outcomes, views
from services.messages.servicers.sending import NewMessage, Sending
from services.runtime.database import Database, Row
from services.runtime.errors import AlreadyExists, FailedPrecondition, InvalidArgument, not_found
from services.runtime.ids import new_ids
from services.runtime.outbox import Outbox
from services.runtime.sealing import Vault
from services.runtime.telemetry import TRANSACTIONS

Message = messages_pb2.Message


@dataclass(frozen=True)
class Destination:
    """Where a message goes, and what it belongs to."""

    unit_id: str
    answered: Row | None
    """The message it answers."""
    content: Message
    """What that says; empty where it answers none."""


class Writing:
    """Takes what the owner of a mailbox writes to a unit."""

    def __init__(self, *, database: Database, feed: Feed, outbox: Outbox, vault: Vault) -> None:
        self._database = database
        self._vault = vault
        self._sending = Sending(database=database, feed=feed, outbox=outbox, vault=vault)

    async def write(self, request: inbox_pb2.WriteToUnitRequest) -> inbox_pb2.InboxMessage:
        """Keeps the message, which has then arrived; a repeat returns the first result."""
        if bool(request.unit) == bool(request.in_reply_to):
            violations = [("unit", "is given, or in_reply_to is: one of the two")]
            raise InvalidArgument("FIELD_INVALID", "a message goes to a unit or answers one", violations=violations)
        contents.check_bodies([request.body], "body")
        mailbox_id, now = names.uid(request.parent, 1, field="parent"), names.now()
        owned = await names.own_mailbox(self._database, mailbox_id)
        state = mailboxes.State(owned["state"])
        if state is mailboxes.State.CLOSED:
            raise FailedPrecondition("MAILBOX_CLOSED", "the mailbox is closed")
        to = await self._destination(request, owned)
        if names.sight().unit_id not in ("", to.unit_id):
            raise denied("SPECIFIER")
        key = f"~{request.request_id}"  # a sign that no sender's key has
        address = Address(unit_id=to.unit_id, idempotency_key=key, mailbox_id=mailbox_id)
        (route,) = await message_store.routes(self._database, [address])
        if route.legal_profile is None:
            raise not_found(request.unit)
        digest = self._vault.digest(request.SerializeToString(deterministic=True))
        if route.first_id is None:
            if to.answered is None or to.answered["direction"] == Message.DIRECTION_INBOUND:
                replies.check_new(accepts_new_messages=route.accepts_new_messages is True)
            (message_id, electronic_id), author, asked = new_ids(2), names.actor(), _message(request, to)
            new = NewMessage(
                message_id=message_id,
                electronic_id=electronic_id,
                unit_id=to.unit_id,
                mailbox=mailboxes.Mailbox(mailbox_id, state, owned["data_key"]),
                asked=asked,
                said=views.said(asked),
                idempotency_key=key,
                digest=digest,
                outcome=outcomes.received(route.legal_profile, author, now),
                sender=author,
                thread=to.answered["thread"] if to.answered else message_id,
                in_reply_to=to.answered["message_id"] if to.answered else None,
            )
            if await self._sending.keep(new) is not None:
                TRANSACTIONS.labels("message", "in").inc()
                return await self._shown(owned, message_id)
            (route,) = await message_store.routes(self._database, [address])
        assert route.first_id is not None
        if route.first_digest != digest:
            raise AlreadyExists(
                "IDEMPOTENCY_KEY_REUSED",
                "the request id was used for another message",
                message=f"{request.parent}/messages/{route.first_id}",
            )
        return await self._shown(owned, route.first_id)

    async def _destination(self, request: inbox_pb2.WriteToUnitRequest, owned: Row) -> Destination:
        """Raises FailedPrecondition where the message that is answered takes no reply."""
        if request.unit:
            return Destination(names.part(request.unit, 1), None, Message())
        mailbox_id = owned["mailbox_id"]
        answered = None
        if names.uid(request.in_reply_to, 1, field="in_reply_to") == mailbox_id:
            message_id = names.uid(request.in_reply_to, 3, field="in_reply_to")
            async with self._database.transaction() as transaction:
                answered = await message_store.message_in_mailbox(
                    transaction, mailbox_id, message_id, names.sight(), now=names.now()
                )
        if answered is None:
            raise not_found(request.in_reply_to)
        sealer = self._vault.sealer(owned["data_key"], owner=f"mailboxes/{mailbox_id}")
        content = Message.FromString(sealer.open(answered["content"], context=f"messages/{answered['message_id']}"))
        unit_id = answered["unit_id"]
        if answered["direction"] == Message.DIRECTION_OUTBOUND:
            policy = content.reply_policy
            (known,) = await courses.of(self._database, [answered])
            replies.check_reply(
                known,
                readers=policy.allowed == messages_pb2.ReplyPolicy.ALLOWED_READERS,
                end_time=policy.end_time.ToDatetime(UTC) if policy.HasField("end_time") else None,
                now=names.now(),
            )
            unit_id = names.part(policy.reply_to, 1) if policy.reply_to else unit_id
        return Destination(unit_id, answered, content)

    async def _shown(self, owned: Row, message_id: UUID) -> inbox_pb2.InboxMessage:
        async with self._database.transaction() as transaction:
            row = await message_store.message_in_mailbox(
                transaction, owned["mailbox_id"], message_id, Sight(), now=names.now()
            )
            assert row is not None
            await accesses.record(transaction, owned["mailbox_id"], "WriteToUnit", message_id=message_id)
            (known,) = await courses.of(transaction, [row])
            attachments = await attachment_store.attachments_of(transaction, [message_id])
        sealer = self._vault.sealer(owned["data_key"], owner=f"mailboxes/{owned['mailbox_id']}")
        return views.inbox_message(row, known, attachments, sealer=sealer, vault=self._vault, whole=True)


def _message(request: inbox_pb2.WriteToUnitRequest, to: Destination) -> Message:
    """What was written, with the case, the visibility and the mark of the conversation that it goes on with."""
    return Message(
        title=request.title,
        bodies=[request.body],
        attachments=request.attachments,
        case_reference=to.content.case_reference if to.content.HasField("case_reference") else None,
        visibility=to.content.visibility,
        correlation_id=to.answered["correlation_id"] if to.answered else "",
    )
