"""What another node says of messages that went there from here: found, opened, confirmed, answered.

A node is heard about a message only if the message went there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from solmu.messages.v1 import messages_pb2, parcels_pb2
from solmu.types.v1 import types_pb2

from services.messages import mailboxes, message_store
from services.messages.abroad import guests, store
from services.messages.abroad.hearing import Hearing
from services.messages.deliveries import Report
from services.messages.feed import Feed
from services.messages.servicers import contents, names, outcomes, views
from services.messages.servicers.attachments import Attachments
from services.messages.servicers.sending import NewMessage, Sending
from services.runtime import identity
from services.runtime.database import Database, Row
from services.runtime.errors import FailedPrecondition, Fault, Unavailable, not_found
from services.runtime.identity import Right
from services.runtime.ids import new_ids
from services.runtime.outbox import Outbox
from services.runtime.sealing import Vault

Message = messages_pb2.Message

SOMEBODY = "persons/-"
"""One who acts for a party and is known by name on another node only."""


class News:
    """Takes what is said of this node's messages."""

    def __init__(
        self,
        *,
        database: Database,
        feed: Feed,
        outbox: Outbox,
        vault: Vault,
        hearing: Hearing,
        attachments: Attachments,
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._vault = vault
        self._hearing = hearing
        self._attachments = attachments
        self._sending = Sending(database=database, feed=feed, outbox=outbox, vault=vault)

    async def finding(self, sender: str, said: parcels_pb2.Finding) -> None:
        """Takes whether a node that was asked has a mailbox; what was not asked, or is no longer of use, is nothing."""
        async with self._database.transaction() as transaction:
            await self._hearing.found(transaction, UUID(said.message), sender, reachable=said.reachable)
        self._outbox.wake()

    async def report(self, sender: str, said: parcels_pb2.ParcelReport) -> None:
        """Takes what became of a message."""
        row = await self._sent(sender, said.message)
        actor = types_pb2.Actor(party=row["mailbox_party"], acting_party=SOMEBODY if said.by_delegate else "")
        seen = said.HasField("open_time") or said.HasField("receipt_time")
        report = Report(
            unreachable=said.unreachable,
            available_time=_time(said, "available_time"),
            open_time=_time(said, "open_time"),
            receipt_time=_time(said, "receipt_time"),
            actor=actor.SerializeToString() if seen else None,
        )
        async with self._database.transaction() as transaction:
            await self._hearing.heard(transaction, row["message_id"], report)
            await self._hearing.closed(transaction, row["message_id"], said.mailbox_closed)
        self._outbox.wake()

    async def attachment(
        self, sender: str, brought: parcels_pb2.ParcelAttachment, content: AsyncIterator[bytes]
    ) -> None:
        """Takes an attachment of the reply that comes after it."""
        _act_as_author(await self._sent(sender, brought.in_reply_to), by_delegate=False)
        await guests.take_attachment(self._attachments, brought, content)

    async def reply(self, sender: str, brought: parcels_pb2.ParcelReply) -> None:
        """Keeps a reply for the unit that it goes to; one that was brought before stays as it is."""
        answered = await self._sent(sender, brought.in_reply_to)
        if await store.incoming(self._database, sender, UUID(brought.reply)) is not None:
            return
        content = Message.FromString(views.opened(answered, vault=self._vault))
        if content.reply_policy.allowed != messages_pb2.ReplyPolicy.ALLOWED_READERS:
            raise FailedPrecondition("REPLY_NOT_ALLOWED", "the message takes no replies")
        contents.check_bodies([brought.body], "body")
        _act_as_author(answered, by_delegate=brought.by_delegate)
        new = await self._new(answered, content, brought)
        try:
            kept = await self._sending.keep(new)
        except FailedPrecondition as fault:
            raise _not_yet(fault) from None
        message_id = new.message_id if kept is not None else await self._kept_before(new)
        async with self._database.transaction() as transaction:
            await store.insert_incoming(transaction, message_id, subsystem=sender, foreign_id=UUID(brought.reply))

    async def _new(self, answered: Row, content: Message, brought: parcels_pb2.ParcelReply) -> NewMessage:
        now, (message_id, electronic_id) = datetime.now(UTC), new_ids(2)
        to = content.reply_policy.reply_to
        asked = Message(
            title=brought.title,
            bodies=[brought.body],
            attachments=await guests.carried(self._database, brought.reply, brought.attachments),
            case_reference=content.case_reference if content.HasField("case_reference") else None,
            visibility=content.visibility,
            correlation_id=answered["correlation_id"],
        )
        author = names.actor()
        return NewMessage(
            message_id=message_id,
            electronic_id=electronic_id,
            unit_id=names.part(to, 1) if to else answered["unit_id"],
            mailbox=mailboxes.Mailbox(
                answered["mailbox_id"], mailboxes.State(answered["mailbox_state"]), answered["data_key"]
            ),
            asked=asked,
            said=views.said(asked),
            idempotency_key=f"~{brought.reply}",  # a sign that no sender's key has
            digest=self._vault.digest(brought.SerializeToString(deterministic=True)),
            outcome=outcomes.received(answered["legal_profile"], author, now),
            sender=author,
            thread=answered["thread"],
            in_reply_to=answered["message_id"],
        )

    async def _kept_before(self, new: NewMessage) -> UUID:
        address = message_store.Address(
            unit_id=new.unit_id, idempotency_key=new.idempotency_key, mailbox_id=new.mailbox.mailbox_id
        )
        (route,) = await message_store.routes(self._database, [address])
        assert route.first_id is not None  # its key is why it was not kept
        return route.first_id

    async def _sent(self, sender: str, message: str) -> Row:
        """A message that went to the node that speaks of it. Raises NotFound."""
        passage = await store.passage(self._database, UUID(message))
        row = None
        if passage is not None and passage["subsystem"] == sender and passage["foreign_id"] is None:
            row = await message_store.message(self._database, passage["message_id"])
        if row is None or row["data_key"] is None:
            raise not_found(f"messages/{message}")
        return row


def _act_as_author(answered: Row, *, by_delegate: bool) -> None:
    """Has what follows be done in the name of the recipient of a message, who answers it."""
    identity.set_caller(
        identity.Caller(
            service=guests.EXCHANGE,
            party=answered["mailbox_party"],
            actor=SOMEBODY if by_delegate else "",
            right=Right() if by_delegate else None,
        )
    )


def _not_yet(fault: Fault) -> Fault:
    """A reply waits for its attachments to be scanned, as its author would; what they are found to be is final."""
    if fault.reason == "ATTACHMENT_NOT_READY":
        return Unavailable("UNAVAILABLE", "an attachment of the reply has not been found clean yet")
    return fault


def _time(said: parcels_pb2.ParcelReport, field: str) -> datetime | None:
    time: Timestamp = getattr(said, field)
    return time.ToDatetime(UTC) if said.HasField(field) else None  # type: ignore[arg-type]
