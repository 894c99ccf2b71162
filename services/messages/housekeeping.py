"""What has to be forgotten in time: messages past their retention, unused attachments, old events of the feeds.

None of it comes back, so nothing is forgotten by a clock that cannot be trusted (`clock.Watch`).
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta

from services.messages import attachment_store, blob_store, clock, feed_store, retention, webhook_store
from services.messages.feed import KEPT_DAYS
from services.runtime.database import PASSING, Database
from services.runtime.outbox import Outbox

logger = logging.getLogger(__name__)

INTERVAL = 600.0
"""Seconds between two rounds."""

BATCH = 500
"""Attachments deleted in one statement."""


async def run(*, database: Database, outbox: Outbox) -> None:
    """Rounds, for as long as the process runs. Several processes may do this at once."""
    watch = clock.Watch()
    while True:
        try:
            reading = await clock.read(database)
            if watch.trusts(reading):
                await once(database=database, outbox=outbox, now=reading.here)
        except PASSING as error:
            logger.warning("housekeeping waits", extra={"error": type(error).__qualname__})
        await asyncio.sleep(INTERVAL)


async def once(*, database: Database, outbox: Outbox, now: datetime) -> None:
    """One round."""
    await retention.once(database=database, outbox=outbox, now=now)
    while count := await _delete_expired(database, now=now):
        logger.info("unused attachments deleted", extra={"count": count})
    await feed_store.sweep(database, older_than=now - timedelta(days=KEPT_DAYS))
    await webhook_store.sweep_dead_letters(database, older_than=now - timedelta(days=KEPT_DAYS))


async def _delete_expired(database: Database, *, now: datetime) -> int:
    async with database.transaction() as transaction:
        left = await attachment_store.delete_expired(transaction, now=now, limit=BATCH)
        await blob_store.leave(transaction, left)
    return len(left)
