"""Takes another service's events from its stream, each with effect once.

A batch is handled in one transaction together with its ids in the inbox, and
acknowledged after the commit: an event delivered again finds its id there. One
process of a service consumes at a time, so that the stream's order holds. A
batch that fails is tried event by event; one that fails time after time goes to
the table of dead letters, and the others go on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from opentelemetry.trace import SpanKind

from services.runtime import database, jetstream, mesh
from services.runtime.database import Connection, Database
from services.runtime.jetstream import Received
from services.runtime.telemetry import EVENTS_HANDLED, EVENTS_PENDING, Telemetry, describe

logger = logging.getLogger(__name__)

BATCH = 500
"""Events handled in one transaction at most."""

PULL_SECONDS = 20
"""How long one pull request waits at the server; then the next is sent."""

LOOK_SECONDS = 1.0
"""How often a consumer that hears nothing looks whether NATS has been away: a pull request does not survive that."""

SETTLE_SECONDS = jetstream.ACK_WAIT + 0.5
"""How long what was delivered and not acknowledged stays away before JetStream delivers it again, ahead of the rest."""

SILENCE = PULL_SECONDS + 3.0
"""Seconds without a word from the server, after which a pull request counts as lost."""

RETRY_INTERVAL = 0.5
"""Seconds to wait while PostgreSQL or NATS is away."""

MAX_DELIVERIES = 6
"""Tries before an event becomes a dead letter: with ACK_WAIT between them, half a minute."""

KEPT_DAYS = 30
"""How long the inbox remembers ids: longer than any stream holds events."""

LOST: tuple[type[Exception], ...] = (nats.errors.Error, *database.AWAY, OSError)
"""What a consumer meets while NATS or PostgreSQL is away."""

OUTCOMES = ("applied", "duplicate", "dead")
"""What becomes of events, as metrics tell it."""

Handler = Callable[[Connection, Sequence[Received]], Awaitable[None]]


class Consumer:
    """Reads one durable: that of `service` on the stream of `publisher`.

    `handle` gets a transaction and events that have not taken effect yet, in
    the order of the stream, and does their whole effect in that transaction.
    """

    def __init__(
        self,
        *,
        service: str,
        publisher: str,
        database: Database,
        nats: Client,
        handle: Handler,
        telemetry: Telemetry,
        committed: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._publisher = publisher
        self._database = database
        self._nats = nats
        self._handle = handle
        self._telemetry = telemetry
        self._committed = committed
        prefix = mesh.api_prefix(publisher)
        self._next = f"{prefix}.CONSUMER.MSG.NEXT.{mesh.stream(publisher)}.{service}"
        self._info = f"{prefix}.CONSUMER.INFO.{mesh.stream(publisher)}.{service}"
        for outcome in OUTCOMES:  # told as 0 from the start: an increase from nothing is none to Prometheus
            EVENTS_HANDLED.labels(publisher, outcome)
        EVENTS_PENDING.labels(publisher)

    async def run(self) -> None:
        """Handles events for as long as the process runs."""
        while True:
            try:
                async with self._database.leading(f"consume {self._publisher}") as lead:
                    await self._read(lead)
            except LOST as error:
                logger.warning(
                    "consumer waits", extra={"publisher": self._publisher, "error": type(error).__qualname__}
                )
                await asyncio.sleep(RETRY_INTERVAL)

    async def _read(self, lead: Connection) -> None:
        inbox = self._nats.new_inbox()
        subscription = await self._nats.subscribe(inbox)
        try:
            reconnects = -1
            while not lead.is_closed():
                if self._nats.stats["reconnects"] != reconnects:
                    reconnects = self._nats.stats["reconnects"]
                    await self._settle()
                await self._pull(inbox)
                await self._until_pull_is_spent(subscription, lead)
        finally:
            if self._nats.is_connected:
                await subscription.unsubscribe()

    async def _settle(self) -> None:
        """Waits for what a process or a server that died had in its hands: newer events would overtake it."""
        info = json.loads((await self._nats.request(self._info, b"", timeout=2)).data)
        if info.get("num_ack_pending"):
            logger.info("waits for what was under way", extra={"publisher": self._publisher})
            await asyncio.sleep(SETTLE_SECONDS)

    async def _pull(self, inbox: str) -> None:
        request = {"batch": BATCH, "expires": PULL_SECONDS * 1_000_000_000}
        await self._nats.publish(self._next, json.dumps(request).encode(), reply=inbox)

    async def _until_pull_is_spent(self, subscription: Subscription, lead: Connection) -> None:
        left, connection, heard = BATCH, self._nats.stats["reconnects"], time.monotonic()
        while left > 0 and not lead.is_closed() and time.monotonic() - heard < SILENCE:
            try:
                first = await subscription.next_msg(LOOK_SECONDS)
            except nats.errors.TimeoutError:
                if self._nats.stats["reconnects"] != connection:
                    return
                continue
            heard = time.monotonic()
            batch, spent = _split([first, *await _waiting(subscription)])
            if batch:
                left -= len(batch)
                await self._take(batch)
            if spent:
                return

    async def _take(self, messages: Sequence[Msg]) -> None:
        events, sound = [], []
        for message in messages:
            try:
                events.append(jetstream.received(self._publisher, message))
                sound.append(message)
            except (KeyError, ValueError):
                logger.error("not an event of ours", extra={"publisher": self._publisher})
                await message.term()
        while True:
            try:
                await self._apply(events)
                break
            except database.AWAY:
                await asyncio.sleep(RETRY_INTERVAL)
            except Exception as error:  # whatever a handler raises
                logger.error("a batch failed; one by one", exc_info=error, extra={"publisher": self._publisher})
                await self._one_by_one(sound, events)
                return
        for message in sound:
            await message.ack()
        EVENTS_PENDING.labels(self._publisher).set(messages[-1].metadata.num_pending)

    async def _apply(self, events: Sequence[Received]) -> None:
        if not events:
            return
        async with self._database.transaction() as transaction:
            fresh = {
                row["event_id"]
                for row in await transaction.fetch(
                    "insert into inbox (publisher, event_id) select $1, unnest($2::uuid[])"
                    " on conflict do nothing returning event_id",
                    self._publisher,
                    [event.event_id for event in events],
                )
            }
            todo = [event for event in events if event.event_id in fresh]
            if todo:
                with self._telemetry.span(
                    f"process {self._publisher}",
                    SpanKind.CONSUMER,
                    carrier={"traceparent": todo[0].trace},
                    messaging_system="nats",
                    messaging_batch_message_count=len(todo),
                ):
                    await self._handle(transaction, todo)
        EVENTS_HANDLED.labels(self._publisher, "applied").inc(len(todo))
        EVENTS_HANDLED.labels(self._publisher, "duplicate").inc(len(events) - len(todo))
        if todo and self._committed is not None:
            await self._committed()

    async def _one_by_one(self, messages: Sequence[Msg], events: Sequence[Received]) -> None:
        for message, event in zip(messages, events, strict=True):
            try:
                await self._apply([event])
            except Exception as error:  # noqa: BLE001  # whatever a handler raises
                if message.metadata.num_delivered < MAX_DELIVERIES:
                    await message.nak(delay=jetstream.ACK_WAIT)
                    continue
                await bury(self._database, event, error)
            await message.ack()


async def bury(database: Database | Connection, event: Received, error: Exception) -> None:
    """Keeps an event that cannot have effect as a dead letter."""
    EVENTS_HANDLED.labels(event.publisher, "dead").inc()
    logger.error("dead letter", exc_info=error, extra={"publisher": event.publisher, "event_id": str(event.event_id)})
    await database.execute(
        "insert into dead_letter (publisher, event_id, type, payload, error) values ($1, $2, $3, $4, $5)"
        " on conflict do nothing",
        event.publisher,
        event.event_id,
        event.type,
        event.payload,
        "\n".join(describe(error)),
    )


async def sweep(store: Database, interval: float = 3600.0) -> None:
    """Forgets old inbox ids, for as long as the process runs."""
    while True:
        try:
            await store.execute("delete from inbox where handle_time < now() - make_interval(days => $1)", KEPT_DAYS)
        except database.PASSING:
            logger.warning("the inbox could not be swept")
        await asyncio.sleep(interval)


async def _waiting(subscription: Subscription) -> list[Msg]:
    """What has arrived already, without waiting."""
    return [await subscription.next_msg(1) for _ in range(subscription.pending_msgs)]


def _split(messages: Sequence[Msg]) -> tuple[list[Msg], bool]:
    """Events, and whether the server said that the pull request is spent (a message with a status)."""
    events = [message for message in messages if not (message.headers and "Status" in message.headers)]
    return events, len(events) < len(messages)
