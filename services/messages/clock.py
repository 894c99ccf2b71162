"""What time does to messages: release, legal effect, due times.

Each message keeps when it next moves by itself (`course.wake_time`). Whoever
finds that moment passed locks the message, leaving out those that another
process has, reads it again under the lock and has the rules say what it has
become. So several processes may do this at once, a message moves once, and a
node that was down or whose clock jumped catches up.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from services.messages import course, message_store
from services.messages.servicers import courses
from services.messages.servicers.courses import Move
from services.runtime.database import PASSING, Database
from services.runtime.outbox import Outbox

logger = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two looks; what is due waits no longer than this."""

BATCH = 200
"""Messages moved in one transaction: few enough that whoever opens one of them hardly waits."""


async def run(*, database: Database, outbox: Outbox) -> None:
    """Moves messages for as long as the process runs."""
    while True:
        try:
            while await once(database=database, outbox=outbox, now=datetime.now(UTC)) == BATCH:
                pass
        except PASSING as error:
            logger.warning("the clock waits", extra={"error": type(error).__qualname__})
        await asyncio.sleep(INTERVAL)


async def once(*, database: Database, outbox: Outbox, now: datetime) -> int:
    """Moves a batch of the messages that are due by `now`; returns how many."""
    async with database.transaction() as transaction:
        rows = await message_store.hold_due(transaction, now=now, limit=BATCH)
        if not rows:
            return 0
        moves = [
            Move(row, before, course.moved_on(before, reachable=courses.reachable(row, now=now), now=now))
            for row, before in zip(rows, await courses.of(transaction, rows), strict=True)
        ]
        await courses.keep(transaction, outbox, moves, now=now)
    outbox.wake()
    return len(rows)
