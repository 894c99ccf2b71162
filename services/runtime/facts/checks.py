"""Checks in a consuming process: judged by the facts in its memory, or asked of the service.

A service that acts on mandates embeds this. A check costs microseconds while
the facts are known to be at most three seconds old and include the revision
that the caller names. Otherwise the authorisations service is asked, and where
it does not answer the check fails with Unavailable: an old "allowed" is never
given.

What is judged here goes into the audit record of the authorisations service a
moment later (`recording.py`). While it cannot be delivered, nothing is judged
here. A process that is killed takes what it judged in its last quarter of a
second with it; one that is stopped does not.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime

from services.runtime.client import Peer
from services.runtime.errors import Fault, InvalidArgument, Unavailable
from services.runtime.facts.cache import FactCache
from services.runtime.facts.checking import Question, Verdict
from services.runtime.facts.recording import Recording
from services.runtime.facts.remote import RemoteFacts
from services.runtime.facts.table import FactTable

PATIENCE = 0.05
"""Seconds that a check waits for a revision on its way, before the service is asked."""


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
        self._recording = Recording(self._remote.record)

    def current(self, at_least: str = "") -> FactTable | None:
        """The facts of this process, where they are new enough and include a revision."""
        return self._facts.current(at_least)

    async def check(self, question: Question, *, consistency_token: str = "") -> Verdict:
        """The verdict, by facts at least as new as a consistency token.

        Raises InvalidArgument, THEME_UNSUITABLE and CONSISTENCY_TOKEN_UNKNOWN;
        Unavailable where it cannot be known now.
        """
        table = await self._table(consistency_token)
        if table is None:
            return await self._asked(question, consistency_token)
        judged = table.judge(question, now=self._clock())
        if isinstance(judged, Fault):
            raise judged
        await self._recording.note(question, judged, self._facts.position)
        return judged

    async def run(self) -> None:
        """Follows the facts and delivers records for as long as the process runs."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._facts.run())
            tasks.create_task(self._recording.run())

    async def _table(self, consistency_token: str) -> FactTable | None:
        """The facts to judge by, before anything else happens; None where there are none, or no room for a record."""
        if self._recording.full and not await self._recording.room():
            return None
        if (table := self._facts.current(consistency_token)) is not None:
            return table
        with contextlib.suppress(Unavailable):
            return await self._facts.reach(known=consistency_token, patience=PATIENCE)
        return None

    async def _asked(self, question: Question, consistency_token: str) -> Verdict:
        try:
            return await self._remote.check(question, consistency_token=consistency_token)
        except InvalidArgument:
            raise
        except Fault:
            raise Unavailable(
                "UNAVAILABLE", "whether a right allows this cannot be known now; try again", retry_after=1.0
            ) from None
