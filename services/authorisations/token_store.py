"""Tokens in PostgreSQL: the SQL of the token service.

Writes take the transaction of their caller or run as one statement of their own.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from datetime import datetime

from services.runtime import database
from services.runtime.database import Connection, Database

logger = logging.getLogger(__name__)

SWEEP_INTERVAL = 600.0
"""Seconds: rows are small, and few clients use assertions more often than once in five minutes."""


async def use_assertion(writer: Database | Connection, client_id: str, *, jti: str, until: datetime) -> bool:
    """Remembers that a client has used an assertion; whether this is its first use.

    Of two uses at the same instant one is the first: the later waits at the key.
    """
    first = await writer.fetchval(
        "insert into used_assertion (client_id, jti_sha256, expire_time) values ($1, $2, $3)"
        " on conflict do nothing returning true",
        client_id,
        hashlib.sha256(jti.encode()).digest(),
        until,
    )
    return first is True


async def keep_exchanged(transaction: Connection, token_id: str, *, origin: str, expire_time: datetime) -> bool:
    """Notes what a token was exchanged from; whether that has not been taken back. Waits for who is taking it back."""
    await _hold(transaction, origin)
    if await refused(transaction, origin):
        return False
    await transaction.execute(
        "insert into exchanged_token (token_id, origin_id, expire_time) values ($1, $2, $3)",
        token_id,
        origin,
        expire_time,
    )
    return True


async def refuse_token(transaction: Connection, token_id: str, *, expire_time: datetime) -> list[tuple[str, datetime]]:
    """Puts a token, and what was exchanged from it, on this service's own list of revoked tokens.

    Returns those that were not there, with their expiry; the others hear of them
    by event.
    """
    await _hold(transaction, token_id)
    rows = await transaction.fetch(
        "insert into revoked_token (token_id, expire_time)"
        " select $1, $2::timestamptz union all"
        " select token_id, expire_time from exchanged_token where origin_id = $1"
        " on conflict do nothing returning token_id, expire_time",
        token_id,
        expire_time,
    )
    return [(row["token_id"], row["expire_time"]) for row in rows]


async def refused(reader: Database | Connection, token_id: str) -> bool:
    """Whether a token has been revoked."""
    return await reader.fetchval("select true from revoked_token where token_id = $1", token_id) is True


async def sweep(store: Database, *, clock: Callable[[], datetime]) -> None:
    """Forgets what is refused for its age by now, for as long as the process runs."""
    while True:
        try:
            await store.execute("delete from used_assertion where expire_time < $1", clock())
            await store.execute("delete from exchanged_token where expire_time < $1", clock())
        except database.PASSING:
            logger.warning("used assertions and exchanged tokens could not be swept")
        await asyncio.sleep(SWEEP_INTERVAL)


async def _hold(transaction: Connection, token_id: str) -> None:
    """Keeps others from exchanging this token, and from taking it back, until the end of the transaction."""
    await transaction.execute("select pg_advisory_xact_lock(hashtextextended($1, 0))", f"token {token_id}")
