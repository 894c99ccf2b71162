"""SQL of the list of who looked at what is in a mailbox."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from services.runtime.database import Connection, Database, Row


async def record(
    database: Database | Connection,
    seen: Sequence[tuple[UUID, UUID, UUID | None]],
    *,
    unit_id: str | None,
    method: str,
    actor: bytes,
    now: datetime,
) -> None:
    """Records one look. `seen`: a new id, a mailbox, and the message in it or None for the mailbox as a whole."""
    if not seen:
        return
    await database.execute(
        "insert into access_record (access_id, mailbox_id, message_id, unit_id, method, actor, time)"
        " select access_id, mailbox_id, message_id, $4, $5, $6, $7"
        " from unnest($1::uuid[], $2::uuid[], $3::uuid[]) as seen (access_id, mailbox_id, message_id)",
        *(list(column) for column in zip(*seen, strict=True)),
        unit_id,
        method,
        actor,
        now,
    )


async def of_mailbox(database: Database, mailbox_id: UUID, *, before: UUID | None, limit: int) -> list[Row]:
    """Who looked at a mailbox, latest first."""
    return await database.fetch(
        "select access_id, message_id, unit_id, method, actor, time from access_record"
        " where mailbox_id = $1 and ($2::uuid is null or access_id < $2) order by access_id desc limit $3",
        mailbox_id,
        before,
        limit,
    )
