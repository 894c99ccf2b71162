"""SQL of the statuses of this node's certificates."""

from __future__ import annotations

from datetime import datetime

from services.runtime.database import Database, Row

COLUMNS = "certificate_sha256, answer, update_time, end_time, revoke_time, refresh_time, failure"


async def all_of(database: Database) -> list[Row]:
    """All of them."""
    return await database.fetch(f"select {COLUMNS} from own_status")


async def one(database: Database, sha256: bytes) -> Row | None:
    """That of a certificate."""
    return await database.fetchrow(f"select {COLUMNS} from own_status where certificate_sha256 = $1", sha256)


async def set_answer(
    database: Database,
    sha256: bytes,
    *,
    answer: bytes,
    update_time: datetime,
    end_time: datetime | None,
    revoke_time: datetime | None,
    refresh_time: datetime,
) -> None:
    """Keeps what a responder said."""
    await database.execute(
        "insert into own_status (certificate_sha256, answer, update_time, end_time, revoke_time, refresh_time)"
        " values ($1, $2, $3, $4, $5, $6) on conflict (certificate_sha256) do update set answer = $2,"
        " update_time = $3, end_time = $4, revoke_time = $5, refresh_time = $6, failure = ''",
        sha256,
        answer,
        update_time,
        end_time,
        revoke_time,
        refresh_time,
    )


async def set_failure(database: Database, sha256: bytes, *, failure: str, refresh_time: datetime) -> None:
    """Keeps why nothing came; what had come before stays."""
    await database.execute(
        "insert into own_status (certificate_sha256, refresh_time, failure) values ($1, $2, $3)"
        " on conflict (certificate_sha256) do update set refresh_time = $2, failure = $3",
        sha256,
        refresh_time,
        failure,
    )
