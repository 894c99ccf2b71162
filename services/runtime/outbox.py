"""Events that commit together with the state they tell of, and the relay that publishes them.

A service appends an event to the outbox in the transaction that changes its
state. After the commit it wakes the relay, in this process; a poll finds what
other processes left. One relay per service is active, by an advisory lock. It
publishes in atomic batches (four fsyncs however many events), and marks rows as
published afterwards: what a crash leaves in between is published again under
the same id, which JetStream or the consumer's inbox drops.

What follows from an event within its own service (`own`) is done in the
transaction that marks it as published: once, and in the relay's order. Where
no other service consumes a service's events (`mesh.SERVICES`), JetStream does
not carry them: they have their effect and leave the outbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import nats.errors
from google.protobuf.message import Message
from nats.aio.client import Client
from nats.js.errors import APIError, Error
from opentelemetry.trace import SpanKind

from services.runtime import consumer, database, jetstream, mesh
from services.runtime.database import Connection, Database
from services.runtime.jetstream import Received
from services.runtime.telemetry import OUTBOX_LAG_SECONDS, OUTBOX_WAITING, Telemetry

logger = logging.getLogger(__name__)

BATCH = 500
"""Events published at once; JetStream takes 1000 in an atomic batch."""

POLL_INTERVAL = 0.25
"""Seconds between two looks where nothing wakes the relay."""

PAUSE = 0.01
"""Seconds after a wake in which more may come: a batch costs four fsyncs, whether of one event or of hundreds."""

RETRY_INTERVAL = 0.2
"""Seconds between two tries while NATS or PostgreSQL is away."""

KEPT_DAYS = 14
"""How long published rows stay to be replayed: twice what a stream holds."""

SWEEP_INTERVAL = 3600.0
"""Seconds between two deletions of old rows."""

DUPLICATE_IN_BATCH = 10201
"""JetStream's error where an atomic batch holds an event that the stream has already."""

UNREACHABLE = (nats.errors.Error, Error, TimeoutError, ConnectionError)
"""What publishing meets while NATS is away or has no leader."""

COLUMNS = "event_id, type, payload, trace, create_time"
"""For services that append with their own statement: outbox (COLUMNS) from `Event.row()`."""


PUBLISHED = "update outbox set publish_time = clock_timestamp() where seq = any($1::bigint[])"
GONE = "delete from outbox where seq = any($1::bigint[])"

Own = Callable[[Connection, Sequence[Received]], Awaitable[None]]
"""Does in a transaction what follows from events within the service that they come from."""


@dataclass(frozen=True)
class Event:
    """Something that happened: a message of the service's `events.proto`."""

    payload: Message
    event_id: uuid.UUID
    time: datetime

    def row(self, trace: str) -> tuple[uuid.UUID, str, bytes, str, datetime]:
        """Values for COLUMNS."""
        return self.event_id, self.payload.DESCRIPTOR.full_name, self.payload.SerializeToString(), trace, self.time


def event(payload: Message, *, new_id: Callable[[], uuid.UUID] = uuid.uuid4, now: datetime | None = None) -> Event:
    """An event that happens now."""
    return Event(payload, new_id(), now or datetime.now(UTC))


