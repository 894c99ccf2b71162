"""What time does to messages: release, legal effect, due times, letters for what stays unread.

Each message keeps when it next moves by itself (`course.wake_time`). One
process leads: it finds what is due, locks the message, leaving out those that
another process has, reads it again under the lock and has the rules say what it
has become. A message moves once, and a node that was down catches up.

A clock that jumps would send letters that nobody can call back. Nothing moves
while this machine's clock and the database's disagree, nor for a while after
either has jumped: time for whoever watches over clocks to set it right, and is
told by the alert ClockHeld.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from services.messages import course, message_store
from services.messages.servicers import courses
from services.messages.servicers.courses import Move
from services.runtime.database import PASSING, Connection, Database
from services.runtime.outbox import Outbox
from services.runtime.telemetry import CLOCK_HELD

logger = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two looks; what is due waits no longer than this."""

BATCH = 200
"""Messages moved in one transaction: few enough that whoever opens one of them hardly waits."""

JUMP = timedelta(minutes=1)
"""How far clocks may be from each other, or from the time that has passed: more than any that is kept in step."""

HOLD = timedelta(minutes=10)
"""How long nothing moves after a jump."""

_RUNNING = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Counts seconds that no one can set, those while the machine sleeps included."""


@dataclass(frozen=True)
class Reading:
    """What the clocks say at one moment."""

    here: datetime
    database: datetime
    running: timedelta
    """Since the machine has started."""


class Watch:
    """Tells whether the clocks can be trusted."""

    def __init__(self) -> None:
        self._last: Reading | None = None
        self._held_until: timedelta | None = None

    def trusts(self, now: Reading) -> bool:
        """Whether what is due by this reading is due indeed."""
        if self._jumped(now):
            if self._held_until is None:
                logger.error("a clock jumps; nothing that waits for its time moves")
            self._held_until = now.running + HOLD
        self._last = now
        if self._held_until is not None and now.running < self._held_until:
            return False
        self._held_until = None
        return True

    def _jumped(self, now: Reading) -> bool:
        if abs(now.here - now.database) > JUMP:
            return True
        if self._last is None:
            return False
        passed = now.running - self._last.running
        return any(
            abs(after - before - passed) > JUMP
            for before, after in ((self._last.here, now.here), (self._last.database, now.database))
        )


async def run(*, database: Database, outbox: Outbox) -> None:
    """Moves messages for as long as the process runs; waits while another process does."""
    watch = Watch()
    while True:
        try:
            async with database.leading("clock") as connection:
                await _lead(connection, watch, database=database, outbox=outbox)
        except PASSING as error:
            logger.warning("the clock waits", extra={"error": type(error).__qualname__})
            await asyncio.sleep(INTERVAL)


async def _lead(connection: Connection, watch: Watch, *, database: Database, outbox: Outbox) -> None:
    try:
        while True:
            reading = await read(connection)
            trusted = watch.trusts(reading)
            CLOCK_HELD.set(not trusted)
            while trusted and await once(database=database, outbox=outbox, now=reading.here) == BATCH:
                pass
            await asyncio.sleep(INTERVAL)
    finally:
        CLOCK_HELD.set(0)


async def read(database: Database | Connection) -> Reading:
    """Reads the clocks."""
    there: datetime = await database.fetchval("select clock_timestamp()")
    return Reading(datetime.now(UTC), there, timedelta(seconds=time.clock_gettime(_RUNNING)))


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
