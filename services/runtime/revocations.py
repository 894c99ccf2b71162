"""Clients whose tokens are refused at once, though they have not expired.

Authorisations publishes each revocation; every service keeps the list in its
database and in memory. A process that did not take the event itself sees it at
its next look at the table.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC

from solmu.authorisations.v1.events_pb2 import ClientRevoked

from services.runtime import database
from services.runtime.database import Connection, Database
from services.runtime.jetstream import Received

logger = logging.getLogger(__name__)

LOOK_INTERVAL = 1.0
"""Seconds between two looks at the table: with the event's own way, a revocation is in force within three."""


class Revocations:
    """The revoked clients, in memory."""

    def __init__(self, *, database: Database) -> None:
        self._database = database
        self._clients: frozenset[str] = frozenset()
        self._changed = asyncio.Event()

    def __contains__(self, client_id: str) -> bool:
        return client_id in self._clients

    def revoked(self, client_id: str) -> bool:
        """Whether the client has been revoked."""
        return client_id in self._clients

    async def handle(self, transaction: Connection, events: Sequence[Received]) -> None:
        """Takes revocations from the stream of authorisations; other events there are not for this."""
        name = ClientRevoked.DESCRIPTOR.full_name
        revoked = [ClientRevoked.FromString(event.payload) for event in events if event.type == name]
        await transaction.executemany(
            "insert into revoked_client (client_id, revoke_time) values ($1, $2) on conflict do nothing",
            [(event.client.removeprefix("clients/"), event.revoke_time.ToDatetime(tzinfo=UTC)) for event in revoked],
        )

    async def look(self) -> None:
        """Has the table looked at now, after a commit of `handle`."""
        self._changed.set()

    async def load(self) -> None:
        """Reads the table."""
        rows = await self._database.fetch("select client_id from revoked_client")
        self._clients = frozenset(row["client_id"] for row in rows)

    async def follow(self) -> None:
        """Keeps the memory up to date for as long as the process runs."""
        while True:
            try:
                await asyncio.wait_for(self._changed.wait(), LOOK_INTERVAL)
            except TimeoutError:
                pass
            self._changed.clear()
            try:
                await self.load()
            except database.PASSING:
                logger.warning("revocations could not be read; the last ones stay in force")
