"""Log-ins under way, in PostgreSQL. What opens one is kept as a hash only.

Each move is one statement that finds the log-in only where it has not been made
yet, so that of two at the same instant one is made.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

from services.authorisations.identity_providers import Person
from services.authorisations.log_ins import LogIn
from services.runtime import database
from services.runtime.database import Connection, Database, Row

logger = logging.getLogger(__name__)

SWEEP_INTERVAL = 600.0
"""Seconds: rows are small."""

KEPT = timedelta(minutes=10)
"""How long a log-in that is over is kept: for the life of its token, so that a code shown twice takes it back."""

_COLUMNS = (
    "log_in, client_id, provider, redirect_uri, scope, client_state, code_challenge, acr_values, ui_locales, prompt,"
    " expire_time, start_time, finish_time, coalesce(party, '') as party, coalesce(acr, '') as acr, auth_time,"
    " provider_until, coalesce(token_id, '') as token_id"
)


async def push(writer: Database, log_in: LogIn, *, reference: str) -> None:
    """Keeps a log-in that begins."""
    await writer.execute(
        "insert into log_in (log_in, client_id, provider, redirect_uri, scope, client_state, code_challenge,"
        " acr_values, ui_locales, prompt, expire_time, request_sha256)"
        " values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        log_in.log_in,
        log_in.client_id,
        log_in.provider,
        log_in.redirect_uri,
        log_in.scope,
        log_in.client_state,
        log_in.code_challenge,
        log_in.acr_values,
        log_in.ui_locales,
        log_in.prompt,
        log_in.expire_time,
        _sha256(reference),
    )


async def waiting(reader: Database, reference: str, *, client_id: str, now: datetime) -> LogIn | None:
    """The log-in that this client pushed, where the browser has not come yet."""
    row = await reader.fetchrow(
        f"select {_COLUMNS} from log_in where request_sha256 = $1 and client_id = $2 and start_time is null"
        " and expire_time > $3",
        _sha256(reference),
        client_id,
        now,
    )
    return _log_in(row)


async def start(writer: Database, log_in: UUID, *, state: str, browser: str, now: datetime, until: datetime) -> bool:
    """Notes that the person was sent to the provider; whether nobody had been."""
    started = await writer.fetchval(
        "update log_in set start_time = $2, state_sha256 = $3, browser_sha256 = $4, expire_time = $5"
        " where log_in = $1 and start_time is null and expire_time > $2 returning true",
        log_in,
        now,
        _sha256(state),
        _sha256(browser),
        until,
    )
    return started is True


async def come_back(writer: Database, *, state: str, browser: str, now: datetime) -> LogIn | None:
    """The log-in whose person comes back, in the browser that left; nobody comes back again."""
    row = await writer.fetchrow(
        "update log_in set finish_time = $3 where state_sha256 = $1 and browser_sha256 = $2 and finish_time is null"
        f" and expire_time > $3 returning {_COLUMNS}",
        _sha256(state),
        _sha256(browser),
        now,
    )
    return _log_in(row)


async def finish(transaction: Connection, log_in: UUID, person: Person, *, code: str, until: datetime) -> None:
    """Keeps who it turned out to be, for whoever shows the code."""
    await transaction.execute(
        "update log_in set code_sha256 = $2, party = $3, acr = $4, auth_time = $5, provider_until = $6,"
        " expire_time = $7 where log_in = $1",
        log_in,
        _sha256(code),
        person.party,
        person.acr,
        person.auth_time,
        person.expires,
        until,
    )


async def by_code(transaction: Connection, code: str) -> LogIn | None:
    """The log-in of a code, held until the end of the transaction."""
    row = await transaction.fetchrow(f"select {_COLUMNS} from log_in where code_sha256 = $1 for update", _sha256(code))
    return _log_in(row)


async def use(transaction: Connection, log_in: UUID, *, token_id: str) -> None:
    """Notes for which token a code was used."""
    await transaction.execute("update log_in set token_id = $2 where log_in = $1", log_in, token_id)


async def sweep(store: Database, *, clock: Callable[[], datetime]) -> None:
    """Forgets log-ins that are over, for as long as the process runs."""
    while True:
        try:
            await store.execute("delete from log_in where expire_time < $1", clock() - KEPT)
        except database.PASSING:
            logger.warning("log-ins could not be swept")
        await asyncio.sleep(SWEEP_INTERVAL)


def _log_in(row: Row | None) -> LogIn | None:
    return LogIn(**row) if row else None


def _sha256(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
