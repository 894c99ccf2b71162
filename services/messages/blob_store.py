"""SQL of blobs: which attachments share one, and which are nobody's any more.

A blob is shared by attachments of one owner with the same content, found by
their address. It is anybody's as long as one of them lives: is neither deleted,
infected nor without its key.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from services.runtime.database import Connection, Database, Row

LIVES = "a.state not in (5, 7) and a.data_key is not null"
"""Of an attachment `a`."""


async def share(transaction: Connection, attachment_id: UUID, *, address: bytes) -> bool:
    """Gives an attachment that is being made the blob of a ready one with the same address. False: there is none.

    The other is locked, so that it cannot be deleted before the transaction ends.
    """
    row = await transaction.fetchrow(
        "with other as (select coalesce(a.blob_id, a.attachment_id) as blob_id, coalesce(a.blob_key, a.data_key) as key"
        f" from attachment a where a.address = $2 and a.attachment_id <> $1 and a.state = 4 and {LIVES}"
        " order by a.attachment_id limit 1 for update)"
        " update attachment set blob_id = other.blob_id, blob_key = other.key from other where attachment_id = $1"
        " returning attachment_id",
        attachment_id,
        address,
    )
    return row is not None


async def leave(database: Database | Connection, blob_ids: Sequence[UUID], *, since: datetime | None = None) -> None:
    """Notes that blobs may have lost their last attachment, or may never get one; looked at now, or from a time on."""
    await database.execute(
        "insert into left_blob (blob_id, time) select distinct unnest($1::uuid[]), coalesce($2::timestamptz, now())"
        " on conflict (blob_id) do update set time = least(left_blob.time, excluded.time)",
        blob_ids,
        since,
    )


async def left(database: Database, *, before: datetime, limit: int) -> list[UUID]:
    """Blobs that are to be looked at by a time."""
    rows = await database.fetch("select blob_id from left_blob where time <= $1 order by time limit $2", before, limit)
    return [row["blob_id"] for row in rows]


async def is_anybodys(database: Database, blob_id: UUID) -> bool:
    """Whether an attachment that lives has the blob."""
    found: bool = await database.fetchval(
        f"select exists (select from attachment a where a.attachment_id = $1 and a.blob_id is null and {LIVES})"
        f" or exists (select from attachment a where a.blob_id = $1 and {LIVES})",
        blob_id,
    )
    return found


async def newest(database: Database) -> Row | None:
    """Blob and size of the attachment that was made last, of those that have all of their content and live."""
    return await database.fetchrow(
        "select coalesce(blob_id, attachment_id) as blob_id, size_bytes from attachment a"
        f" where sha256 is not null and a.state in (2, 3, 4) and {LIVES} order by attachment_id desc limit 1"
    )


async def forget(database: Database, blob_id: UUID) -> None:
    """Crosses a blob off the list of those that were left."""
    await database.execute("delete from left_blob where blob_id = $1", blob_id)
