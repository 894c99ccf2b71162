"""Clients, tokens and certificates that are refused at once, though they have not expired.

Authorisations publishes each revocation; every service keeps the list in its
database and in memory. A process that did not take the event itself sees it at
its next look at the table.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from google.protobuf.message import Message
from solmu.authorisations.v1.events_pb2 import CertificatesRevoked, ClientRevoked, TokenRevoked

from services.runtime import database, identity
from services.runtime.database import Connection, Database
from services.runtime.jetstream import Received

logger = logging.getLogger(__name__)

LOOK_INTERVAL = 1.0
"""Seconds between two looks at the table: with the event's own way, a revocation is in force within three."""

EXPIRED_SECONDS = 60.0
"""How long an expired token stays on the list: for verifiers whose clocks are behind, and more."""

STREAM_SECONDS = 7200.0
"""How long a revoked certificate is looked for among the callers: twice as long as any stream may last (an hour, by
`timeout_seconds` in the contracts). The edge refuses new calls of it for ever."""

SWEEP_INTERVAL = 3600.0
"""Seconds between two sweeps; a token lives for minutes."""


class Revocations:
    """The revoked clients, tokens and certificates, in memory.

    A client's id, a token's (`jti`, a URN) and a certificate's name
    (`certificate`) are never the same text, so one question does for all.
    """

    def __init__(self, *, database: Database) -> None:
        self._database = database
        self._revoked: frozenset[str] = frozenset()
        self._changed = asyncio.Event()

    def __contains__(self, name: str) -> bool:
        return name in self._revoked

    def revoked(self, name: str) -> bool:
        """Whether the client, the token or the certificate of this name has been revoked."""
        return name in self._revoked

    async def handle(self, transaction: Connection, events: Sequence[Received]) -> None:
        """Takes revocations from the stream of authorisations; other events there are not for this."""
        clients = [ClientRevoked.FromString(payload) for payload in _payloads(events, ClientRevoked)]
        tokens = [TokenRevoked.FromString(payload) for payload in _payloads(events, TokenRevoked)]
        certificates = [CertificatesRevoked.FromString(payload) for payload in _payloads(events, CertificatesRevoked)]
        await transaction.executemany(
            "insert into revoked_client (client_id, revoke_time) values ($1, $2) on conflict do nothing",
            [(event.client.removeprefix("clients/"), event.revoke_time.ToDatetime(tzinfo=UTC)) for event in clients],
        )
        await transaction.executemany(
            "insert into revoked_token (token_id, expire_time) values ($1, $2) on conflict do nothing",
            [(event.token_id, event.expire_time.ToDatetime(tzinfo=UTC)) for event in tokens],
        )
        for event in certificates:
            await refuse_certificates(
                transaction, event.serial_numbers, report_time=event.report_time.ToDatetime(tzinfo=UTC)
            )

    async def look(self) -> None:
        """Has the table looked at now, after a commit of `handle`."""
        self._changed.set()

    async def load(self) -> None:
        """Reads the tables."""
        rows = await self._database.fetch(
            "select client_id as name from revoked_client union all"
            " select token_id from revoked_token where expire_time > now() - make_interval(secs => $1) union all"
            " select $3 || serial_number from revoked_certificate"
            " where report_time > now() - make_interval(secs => $2)",
            EXPIRED_SECONDS,
            STREAM_SECONDS,
            identity.CERTIFICATES,
        )
        self._revoked = frozenset(row["name"] for row in rows)

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

    async def sweep(self) -> None:
        """Forgets tokens that have expired, for as long as the process runs."""
        while True:
            try:
                await self._database.execute(
                    "delete from revoked_token where expire_time < now() - make_interval(secs => $1)", EXPIRED_SECONDS
                )
            except database.PASSING:
                logger.warning("revoked tokens could not be swept")
            await asyncio.sleep(SWEEP_INTERVAL)


async def refuse_certificates(
    transaction: Connection, serial_numbers: Sequence[str], *, report_time: datetime
) -> list[str]:
    """Puts certificates on the list of revoked ones. Returns those that were not there."""
    rows = await transaction.fetch(
        "insert into revoked_certificate (serial_number, report_time) select unnest($1::text[]), $2"
        " on conflict do nothing returning serial_number",
        serial_numbers,
        report_time,
    )
    return [row["serial_number"] for row in rows]


def _payloads(events: Sequence[Received], kind: type[Message]) -> Iterator[bytes]:
    return (event.payload for event in events if event.type == kind.DESCRIPTOR.full_name)
