"""What is to be said to other nodes, by the events of this service.

It is added in the transaction that has the events take effect, so that nothing
is said twice or forgotten, whoever dies.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from google.protobuf.message import Message
from solmu.messages.v1 import events_pb2, messages_pb2

from services.messages import attachment_store
from services.messages.abroad import store
from services.messages.abroad.store import Kind
from services.runtime.database import Connection, Row
from services.runtime.jetstream import Received

OUTBOUND = messages_pb2.Message.DIRECTION_OUTBOUND

_DEPARTURES = (events_pb2.MessageAccepted, events_pb2.MessageReleased)
_NEWS = (events_pb2.DeliveryChanged, events_pb2.MessageRejected, events_pb2.MailboxClosed)
_KINDS = {
    kind.DESCRIPTOR.full_name: kind
    for kind in (*_DEPARTURES, *_NEWS, events_pb2.MessageWithdrawn, events_pb2.InboundReceived)
}


async def follow(transaction: Connection, events: Sequence[Received]) -> None:
    """Adds what follows from events of this service."""
    told = [(_KINDS[event.type], message_id) for event in events if (message_id := _message(event)) is not None]
    if not told:
        return
    known = await store.of_messages(transaction, [message_id for _, message_id in told])
    replies = [message_id for kind, message_id in told if kind is events_pb2.InboundReceived]
    answered = await store.answered_by(transaction, replies) if replies else {}
    for kind, message_id in told:
        if message_id in answered:
            await bring(transaction, message_id, Kind.REPLY, answered[message_id]["subsystem"])
        elif (passage := known.get(message_id)) is not None and passage["direction"] == OUTBOUND:
            await _plan(transaction, kind, passage)


async def bring(transaction: Connection, message_id: UUID, kind: Kind, node: str) -> None:
    """Has something be said to a node; a message or a reply goes after its attachments."""
    carried = [message_id] if kind in (Kind.MESSAGE, Kind.REPLY) else []
    for row in await attachment_store.attachments_of(transaction, carried):
        await store.add(transaction, message_id, Kind.ATTACHMENT, node, attachment_id=row["attachment_id"])
    await store.add(transaction, message_id, kind, node)


async def _plan(transaction: Connection, kind: type[Message], passage: Row) -> None:
    message_id = passage["message_id"]
    if passage["foreign_id"] is not None:
        if kind in _NEWS:
            await store.add(transaction, message_id, Kind.REPORT, passage["subsystem"])
    elif kind in _DEPARTURES and passage["release_time"] is not None:
        for node in passage["asked"]:
            await store.add(transaction, message_id, Kind.ENQUIRY, node)
    elif kind is events_pb2.MessageWithdrawn and passage["subsystem"] is not None:
        await store.add(transaction, message_id, Kind.WITHDRAWAL, passage["subsystem"])
    elif kind in (events_pb2.MessageWithdrawn, events_pb2.MessageRejected):
        await store.forget_recipient(transaction, message_id)


def _message(event: Received) -> UUID | None:
    """The message that an event is about, where something may follow from it."""
    kind = _KINDS.get(event.type)
    if kind is None:
        return None
    return UUID(kind.FromString(event.payload).reference.message.split("/")[3])
