"""SQL of notifications that are to be sent."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from services.runtime.database import Connection, Database, Row

ToSend = tuple[UUID, UUID, UUID | None, int, int, datetime]
"""Id, mailbox, message, channel, kind, due time."""


async def recipients(transaction: Connection, message_ids: Sequence[UUID]) -> list[Row]:
    """Of messages to residents: kind and profile of each, its mailbox, every channel with contact details confirmed."""
    return await transaction.fetch(
        "select m.message_id, m.mailbox_id, m.kind, m.legal_profile, c.channel from message m"
        " join contact c using (mailbox_id)"
        " where m.message_id = any($1::uuid[]) and m.direction = 1 and c.confirm_time is not null",
        message_ids,
    )


async def add(transaction: Connection, notifications: Sequence[ToSend]) -> None:
    """Adds notifications; one that is there already stays as it is."""
    if not notifications:
        return
    await transaction.execute(
        "insert into notification (notification_id, mailbox_id, message_id, channel, kind, due_time)"
        " select * from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::smallint[], $5::smallint[], $6::timestamptz[])"
        " on conflict do nothing",
        *(list(column) for column in zip(*notifications, strict=True)),
    )


async def put_code(
    transaction: Connection, notification_id: UUID, mailbox_id: UUID, channel: int, kind: int, *, now: datetime
) -> None:
    """Has a code sent now; one that has not gone out yet need not."""
    await transaction.execute(
        "delete from notification where mailbox_id = $1 and channel = $2 and kind = $3", mailbox_id, channel, kind
    )
    await add(transaction, [(notification_id, mailbox_id, None, channel, kind, now)])


async def claim(
    database: Database, *, channels: Sequence[int], now: datetime, until: datetime, limit: int
) -> list[Row]:
    """Notifications that are due, kept from others until a time, with all that is needed to judge and write them."""
    return await database.fetch(
        """
        with claimed as (
            update notification set due_time = $3, tries = tries + 1 where notification_id in (
                select notification_id from notification where due_time <= $2 and channel = any($1::smallint[])
                order by due_time limit $4 for update skip locked
            ) returning notification_id, mailbox_id, message_id, channel, kind, tries
        )
        select n.*, b.data_key, b.state = 3 and b.close_reason > 1 as discontinued,
            c.address, c.language, c.quiet_start, c.quiet_end, c.confirm_time, c.code,
            m.unit_id, m.content, m.purge_time, m.idempotency_key, m.correlation_id, m.direction,
            d.state as delivery_state, d.open_time, u.display_names
        from claimed n join mailbox b using (mailbox_id) left join contact c using (mailbox_id, channel)
        left join message m using (message_id) left join delivery d on d.message_id = m.message_id and d.channel = 1
        left join unit u on u.unit_id = m.unit_id
        """,
        channels,
        now,
        until,
        limit,
    )


async def delete(transaction: Database | Connection, notification_ids: Sequence[UUID]) -> None:
    """Forgets notifications that have been sent, or will not be."""
    await transaction.execute("delete from notification where notification_id = any($1::uuid[])", notification_ids)


async def put_off(database: Database | Connection, notification_id: UUID, *, due_time: datetime, tries: int) -> None:
    """Keeps when a notification is tried next, and how many tries it has had."""
    await database.execute(
        "update notification set due_time = $2, tries = $3 where notification_id = $1",
        notification_id,
        due_time,
        tries,
    )
