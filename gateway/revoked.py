"""Tells the services which client certificates were revoked, so that open streams of theirs end.

The edge refuses new connections and new calls by itself; Envoy cannot close
what is open. Each edge reports what stands on its own revocation lists, all of
it when it starts, and none of them needs to know of another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence

from services.runtime.errors import Fault

logger = logging.getLogger(__name__)

BATCH = 1000
"""Serial numbers in one report; what the contract takes."""

LOOK_SECONDS = 0.5
"""Between two looks at what the edge refuses; half of what it takes to look at the files."""


class Reports:
    """What has been reported, and what has not. `listed` are the serial numbers in force, in hexadecimal.

    `report` hands some of them over, and raises Fault where it cannot.
    """

    def __init__(
        self, *, listed: Callable[[], Collection[str]], report: Callable[[Sequence[str]], Awaitable[None]]
    ) -> None:
        self._listed = listed
        self._report = report
        self._reported: set[str] = set()
        self._complaint = ""

    async def run(self) -> None:
        """Reports whatever is new until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Reports what is new. What cannot be handed over is tried again at the next look."""
        fresh = [serial for serial in self._listed() if serial not in self._reported]
        try:
            for start in range(0, len(fresh), BATCH):
                batch = fresh[start : start + BATCH]
                await self._report(batch)
                self._reported.update(batch)
        except Fault as error:
            if str(error) != self._complaint:
                logger.warning("revoked certificates not reported", extra={"error": str(error)})
            self._complaint = str(error)
        else:
            self._complaint = ""
