"""Checks in a consuming process: judged by the facts in its memory, or asked of the service.

A service that acts on mandates embeds this. A check costs microseconds while
the facts are known to be at most three seconds old and include the revision
that the caller names. Otherwise the authorisations service is asked, and where
it does not answer the check fails with Unavailable: an old "allowed" is never
given.

What is judged here goes into the audit record of the authorisations service a
moment later, in batches; each entry has its name from here, so that one that is
sent twice is there once. While entries cannot be delivered, nothing is judged
here. A process that is killed takes those of its last quarter of a second with
it; one that is stopped does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from solmu.authorisations.v1.checks_pb2 import RecordChecksRequest

from services.runtime.client import Peer
from services.runtime.errors import Fault, InvalidArgument, Unavailable
from services.runtime.facts import wire
from services.runtime.facts.cache import FactCache
from services.runtime.facts.checking import Question, Verdict
from services.runtime.facts.remote import RemoteFacts
from services.runtime.facts.table import FactTable
from services.runtime.ids import new_id

logger = logging.getLogger(__name__)

PATIENCE = 0.05
"""Seconds that a check waits for a revision on its way, before the service is asked."""

RECORD_INTERVAL = 0.25
"""Seconds between two deliveries to the audit record."""

RECORD_BATCH = 500
"""Entries in one delivery: made in a few milliseconds, so that no check waits long for them."""

RECORDS_WAITING = 20_000
"""Entries that may wait; more, and the service is asked."""


_Judged = tuple[Question, Verdict, str]
"""What is recorded: question, verdict, and the facts it was judged by."""


class Checks:
    """Answers whether one party may act for another, in some themes or in all."""

    def __init__(
        self,
        *,
        authorisations: Peer,
        themes: tuple[str, ...] = (),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._remote = RemoteFacts(authorisations)
        self._facts = FactCache(source=self._remote, themes=themes)
        self._clock = clock
        self._waiting: list[_Judged] = []
        self._delivering: list[RecordChecksRequest.JudgedCheck] = []

    def current(self, at_least: str = "") -> FactTable | None:
        """The facts of this process, where they are new enough and include a revision."""
        return self._facts.current(at_least)

    async def check(self, question: Question, *, consistency_token: str = "") -> Verdict:
        """The verdict, by facts at least as new as a consistency token.

        Raises InvalidArgument, THEME_UNSUITABLE and CONSISTENCY_TOKEN_UNKNOWN;
        Unavailable where it cannot be known now.
        """
        table = None
        if len(self._waiting) < RECORDS_WAITING:
            with contextlib.suppress(Unavailable):
                table = await self._facts.reach(known=consistency_token, patience=PATIENCE)
        if table is None:
            return await self._asked(question, consistency_token)
        judged = table.judge(question, now=self._clock())
        if isinstance(judged, Fault):
            raise judged
        self._waiting.append((question, judged, self._facts.position))
        return judged

    async def run(self) -> None:
        """Follows the facts and delivers records for as long as the process runs."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._facts.run())
                tasks.create_task(self._deliver_always())
        finally:
            with contextlib.suppress(Fault):
                await self._deliver()

    async def _asked(self, question: Question, consistency_token: str) -> Verdict:
        try:
            return await self._remote.check(question, consistency_token=consistency_token)
        except InvalidArgument:
            raise
        except Fault:
            raise Unavailable(
                "UNAVAILABLE", "whether a right allows this cannot be known now; try again", retry_after=1.0
            ) from None

    async def _deliver_always(self) -> None:
        while True:
            await asyncio.sleep(RECORD_INTERVAL)
            try:
                await self._deliver()
            except Fault as fault:
                logger.warning("records of checks wait", extra={"reason": fault.reason, "waiting": len(self._waiting)})

    async def _deliver(self) -> None:
        while self._delivering or self._waiting:
            if not self._delivering:
                self._delivering = [_entry(one) for one in self._waiting[:RECORD_BATCH]]
                del self._waiting[:RECORD_BATCH]
            await self._remote.record(self._delivering)
            self._delivering = []


def _entry(judged: _Judged) -> RecordChecksRequest.JudgedCheck:
    question, verdict, position = judged
    response = wire.response(verdict, consistency_token=position, audit_record=f"auditRecords/{new_id()}")
    return RecordChecksRequest.JudgedCheck(check=wire.request(question), response=response)
