"""SQL of the list of who looked at what is in a mailbox."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from services.runtime.database import Connection, Database, Row


async def record_access(
    transaction: Database | Connection,
    *,
    access_id: UUID,
    mailbox_id: UUID,
    message_id: UUID | None,
    method: str,
    actor: bytes,
    now: datetime,
) -> None:
    """Records who looked at what is in a mailbox."""
    await transaction.execute(
        "insert into access_record (access_id, mailbox_id, message_id, method, actor, time)"
        " values ($1, $2, $3, $4, $5, $6)",
        access_id,
        mailbox_id,
        message_id,
        method,
        actor,
        now,
    )


async def record_reading(
    database: Database | Connection,
    *,
    access_id: UUID,
    message_id: UUID,
    unit_id: str,
    method: str,
    actor: bytes,
    now: datetime,
) -> None:
    """Records, for the owner of the mailbox, that a unit looked at a message that it received; its own need none."""
    await database.execute(
        "insert into access_record (access_id, mailbox_id, message_id, method, actor, time)"
        " select $1, mailbox_id, message_id, $4, $5, $6 from message"
        " where message_id = $2 and unit_id = $3 and direction = 2",
        access_id,
        message_id,
        unit_id,
        method,
        actor,
        now,
    )


async def of_mailbox(database: Database, mailbox_id: UUID, *, before: UUID | None, limit: int) -> list[Row]:
    """Who looked at a mailbox, latest first."""
    return await database.fetch(
        "select access_id, message_id, method, actor, time from access_record"
        " where mailbox_id = $1 and ($2::uuid is null or access_id < $2) order by access_id desc limit $3",
        mailbox_id,
        before,
        limit,
    )
