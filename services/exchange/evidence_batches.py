"""Batches of time stamps, laid out once for all the records that are asked of them."""

from __future__ import annotations

import asyncio

from services.exchange import evidence_store
from services.exchange.proofs import Batch
from services.runtime.database import Database
from services.runtime.errors import Internal

REMEMBERED = 4
"""Batches in memory; one of 10 000 members takes some 2 MB."""


class Batches:
    """The batches of a process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[int, Batch] = {}

    async def get(self, number: int) -> Batch:
        """A batch that a statement or head names."""
        found = self._known.pop(number, None)
        if found is None:
            row = await evidence_store.batch(self._database, number)
            if row is None:
                raise Internal("INTERNAL", "a batch of time stamps is missing")
            found = await asyncio.to_thread(Batch.of, row)
        self._known[number] = found
        if len(self._known) > REMEMBERED:
            self._known.pop(next(iter(self._known)))
        return found
