"""What has to be forgotten in time: content, and statements, whose time is over."""

from __future__ import annotations

from datetime import UTC, datetime

from services.exchange import envelope_store, evidence_store
from services.runtime.database import Database

INTERVAL = 60.0
"""Seconds between two rounds."""

BATCH = 500
"""Statements in one transaction."""


class Housekeeping:
    """Erases."""

    def __init__(self, *, database: Database) -> None:
        self._database = database

    async def turn(self) -> float:
        """One round; one process at a time."""
        await self.once(now=datetime.now(UTC))
        return INTERVAL

    async def once(self, *, now: datetime) -> None:
        """Erases what is due."""
        while await evidence_store.erase_content(self._database, now=now, limit=BATCH) == BATCH:
            pass
        while await envelope_store.erase_content(self._database, now=now, limit=BATCH) == BATCH:
            pass
        while await evidence_store.erase_statements(self._database, now=now, limit=BATCH) == BATCH:
            pass
