"""The feed of each unit: what happened, in an order that never changes.

Events get the next places in their units' feeds in the transaction that they
come from, or for what went by the outbox in the one that marks them as
published: either holds the feed until it has committed, so nothing in a feed
overtakes anything, whoever dies. Readers hold a cursor: the unit and a place in
its feed, opaque to them.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime

import nats.errors
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message
from nats.aio.client import Client
from nats.aio.msg import Msg
from solmu.messages.v1 import events_pb2, feed_pb2, messages_pb2

from services.messages import feed_store
from services.runtime.database import Connection, Database
from services.runtime.errors import FailedPrecondition, Fault, InvalidArgument
from services.runtime.jetstream import Received

POLL_INTERVAL = 2.0
"""Seconds between two looks of a stream that nothing has woken: a wake over NATS may be lost."""

WAKE = "wake.feed"
"""Core NATS subject, within the service's own account, on which its processes tell each other of new events."""

PAGE = 500
"""Events that a stream reads at once."""

KEPT_DAYS = 90
"""How long events are kept; the contract promises 60 days."""

_DELIVERY_TYPES = {
    messages_pb2.Delivery.CHANNEL_ELECTRONIC: "delivery",
    messages_pb2.Delivery.CHANNEL_EXCHANGE: "delivery",
    messages_pb2.Delivery.CHANNEL_PAPER: "paper",
}

_TYPES: dict[type[Message], str] = {
    events_pb2.MessageAccepted: "message.accepted",
    events_pb2.MessageReleased: "message.released",
    events_pb2.MessageRejected: "message.rejected",
    events_pb2.MessageWithdrawn: "message.withdrawn",
    events_pb2.MessageClosed: "message.closed",
    events_pb2.InboundReceived: "inbound.received",
    events_pb2.MailboxClosed: "delivery.mailbox_closed",
}


Payload = Message
"""An event of this service, as in `events.proto`."""


def entry(event: Received) -> tuple[str, feed_pb2.Event] | None:
    """The unit whose feed an event belongs to, and how it stands there; None where it belongs to none."""
    kind = descriptor_pool.Default().FindMessageTypeByName(event.type)
    payload = message_factory.GetMessageClass(kind).FromString(event.payload)
    if _type(payload) is None or not payload.reference.message:  # type: ignore[attr-defined]  # every feed event has one
        return None
    told = event_of(payload, time=event.time)
    told.id = str(event.event_id)
    return told.message.split("/")[1], told


def event_of(payload: Payload, *, time: datetime) -> feed_pb2.Event:
    """An event as it stands in the feed, but for its id."""
    reference = payload.reference  # type: ignore[attr-defined]
    told = feed_pb2.Event(
        type=_type(payload) or "",
        message=reference.message,
        idempotency_key=reference.idempotency_key,
        correlation_id=reference.correlation_id,
    )
    told.time.FromDatetime(time.astimezone(UTC))
    if isinstance(payload, events_pb2.DeliveryChanged | events_pb2.MailboxClosed):
        told.delivery.CopyFrom(payload.delivery)
    if isinstance(payload, events_pb2.MessageRejected | events_pb2.MailboxClosed):
        told.reason = payload.reason
    if isinstance(payload, events_pb2.AttachmentJudged):
        told.attachment = payload.attachment
    if isinstance(payload, events_pb2.LegalEffectChanged):
        told.legal_effect.CopyFrom(payload.legal_effect)
    return told


async def enter(transaction: Connection, events: Sequence[Received]) -> None:
    """Puts events of this service into the feeds they belong to."""
    await feed_store.append(transaction, [found for event in events if (found := entry(event)) is not None])


def _type(payload: Message) -> str | None:
    match payload:
        case events_pb2.DeliveryChanged():
            state = messages_pb2.Delivery.State.Name(payload.delivery.state).removeprefix("STATE_").lower()
            return f"{_DELIVERY_TYPES[payload.delivery.channel]}.{state}"
        case events_pb2.LegalEffectChanged():
            state = messages_pb2.LegalEffect.State.Name(payload.legal_effect.state).removeprefix("STATE_").lower()
            return "legal.corrected" if payload.corrected else f"legal.{state}"
        case events_pb2.NotificationChanged():
            return f"notification.{events_pb2.NotificationChanged.Outcome.Name(payload.outcome)[8:].lower()}"
        case events_pb2.AttachmentJudged():
            return "attachment.infected" if payload.infected else "attachment.clean"
        case events_pb2.DuePassed():
            return "due.never_confirmed" if payload.receipt_awaited else "due.never_read"
    return _TYPES.get(type(payload))


def cursor(unit: str, sequence: int) -> str:
    """The cursor behind an event."""
    return base64.urlsafe_b64encode(f"{unit}:{sequence}".encode()).decode("ascii").rstrip("=")


def sequence(given: str, *, unit: str) -> int:
    """The place behind a cursor; 0 for none. Raises InvalidArgument, CURSOR_INVALID."""
    if not given:
        return 0
    try:
        decoded = base64.b64decode(given + "=" * (-len(given) % 4), altchars=b"-_", validate=True).decode()
    except ValueError:
        decoded = ""
    of, _, place = decoded.partition(":")
    if of != unit or not place.isascii() or not place.isdigit() or len(place) > 18:
        raise InvalidArgument("CURSOR_INVALID", "the cursor is not one of this unit's feed")
    return int(place)


class Feed:
    """Writes and reads the feeds."""

    def __init__(self, *, database: Database, nats: Client) -> None:
        self._database = database
        self._nats = nats
        self._written = asyncio.Event()

    async def listen(self) -> None:
        """Wakes this process's streams when another process has put events into a feed."""

        async def woken(_: Msg) -> None:
            self._wake()

        await self._nats.subscribe(WAKE, cb=woken)

    async def written(self) -> None:
        """Wakes the streams, here and in the other processes, once events are in the feeds."""
        self._wake()
        try:
            await self._nats.publish(WAKE, b"")
        except nats.errors.Error:
            pass  # they look by themselves soon

    def news(self) -> asyncio.Event:
        """Is set when events have been put into a feed after now; waking may fail, so look by yourself too."""
        return self._written

    def _wake(self) -> None:
        self._written.set()
        self._written = asyncio.Event()

    async def page(self, unit: str, *, after: int, size: int, types: Sequence[str]) -> tuple[list[feed_pb2.Event], int]:
        """The events after a place, and the place to go on from.

        Raises FailedPrecondition, CURSOR_EXPIRED, where events in between are
        no longer kept.
        """
        rows, oldest = await feed_store.page(self._database, unit, after=after, size=size)
        if after and oldest is not None and after + 1 < oldest:
            raise FailedPrecondition(
                "CURSOR_EXPIRED", "the events after this cursor are no longer kept", oldest=cursor(unit, oldest - 1)
            )
        events = []
        for row in rows:
            if not types or row["type"] in types:
                event = feed_pb2.Event.FromString(row["event"])
                event.cursor = cursor(unit, row["sequence"])
                events.append(event)
        return events, rows[-1]["sequence"] if rows else after

    async def stream(
        self, unit: str, *, after: int, types: Sequence[str], ended: Callable[[], Fault | None]
    ) -> AsyncIterator[feed_pb2.Event]:
        """The events after a place, and then each as it comes, until `ended` says why it must end."""
        while True:
            if (fault := ended()) is not None:
                raise fault
            written = self._written
            before = after
            events, after = await self.page(unit, after=after, size=PAGE, types=types)
            for event in events:
                yield event
            if after == before:
                try:
                    await asyncio.wait_for(written.wait(), POLL_INTERVAL)
                except TimeoutError:
                    pass