class Outbox:
    """A service's outbox and its relay."""

    def __init__(
        self,
        *,
        database: Database,
        nats: Client,
        node: str,
        service: str,
        telemetry: Telemetry,
        own: Own | None = None,
    ) -> None:
        self._database = database
        self._nats = nats
        self._node = node
        self._service = service
        self._telemetry = telemetry
        self._own = own
        self._publishes = bool(mesh.consumers(service))
        self._wake = asyncio.Event()
        self.relayed: list[Callable[[], Awaitable[None]]] = []
        """Is called after events were published, and have had their effect within the service."""

    def trace(self) -> str:
        """The current trace, to be kept with an event."""
        return self._telemetry.outgoing().get("traceparent", "")

    async def append(self, transaction: Connection, events: Sequence[Event]) -> None:
        """Adds events to a transaction. Call `wake` once it has committed."""
        trace = self.trace()
        await transaction.executemany(
            f"insert into outbox ({COLUMNS}) values ($1, $2, $3, $4, $5)", [event.row(trace) for event in events]
        )

    def wake(self) -> None:
        """Has what was just committed published now."""
        self._wake.set()

    async def relay(self) -> None:
        """Publishes for as long as the process runs; waits while another process does."""
        while True:
            try:
                async with self._database.leading("relay") as connection:
                    await self._publish_all(connection)
            except database.PASSING as error:
                logger.warning("relay lost the database", extra={"error": type(error).__qualname__})
                await asyncio.sleep(RETRY_INTERVAL)

    async def _publish_all(self, connection: Connection) -> None:
        swept = float("-inf")
        while True:
            self._wake.clear()
            published = await self._publish_waiting(connection)
            if time.monotonic() - swept > SWEEP_INTERVAL:
                swept = time.monotonic()
                await connection.execute(
                    "delete from outbox where publish_time < now() - make_interval(days => $1)", KEPT_DAYS
                )
            if published < BATCH:
                await self._pause(POLL_INTERVAL)
                await asyncio.sleep(PAUSE)

    async def _publish_waiting(self, connection: Connection) -> int:
        rows = await connection.fetch(
            f"select seq, {COLUMNS} from outbox where publish_time is null order by seq limit $1", BATCH
        )
        OUTBOX_WAITING.set(len(rows))
        if not rows:
            return 0
        if self._publishes:
            try:
                await self._publish(rows)
            except UNREACHABLE as error:
                logger.warning("events wait for nats", extra={"waiting": len(rows), "error": type(error).__qualname__})
                await asyncio.sleep(RETRY_INTERVAL)
                return BATCH  # look again at once
        async with connection.transaction():
            await connection.execute(PUBLISHED if self._publishes else GONE, [row["seq"] for row in rows])
            if self._own is not None:
                await self._follow(connection, self._own, [self._received(row) for row in rows])
        for listener in self.relayed:
            await listener()
        now = time.time()
        for row in rows:
            OUTBOX_LAG_SECONDS.observe(max(0.0, now - row["create_time"].timestamp()))
        return len(rows)

    async def _follow(self, connection: Connection, own: Own, events: Sequence[Received]) -> None:
        """Does what follows from events; where one of them cannot have effect it becomes a dead letter."""
        try:
            async with connection.transaction():
                await own(connection, events)
        except database.AWAY:
            raise
        except Exception as error:  # whatever the service raises
            if len(events) == 1:
                await consumer.bury(connection, events[0], error)
                return
            logger.error("a batch failed; one by one", exc_info=error)
            for event in events:
                await self._follow(connection, own, [event])

    def _received(self, row: database.Row) -> Received:
        return Received(
            publisher=self._service,
            event_id=row["event_id"],
            type=row["type"],
            payload=row["payload"],
            time=row["create_time"],
            trace=row["trace"],
        )

    async def _publish(self, rows: Sequence[database.Row]) -> None:
        context = self._nats.jetstream(timeout=5)
        if len(rows) > 1:
            try:
                await self._publish_batch(rows)
                return
            except APIError as error:
                if error.err_code != DUPLICATE_IN_BATCH:
                    raise
        for row in rows:  # one, or a batch of which some were stored before a crash
            with self._span(row):
                await context.publish(self._subject(row), row["payload"], headers=self._headers(row))

    async def _publish_batch(self, rows: Sequence[database.Row]) -> None:
        batch = uuid.uuid4().hex
        for number, row in enumerate(rows, start=1):
            place = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
            with self._span(row):
                fields = self._headers(row) | place
            if number < len(rows):
                await self._nats.publish(self._subject(row), row["payload"], headers=fields)
            else:
                commit = fields | {"Nats-Batch-Commit": "1"}
                await self._nats.jetstream(timeout=5).publish(self._subject(row), row["payload"], headers=commit)

    def _span(self, row: database.Row) -> contextlib.AbstractContextManager[None]:
        return self._telemetry.span(
            f"publish {row['type']}", SpanKind.PRODUCER, carrier={"traceparent": row["trace"]}, messaging_system="nats"
        )

    def _subject(self, row: database.Row) -> str:
        return jetstream.subject(self._service, row["type"])

    def _headers(self, row: database.Row) -> dict[str, str]:
        return jetstream.headers(
            node=self._node,
            service=self._service,
            event_id=row["event_id"],
            event_type=row["type"],
            time=row["create_time"],
            trace=self._telemetry.outgoing().get("traceparent", row["trace"]),
        )

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), seconds)
        except TimeoutError:
            pass
