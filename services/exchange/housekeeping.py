"""What has to be forgotten in time: content, and statements, whose time is over; parts of directories of the past."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from solmu.exchange.v1.directory_document_pb2 import DirectoryDocument, SignedDocument

from services.exchange import directory_store, envelope_store, evidence_store
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
        await directory_store.sweep_parts(self._database, _named)


def _named(directories: Sequence[bytes]) -> set[bytes]:
    """The parts that signed directories name."""
    documents = [DirectoryDocument.FromString(SignedDocument.FromString(each).document) for each in directories]
    return {part.sha256 for document in documents for part in document.parts}
