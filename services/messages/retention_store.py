"""SQL of messages whose time is over."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from services.runtime.database import Connection, Database, Row


async def units_with_retention(database: Database) -> list[Row]:
    """The units that keep messages for a time only, with that time."""
    return await database.fetch("select unit_id, retention from unit where retention is not null order by unit_id")


async def end(transaction: Connection, unit_id: str, *, before: UUID, now: datetime, limit: int) -> list[Row]:
    """Ends messages of a unit whose ids are before one, oldest first; returns them as they were.

    Those that have not been released, or whose legal effect is open, stay. The
    unit's own marks go: its key may be used again.
    """
    return await transaction.fetch(
        """
        with ended as (
            select message_id, unit_id, direction, idempotency_key, correlation_id from message
            where unit_id = $1 and message_id < $2 and end_time is null and state not in (1, 2, 3) and legal_state <> 1
            order by message_id limit $4 for update skip locked
        ), done as (
            update message m set end_time = $3, state = case when state = 4 then 5 else state end, wake_time = null,
                idempotency_key = case when m.direction = 1 then m.message_id::text else m.idempotency_key end,
                correlation_id = '', case_id = ''
            from ended where ended.message_id = m.message_id
        )
        select * from ended
        """,
        unit_id,
        before,
        now,
        limit,
    )


async def disown(transaction: Connection, message_ids: list[UUID]) -> None:
    """Takes attachments from the organisations that sent them, where no message that has not ended carries them."""
    await transaction.execute(
        "update attachment a set owner = '', request_id = null where attachment_id in"
        " (select attachment_id from message_attachment join message using (message_id)"
        " where message_id = any($1::uuid[]) and direction = 1)"
        " and not exists (select from message_attachment u join message m using (message_id)"
        " where u.attachment_id = a.attachment_id and m.end_time is null)",
        message_ids,
    )


async def delete_ended(transaction: Connection, *, now: datetime, limit: int) -> tuple[int, list[UUID]]:
    """Deletes messages that have ended and lie in nobody's mailbox; returns how many, and the blobs that they leave."""
    rows = await transaction.fetch(
        "select m.message_id from message m left join mailbox b using (mailbox_id) where m.end_time is not null"
        " and (m.purge_time < $1 or b.data_key is null or m.release_time is null)"
        " order by m.end_time limit $2 for update of m skip locked",
        now,
        limit,
    )
    message_ids = [row["message_id"] for row in rows]
    carried = await transaction.fetch(
        "select attachment_id from message_attachment where message_id = any($1::uuid[])"
        " union select attachment_id from letter where message_id = any($1::uuid[]) and attachment_id is not null",
        message_ids,
    )
    await transaction.execute("delete from delivery where message_id = any($1::uuid[])", message_ids)
    await transaction.execute("delete from message where message_id = any($1::uuid[])", message_ids)
    left = await transaction.fetch(
        "update attachment a set state = 7, expire_time = null, data_key = null, blob_key = null"
        " where attachment_id = any($1::uuid[]) and not exists"
        " (select from message_attachment u where u.attachment_id = a.attachment_id)"
        " returning coalesce(blob_id, attachment_id) as blob_id",
        [row["attachment_id"] for row in carried],
    )
    return len(message_ids), [row["blob_id"] for row in left]
