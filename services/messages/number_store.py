"""SQL of the numbers of messages."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from services.runtime.database import Database, Row


async def number(database: Database, message_ids: Sequence[UUID]) -> None:
    """Gives a number to each message that exists and has none."""
    await database.execute(
        "insert into message_number (message_id) select m.message_id from message m"
        " where m.message_id = any($1::uuid[])"
        " and not exists (select from message_number n where n.message_id = m.message_id)"
        " order by m.message_id on conflict (message_id) do nothing",
        message_ids,
    )


async def numbers(database: Database, message_ids: Sequence[UUID]) -> dict[UUID, int]:
    """The numbers of messages that have one."""
    rows = await database.fetch(
        "select message_id, number from message_number where message_id = any($1::uuid[])", message_ids
    )
    return {row["message_id"]: row["number"] for row in rows}


async def numbered(database: Database, number: int) -> Row | None:
    """The message that has a number, and its unit."""
    return await database.fetchrow(
        "select m.unit_id, m.message_id from message_number n join message m using (message_id) where n.number = $1",
        number,
    )
