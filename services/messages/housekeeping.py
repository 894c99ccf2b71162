"""What has to be forgotten in time: messages past their retention, unused attachments, old events of the feeds."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from services.messages import attachment_store, blob_store, feed_store, retention, webhook_store
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
    while True:
        try:
            await once(database=database, outbox=outbox, now=datetime.now(UTC))
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
