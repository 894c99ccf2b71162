"""What becomes of messages that went to other nodes, by this node's exchange and by what those nodes say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from uuid import UUID

from solmu.exchange.v1 import envelopes_pb2, events_pb2
from solmu.messages.v1 import errors_pb2

from services.messages import closings, course, message_store
from services.messages.abroad import planning, store
from services.messages.abroad.store import Kind
from services.messages.course import Course
from services.messages.deliveries import Report
from services.messages.servicers import courses
from services.messages.servicers.courses import Move
from services.runtime.database import Connection, Row
from services.runtime.jetstream import Received
from services.runtime.outbox import Outbox

DeliveryState = envelopes_pb2.DeliveryState

_LASTING = (Kind.REPORT, Kind.REPLY, Kind.WITHDRAWAL)
"""What is said again where the other node has been away for longer than an envelope lives."""


class Hearing:
    """Takes what is heard."""

    def __init__(self, *, outbox: Outbox) -> None:
        self._outbox = outbox

    async def settled(self, transaction: Connection, events: Sequence[Received]) -> None:
        """Takes the exchange's events: errands that were acknowledged or refused, or whose time was over."""
        ended = dict(found for event in events if (found := _settled(event)) is not None)
        errands = await store.take(transaction, list(ended)) if ended else []
        for errand in errands:
            await self._ended(transaction, errand, *ended[errand["errand_id"]])

    async def _ended(self, transaction: Connection, errand: Row, state: DeliveryState.ValueType, reason: str) -> None:
        kind, message_id, node = Kind(errand["kind"]), errand["message_id"], errand["subsystem"]
        if state == DeliveryState.DELIVERY_STATE_ACKNOWLEDGED:
            if kind is Kind.MESSAGE:
                await store.forget_recipient(transaction, message_id)
        elif kind is Kind.ENQUIRY:
            await self.found(transaction, message_id, node, reachable=False)
        elif kind is Kind.MESSAGE:
            await self._nowhere(transaction, message_id)
        elif kind is Kind.REPLY and state == DeliveryState.DELIVERY_STATE_REFUSED:
            await self._refused(transaction, message_id, reason)
        elif state == DeliveryState.DELIVERY_STATE_EXPIRED and kind in _LASTING:
            await planning.bring(transaction, message_id, kind, node)

    async def found(self, transaction: Connection, message_id: UUID, node: str, *, reachable: bool) -> None:
        """Takes whether a node that was asked has the mailbox. The first that has it gets the message."""
        passage = await store.passage(transaction, message_id, lock=True)
        if passage is None or node not in passage["asked"]:
            return
        if reachable:
            await store.settle_place(transaction, message_id, node)
            await planning.bring(transaction, message_id, Kind.MESSAGE, node)
            return
        left = [other for other in passage["asked"] if other != node]
        await store.ask(transaction, message_id, left)
        if not left:
            await self._nowhere(transaction, message_id)

    async def heard(self, transaction: Connection, message_id: UUID, report: Report) -> None:
        """Takes what became of a message at the node where the mailbox is."""
        await self._move(transaction, message_id, lambda before, now: course.heard(before, report, now=now))

    async def closed(self, transaction: Connection, message_id: UUID, ground: str) -> None:
        """Takes whether the mailbox there was closed while the message waits in it, of which its sender hears once."""
        if not await store.note_closing(transaction, message_id, ground) or not ground:
            return
        row = await message_store.hold(transaction, message_id)
        assert row is not None  # its passage is there
        (known,) = await courses.of(transaction, [row])
        await self._outbox.append(transaction, [closings.event(row, known, ground, now=datetime.now(UTC))])

    async def _refused(self, transaction: Connection, message_id: UUID, reason: str) -> None:
        """Takes that a node refuses a reply to a unit there: who wrote it sees that it was not to be."""
        documented = f"ERROR_REASON_{reason}" in errors_pb2.ErrorReason.DESCRIPTOR.values_by_name
        known = reason if documented else "MESSAGE_STATE"
        await self._move(transaction, message_id, lambda before, now: course.refused_there(before, known, now=now))

    async def _move(
        self, transaction: Connection, message_id: UUID, moved: Callable[[Course, datetime], Course]
    ) -> None:
        now = datetime.now(UTC)
        row = await message_store.hold(transaction, message_id)
        if row is None:
            return
        (before,) = await courses.of(transaction, [row])
        after = moved(before, now)
        if after is not before:
            await courses.keep(transaction, self._outbox, [Move(row, before, after)], now=now)

    async def _nowhere(self, transaction: Connection, message_id: UUID) -> None:
        await store.forget_recipient(transaction, message_id)
        await self.heard(transaction, message_id, Report(unreachable=True))


def _settled(event: Received) -> tuple[UUID, tuple[DeliveryState.ValueType, str]] | None:
    """The errand that an event of the exchange ends, how, and why; None for other events."""
    if event.type != events_pb2.EnvelopeSettled.DESCRIPTOR.full_name:
        return None
    told = events_pb2.EnvelopeSettled.FromString(event.payload)
    try:
        return (
            (UUID(told.message_id), (told.state, told.reason))
            if told.envelope.split("/")[1].endswith("~solmu")
            else None
        )
    except ValueError:
        return None
