"""SQL of archives of mailboxes."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from services.runtime.database import Connection, Database, Row

COLUMNS = "export_id, mailbox_id, attachment_id, state, attempts, create_time, expire_time"


async def insert(
    transaction: Connection, *, export_id: UUID, mailbox_id: UUID, attachment_id: UUID, now: datetime
) -> Row | None:
    """The new export, to be made."""
    return await transaction.fetchrow(
        "insert into mailbox_export (export_id, mailbox_id, attachment_id, state, due_time, create_time)"
        f" values ($1, $2, $3, 1, $4, $4) returning {COLUMNS}",
        export_id,
        mailbox_id,
        attachment_id,
        now,
    )


async def export(database: Database, mailbox_id: UUID, export_id: UUID) -> Row | None:
    """An export of a mailbox."""
    return await database.fetchrow(
        f"select {COLUMNS} from mailbox_export where mailbox_id = $1 and export_id = $2", mailbox_id, export_id
    )


async def mailbox_of(database: Database, attachment_id: UUID) -> UUID | None:
    """The mailbox whose archive an attachment is; None where it is none."""
    mailbox_id: UUID | None = await database.fetchval(
        "select mailbox_id from mailbox_export where attachment_id = $1", attachment_id
    )
    return mailbox_id


async def claim(database: Database, *, now: datetime, until: datetime) -> Row | None:
    """The export that has waited longest, kept from others until a time, with its mailbox's owner and key."""
    return await database.fetchrow(
        "update mailbox_export e set due_time = $2, attempts = attempts + 1 from mailbox b where export_id ="
        " (select export_id from mailbox_export where state = 1 and due_time <= $1 order by due_time limit 1"
        " for update skip locked) and b.mailbox_id = e.mailbox_id"
        " returning e.export_id, e.mailbox_id, e.attachment_id, e.attempts, b.party, b.data_key",
        now,
        until,
    )


async def messages(database: Database, mailbox_id: UUID, *, after: UUID, limit: int) -> list[Row]:
    """Messages in a mailbox and its bin that have been released, oldest first."""
    return await database.fetch(
        "select message_id, unit_id, direction, kind, content, thread, create_time, release_time from message"
        " where mailbox_id = $1 and message_id > $2 and release_time is not null"
        " and (purge_time is null or purge_time > now()) order by message_id limit $3",
        mailbox_id,
        after,
        limit,
    )


async def finish(transaction: Connection, export_id: UUID, *, state: int, expire_time: datetime | None) -> None:
    """Records how an export ended."""
    await transaction.execute(
        "update mailbox_export set state = $2, expire_time = $3 where export_id = $1", export_id, state, expire_time
    )


async def insert_archive(
    transaction: Connection,
    *,
    attachment_id: UUID,
    owner: str,
    file_name: bytes,
    size: int,
    digest: bytes | None,
    data_key: bytes,
    blob_id: UUID,
    blob_key: bytes,
    now: datetime,
    expire_time: datetime,
) -> None:
    """The archive as an attachment of the mailbox's owner."""
    await transaction.execute(
        "insert into attachment (attachment_id, owner, state, file_name, media_type, size_bytes, digest, data_key,"
        " create_time, expire_time, blob_id, blob_key)"
        " values ($1, $2, 4, $3, 'application/zip', $4, $5, $6, $7, $8, $9, $10)",
        attachment_id,
        owner,
        file_name,
        size,
        digest,
        data_key,
        now,
        expire_time,
        blob_id,
        blob_key,
    )
