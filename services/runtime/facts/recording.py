"""Checks judged in a consuming process, on their way to the audit record of the authorisations service.

They go in batches, some of them at once, as soon as one is full and else after
a quarter of a second. Each entry gets its name here, so that one that is sent
twice is there once. Where the service takes them more slowly than they come,
whoever checks waits for room; where it takes none, there is soon none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from solmu.authorisations.v1.checks_pb2 import RecordChecksRequest

from services.runtime.errors import Fault
from services.runtime.facts import wire
from services.runtime.facts.checking import Question, Verdict
from services.runtime.ids import new_ids

logger = logging.getLogger(__name__)

INTERVAL = 0.25
"""Seconds that a check waits for others to be delivered with, at most."""

BATCH = 500
"""Checks in one delivery: made in a few milliseconds, so that nothing else waits long for them."""

AT_ONCE = 2
"""Deliveries under way at once: one is made while another is stored."""

MOST_WAITING = 20_000
"""Checks that may wait for delivery."""

PATIENCE = 1.0
"""Seconds that a check waits for room while deliveries get through."""


class Recording:
    """Takes what was judged, and delivers it. `record` has the service record a batch, and raises Fault."""

    def __init__(self, record: Callable[[RecordChecksRequest], Awaitable[None]]) -> None:
        self._record = record
        self._waiting: deque[tuple[Question, Verdict, str]] = deque()
        self._undelivered: list[RecordChecksRequest] = []
        self._held_up = False
        self._batch_waits = asyncio.Event()
        self._delivered = asyncio.Event()

    @property
    def full(self) -> bool:
        """Whether there is no room for one more."""
        return len(self._waiting) >= MOST_WAITING

    async def room(self) -> bool:
        """Whether there is room for one more; waits for it while deliveries get through."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while self.full and not self._held_up:
                    await self._delivered.wait()
        return not self.full

    async def note(self, question: Question, verdict: Verdict, position: str) -> None:
        """Takes a check that was judged by the facts of a revision; with each full batch, others get a turn."""
        self._waiting.append((question, verdict, position))
        if len(self._waiting) % BATCH == 0:
            self._batch_waits.set()
            await asyncio.sleep(0)

    async def run(self) -> None:
        """Delivers for as long as the process runs, and then what is left."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(AT_ONCE):
                    tasks.create_task(self._deliver_always())
        finally:
            with contextlib.suppress(Fault):
                await self._deliver()

    async def _deliver_always(self) -> None:
        while True:
            try:
                await self._deliver()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(INTERVAL):
                        await self._batch_waits.wait()
            except Fault as fault:
                self._held_up = True
                self._tell()
                logger.warning("records of checks wait", extra={"reason": fault.reason, "waiting": len(self._waiting)})
                await asyncio.sleep(INTERVAL)

    async def _deliver(self) -> None:
        while self._undelivered or self._waiting:
            batch = self._undelivered.pop() if self._undelivered else self._next_batch()
            try:
                await self._record(batch)
            except BaseException:  # also where the process is told to stop
                self._undelivered.append(batch)
                raise
            self._held_up = False
            self._tell()

    def _next_batch(self) -> RecordChecksRequest:
        batch = RecordChecksRequest()
        for record in new_ids(min(BATCH, len(self._waiting))):
            question, verdict, position = self._waiting.popleft()
            one = batch.checks.add()
            wire.ask(one.check, question)
            wire.fill(one.response, verdict, consistency_token=position, audit_record=f"auditRecords/{record}")
        if len(self._waiting) < BATCH:
            self._batch_waits.clear()
        return batch

    def _tell(self) -> None:
        self._delivered.set()
        self._delivered = asyncio.Event()
