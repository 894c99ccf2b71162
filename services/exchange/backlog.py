"""What waits in the exchange, as it is shown to operators and to Prometheus."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from solmu.exchange.v1 import monitoring_pb2

from services.exchange import backlog_store, evidence_store
from services.exchange.evidence_rules import MAX_PENDING
from services.exchange.policies import MAX_WAITING
from services.runtime.database import PASSING, Database
from services.runtime.telemetry import EXCHANGE_OLDEST_SECONDS, EXCHANGE_WAITING

logger = logging.getLogger(__name__)

LOOK_INTERVAL = 15.0
"""Seconds between two looks for the metrics."""

QUEUES = ("time_stamps", "certificate_status", "outgoing_envelopes", "incoming_envelopes", "receipts", "log_leaves")
"""The queues, as the contract names them."""

BOUNDS = {"time_stamps": MAX_PENDING, "outgoing_envelopes": MAX_WAITING, "incoming_envelopes": MAX_WAITING}
"""How many there may be by the usual policy; of envelopes for each recipient."""


class Backlogs:
    """Reads what waits."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def read(self) -> monitoring_pb2.Backlog:
        """What waits now."""
        shown = monitoring_pb2.Backlog()
        for name, row in (await backlog_store.waiting(self._database)).items():
            queue: monitoring_pb2.Backlog.Queue = getattr(shown, name)
            queue.count = row["number"]
            queue.last_failure = row["last_failure"] or ""
            queue.bound = BOUNDS.get(name, 0)
            if row["oldest"] is not None:
                queue.oldest_time.FromDatetime(row["oldest"])
        stamping = await evidence_store.stamping(self._database)
        queue = shown.time_stamps
        queue.count, queue.bound = stamping["pending"], BOUNDS["time_stamps"]
        queue.rate = await evidence_store.stamping_rate(self._database)
        queue.last_failure = "TIME_STAMP_UNAVAILABLE" if stamping["failing_since"] is not None else ""
        if stamping["oldest"] is not None:
            queue.oldest_time.FromDatetime(stamping["oldest"])
        return shown

    async def follow(self) -> None:
        """Tells Prometheus, for as long as the process runs."""
        while True:
            try:
                await self.measure()
            except PASSING as error:
                logger.warning("what waits is not known", extra={"error": type(error).__qualname__})
            await asyncio.sleep(LOOK_INTERVAL)

    async def measure(self) -> None:
        """Tells Prometheus what waits now."""
        shown, now = await self.read(), datetime.now(UTC)
        for name in QUEUES:
            queue: monitoring_pb2.Backlog.Queue = getattr(shown, name)
            EXCHANGE_WAITING.labels(name).set(queue.count)
            waits = queue.count and queue.HasField("oldest_time")
            oldest = queue.oldest_time.ToDatetime(UTC) if waits else now
            EXCHANGE_OLDEST_SECONDS.labels(name).set(max(0.0, (now - oldest).total_seconds()))
