"""SQL of contact details."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from services.runtime.database import Connection, Database, Row

FIELDS = (
    "mailbox_id",
    "channel",
    "address",
    "language",
    "quiet_start",
    "quiet_end",
    "confirm_time",
    "code",
    "code_expire_time",
)
COLUMNS = ", ".join(FIELDS)


async def contacts_of(database: Database, mailbox_id: UUID) -> list[Row]:
    """The contact details of a mailbox, by channel."""
    return await database.fetch(f"select {COLUMNS} from contact where mailbox_id = $1 order by channel", mailbox_id)


async def contact(database: Database | Connection, mailbox_id: UUID, channel: int) -> Row | None:
    """Contact details of one channel."""
    return await database.fetchrow(
        f"select {COLUMNS} from contact where mailbox_id = $1 and channel = $2", mailbox_id, channel
    )


async def put(transaction: Connection, values: Mapping[str, Any]) -> Row:
    """Keeps contact details in place of those that were there."""
    row = await transaction.fetchrow(
        f"insert into contact ({COLUMNS}) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
        " on conflict (mailbox_id, channel) do update set address = excluded.address, language = excluded.language,"
        " quiet_start = excluded.quiet_start, quiet_end = excluded.quiet_end, confirm_time = excluded.confirm_time,"
        f" code = excluded.code, code_expire_time = excluded.code_expire_time, code_tries = 0 returning {COLUMNS}",
        *(values[field] for field in FIELDS),
    )
    assert row is not None
    return row


async def try_code(database: Database, mailbox_id: UUID, channel: int, *, most: int, now: datetime) -> Row | None:
    """The contact details whose code may be tried now, with this try counted; None: none, or tried too often."""
    return await database.fetchrow(
        "update contact set code_tries = code_tries + 1 where mailbox_id = $1 and channel = $2"
        f" and code is not null and code_expire_time > $3 and code_tries < $4 returning {COLUMNS}",
        mailbox_id,
        channel,
        now,
        most,
    )


async def confirm(transaction: Connection, row: Row, *, now: datetime) -> Row | None:
    """Contact details as confirmed; None where they have been changed since they were read."""
    return await transaction.fetchrow(
        "update contact set confirm_time = $4, code = null, code_expire_time = null"
        f" where mailbox_id = $1 and channel = $2 and code = $3 returning {COLUMNS}",
        row["mailbox_id"],
        row["channel"],
        row["code"],
        now,
    )


async def delete(transaction: Connection, mailbox_id: UUID, channel: int) -> Row | None:
    """The contact details that were there; None where there were none."""
    return await transaction.fetchrow(
        f"delete from contact where mailbox_id = $1 and channel = $2 returning {COLUMNS}", mailbox_id, channel
    )


async def delete_all(transaction: Connection, mailbox_id: UUID) -> None:
    """Forgets all contact details of a mailbox, and all that was to be sent to them."""
    await transaction.execute("delete from notification where mailbox_id = $1", mailbox_id)
    await transaction.execute("delete from contact where mailbox_id = $1", mailbox_id)


async def changes_since(transaction: Connection, mailbox_id: UUID, *, method: str, since: datetime) -> int:
    """How often a mailbox's contact details were set since a moment, by its list of accesses."""
    count: int = await transaction.fetchval(
        "select count(*) from access_record where mailbox_id = $1 and method = $2 and time > $3",
        mailbox_id,
        method,
        since,
    )
    return count
