"""What one process of the service does for all of them, in turns, as long as it leads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from services.runtime.database import PASSING, Connection, Database

logger = logging.getLogger(__name__)

RETRY_INTERVAL = 2.0
"""Seconds until the next turn after one that PostgreSQL did not let be."""

Turn = Callable[[], Awaitable[float]]
"""Does what is due, and returns the seconds until it is asked again."""


class Leading:
    """Takes turns at works, each by itself: one that waits for a network holds up no other.

    One lock, and so one held connection, for all of them.
    """

    def __init__(self, *, database: Database, name: str, works: Mapping[str, Turn]) -> None:
        self._database = database
        self._name = name
        self._works = works

    async def run(self) -> None:
        """Works for as long as the process runs; waits while another process does."""
        while True:
            try:
                async with self._database.leading(self._name) as lead, asyncio.TaskGroup() as group:
                    for name, turn in self._works.items():
                        group.create_task(_take_turns(name, turn, lead))
            except PASSING as error:
                logger.warning("does not lead", extra={"what": self._name, "error": type(error).__qualname__})
                await asyncio.sleep(RETRY_INTERVAL)


async def _take_turns(name: str, turn: Turn, lead: Connection) -> None:
    while not lead.is_closed():
        try:
            pause = await turn()
        except PASSING as error:
            logger.warning("waits", extra={"what": name, "error": type(error).__qualname__})
            pause = RETRY_INTERVAL
        await asyncio.sleep(pause)
