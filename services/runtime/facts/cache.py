"""Holds the facts in memory, follows their changes, and knows how new they are known to be.

News comes by the stream of `WatchService.Watch`; how new the facts are is told
by `GetHead`, asked every second. Facts that include the newest revision of an
answer are as new as the moment at which it was asked for: so no clock but this
process's is believed, and nothing that was held up on the way counts for new.
Facts that are not known to be at most three seconds old judge nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Protocol

from solmu.authorisations.v1.watch_pb2 import WatchRequest, WatchResponse

from services.runtime.errors import Fault, Unavailable
from services.runtime.facts import tokens
from services.runtime.facts.table import FactTable

logger = logging.getLogger(__name__)

OLDEST = 3.0
"""Seconds that facts may be old and still be judged by; the contract's bound."""

HEAD_INTERVAL = 0.9
"""Seconds between two questions for the newest revision: three fit into the bound."""

SILENCE = 3.0
"""Seconds of silence on the stream after which it is opened anew; it has a heartbeat every second."""

SNAPSHOT_SILENCE = 60.0
"""The same until the first changes, and while a snapshot comes: those of others may come before it."""

RETRY_INTERVAL = 0.2
"""Seconds between two tries to open the stream."""

PROMISES = 8
"""Answers about the newest revision that are remembered while facts are behind them."""


class Source(Protocol):
    """Where facts come from. Where it is away, both raise Unavailable."""

    def watch(self, request: WatchRequest) -> AsyncGenerator[WatchResponse]:
        """The stream of `WatchService.Watch`."""

    async def head(self) -> str:
        """The consistency token of the newest revision."""


class FactCache:
    """The facts of some themes, or of all. `clock` gives seconds that also count while the machine sleeps."""

    def __init__(
        self,
        *,
        source: Source,
        themes: tuple[str, ...] = (),
        clock: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self._source = source
        self._themes = themes
        self._clock = clock
        self._table = FactTable()
        self._position = ""
        self._as_of = float("-inf")
        self._promises: deque[tuple[str, float]] = deque(maxlen=PROMISES)
        self._moved = asyncio.Event()
        self._restart = False
        self._whole = True
        """Whether the table is that of one revision; not so while the parts of a large transaction come."""

    @property
    def position(self) -> str:
        """The consistency token of the facts; empty before there are any."""
        return self._position

    def current(self, at_least: str = "") -> FactTable | None:
        """The facts, where they are new enough and include a revision."""
        fresh = self._whole and self._clock() - self._as_of < OLDEST
        return self._table if fresh and tokens.covers(self._position, at_least) else None

    async def reach(self, *given: str, known: str = "", patience: float) -> FactTable:
        """The facts, once they are new enough and include all revisions that were given, and one that is `known`.

        Raises InvalidArgument, CONSISTENCY_TOKEN_UNKNOWN; Unavailable, NOT_FRESH,
        after `patience` seconds, and what the source raises.
        """
        ahead = [one for one in given if not tokens.covers(self._position, one)]
        if not ahead and (table := self.current(known)) is not None:
            return table
        if ahead:
            head = await self._source.head()
            for one in ahead:
                tokens.check(one, head=head)
        wanted = max([known, *ahead])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while (table := self.current(wanted)) is None:
                    await self._moved.wait()
                return table
        raise _not_fresh()

    async def run(self) -> None:
        """Follows the facts for as long as the process runs."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._confirm())

    async def _confirm(self) -> None:
        while True:
            asked = self._clock()
            try:
                self._promises.append((await self._source.head(), asked))
                self._settle()
            except Fault as fault:
                logger.debug("the newest revision is not known", extra={"reason": fault.reason})
            await asyncio.sleep(HEAD_INTERVAL)

    async def _follow(self) -> None:
        while True:
            try:
                async with contextlib.aclosing(self._source.watch(self._request())) as stream:
                    await self._take(stream)
            except TimeoutError:
                logger.warning("the facts' stream is silent; it is opened anew")
            except Fault as fault:
                self._restart = fault.reason in {"WATCH_POSITION_GONE", "CONSISTENCY_TOKEN_UNKNOWN"}
                logger.warning("the facts' stream ended", extra={"reason": fault.reason})
            await asyncio.sleep(RETRY_INTERVAL)

    def _request(self) -> WatchRequest:
        position = self._position if self._whole and not self._restart else ""
        return WatchRequest(after_consistency_token=position, themes=self._themes)

    async def _take(self, stream: AsyncGenerator[WatchResponse]) -> None:
        """Applies what comes until it ends, falls silent or has a gap."""
        kind = WatchResponse
        fresh = FactTable()
        silence = SNAPSHOT_SILENCE
        while True:
            async with asyncio.timeout(silence):
                part = await anext(stream, None)
            if part is None:
                return
            if part.kind == kind.KIND_SNAPSHOT:
                fresh.apply(part.changes)
            elif part.kind == kind.KIND_SNAPSHOT_END:
                self._table.close()
                self._table, fresh = fresh, FactTable()
                self._restart, self._whole = False, True
                self._move(part.consistency_token)
            elif part.kind in {kind.KIND_CHANGES_PART, kind.KIND_CHANGES}:
                if part.previous_consistency_token != self._position:
                    logger.warning("the facts' stream has a gap; it is opened anew")
                    return
                self._table.apply(part.changes)
                self._whole = part.kind == kind.KIND_CHANGES
                if self._whole:
                    self._move(part.consistency_token)
            if part.kind != kind.KIND_SNAPSHOT:
                silence = SILENCE

    def _move(self, position: str) -> None:
        self._position = position
        self._settle()

    def _settle(self) -> None:
        """Notes how new the facts are, and wakes who waits for that."""
        while self._promises and tokens.covers(self._position, self._promises[0][0]):
            self._as_of = self._promises.popleft()[1]
        self._moved.set()
        self._moved = asyncio.Event()


def _not_fresh() -> Unavailable:
    return Unavailable("NOT_FRESH", "the facts cannot be known to be fresh enough; try again", retry_after=1.0)
