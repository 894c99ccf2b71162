"""SQL of attachments: uploaded, judged, attached, deleted; and of the messages that wait for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from services.messages.message_store import HELD_COLUMNS
from services.runtime.database import Connection, Database, Row

ATTACHMENT_COLUMNS = (
    "attachment_id, owner, state, file_name, media_type, size_bytes, sha256, digest, data_key, create_time,"
    " expire_time, coalesce(blob_id, attachment_id) as blob_id, coalesce(blob_key, data_key) as blob_key"
)


async def insert_attachment(database: Database, values: Mapping[str, object]) -> Row | None:
    """The new attachment, or None where the owner's request id was used before."""
    return await database.fetchrow(
        "insert into attachment (attachment_id, owner, request_id, state, file_name, media_type, size_bytes, digest,"
        " data_key, create_time, expire_time) values ($1, $2, $3, 1, $4, $5, $6, $7, $8, $9, $10)"
        f" on conflict (owner, request_id) do nothing returning {ATTACHMENT_COLUMNS}",
        values["attachment_id"],
        values["owner"],
        values["request_id"],
        values["file_name"],
        values["media_type"],
        values["size_bytes"],
        values["digest"],
        values["data_key"],
        values["create_time"],
        values["expire_time"],
    )


async def attachment_by_request(database: Database, owner: str, request_id: UUID) -> Row | None:
    """The attachment that an owner's request made before."""
    return await database.fetchrow(
        f"select {ATTACHMENT_COLUMNS} from attachment where owner = $1 and request_id = $2", owner, request_id
    )


async def attachment(database: Database, attachment_id: UUID) -> Row | None:
    """An attachment."""
    return await database.fetchrow(
        f"select {ATTACHMENT_COLUMNS} from attachment where attachment_id = $1", attachment_id
    )


async def attachments_of(database: Database | Connection, message_ids: Sequence[UUID]) -> list[Row]:
    """The attachments of messages, in their order."""
    return await database.fetch(
        f"select a.message_id, a.role, a.off_paper, a.language, {ATTACHMENT_COLUMNS}"
        " from message_attachment a join attachment using (attachment_id)"
        " where a.message_id = any($1::uuid[]) order by a.message_id, a.position",
        message_ids,
    )


async def received_by(database: Database, attachment_id: UUID, organisation: str) -> Row | None:
    """A message with an attachment that a resident sent to a unit of an organisation, and the unit."""
    return await database.fetchrow(
        "select m.message_id, m.unit_id from message_attachment a join message m using (message_id)"
        " join unit u using (unit_id) where a.attachment_id = $1 and u.organisation = $2 and m.direction = 2"
        " and m.end_time is null limit 1",
        attachment_id,
        organisation,
    )


async def delete_attachment(transaction: Connection, attachment_id: UUID) -> Row | None:
    """The attachment, marked as deleted; None where a message uses it."""
    return await transaction.fetchrow(
        "update attachment set state = 7, expire_time = null where attachment_id = $1 and state <> 7 and not exists"
        " (select from message_attachment u where u.attachment_id = $1)"
        f" returning {ATTACHMENT_COLUMNS}",
        attachment_id,
    )


async def delete_expired(transaction: Connection, *, now: datetime, limit: int) -> list[UUID]:
    """Marks attachments that no message has used in time as deleted, and returns the blobs that they leave."""
    rows = await transaction.fetch(
        "update attachment set state = 7, expire_time = null where attachment_id in"
        " (select attachment_id from attachment where expire_time < $1 and (upload_until is null or upload_until < $1)"
        " limit $2 for update skip locked) returning coalesce(blob_id, attachment_id) as blob_id",
        now,
        limit,
    )
    return [row["blob_id"] for row in rows]


async def claim_upload(
    database: Database, attachment_id: UUID, *, upload_id: UUID, now: datetime, until: datetime
) -> bool:
    """Keeps others from uploading until a time; again, to keep on. False: another uploads, or all is there."""
    row = await database.fetchrow(
        "update attachment set upload_id = $2, upload_until = $4 where attachment_id = $1 and state = 1"
        " and (upload_until is null or upload_until < $3 or upload_id = $2) returning attachment_id",
        attachment_id,
        upload_id,
        now,
        until,
    )
    return row is not None


async def end_upload(database: Database, attachment_id: UUID, *, upload_id: UUID) -> None:
    """Lets others upload."""
    await database.execute(
        "update attachment set upload_until = null where attachment_id = $1 and upload_id = $2",
        attachment_id,
        upload_id,
    )


async def set_uploaded(
    transaction: Connection,
    attachment_id: UUID,
    *,
    upload_id: UUID,
    size: int,
    digest: bytes | None,
    address: bytes,
    scanned: bool,
    now: datetime,
) -> Row | None:
    """Records that all of the content is there, and what it is; to be scanned if `scanned`, else ready.

    None where the attachment has been deleted meanwhile, or another uploads.
    """
    return await transaction.fetchrow(
        "update attachment set state = case when $2 then 3 else 4 end, upload_time = $3::timestamptz,"
        " scan_time = case when $2 then $3::timestamptz end, size_bytes = $4, digest = $5,"
        " sha256 = '', address = $6, upload_until = null"
        f" where attachment_id = $1 and state = 1 and upload_id = $7 returning {ATTACHMENT_COLUMNS}",
        attachment_id,
        scanned,
        now,
        size,
        digest,
        address,
        upload_id,
    )


async def hold_plain_digests(transaction: Connection, *, limit: int) -> list[Row]:
    """Attachments whose digests an earlier release has kept as they are, those that another process has left out."""
    return await transaction.fetch(
        "select attachment_id, sha256, data_key from attachment where sha256 <> '' limit $1 for update skip locked",
        limit,
    )


async def set_digests(transaction: Connection, digests: Sequence[tuple[UUID, bytes | None]]) -> None:
    """The digests of attachments, sealed."""
    await transaction.executemany("update attachment set digest = $2, sha256 = '' where attachment_id = $1", digests)


async def claim(database: Database, *, now: datetime, until: datetime) -> Row | None:
    """The attachment that has waited longest for its scan, kept from others until a time."""
    return await database.fetchrow(
        "update attachment set scan_time = $2 where attachment_id ="
        " (select attachment_id from attachment where state = 3 and scan_time <= $1"
        " order by scan_time limit 1 for update skip locked)"
        f" returning {ATTACHMENT_COLUMNS}, upload_time",
        now,
        until,
    )


async def postpone(database: Database, attachment_id: UUID, *, until: datetime) -> None:
    """Has an attachment scanned later."""
    await database.execute(
        "update attachment set scan_time = $2 where attachment_id = $1 and state = 3", attachment_id, until
    )


async def set_judged(transaction: Connection, attachment_id: UUID, *, state: int) -> bool:
    """Records the verdict of a scan; False where the attachment was judged or deleted before."""
    row = await transaction.fetchrow(
        "update attachment set state = $2, scan_time = null where attachment_id = $1 and state = 3"
        " returning attachment_id",
        attachment_id,
        state,
    )
    return row is not None


async def lock(transaction: Connection, attachment_ids: Sequence[UUID], *, owner: str) -> dict[UUID, int]:
    """The state of each of an owner's attachments, none of which can be judged before the transaction ends."""
    rows = await transaction.fetch(
        "select attachment_id, state from attachment where attachment_id = any($1::uuid[]) and owner = $2"
        " order by attachment_id for update",
        attachment_ids,
        owner,
    )
    return {row["attachment_id"]: row["state"] for row in rows}


async def attach(
    transaction: Connection, *, message_id: UUID, attachments: Sequence[tuple[UUID, int, bool, str]]
) -> None:
    """Binds attachments, locked before, to a message."""
    await transaction.execute(
        "update attachment set expire_time = null where attachment_id = any($1::uuid[])",
        [attachment_id for attachment_id, *_ in attachments],
    )
    await transaction.executemany(
        "insert into message_attachment (message_id, position, attachment_id, role, off_paper, language)"
        " values ($1, $2, $3, $4, $5, $6)",
        [(message_id, position, *row) for position, row in enumerate(attachments)],
    )


async def hold_waiting(transaction: Connection, attachment_id: UUID) -> list[Row]:
    """The messages that wait for an attachment, as by `message_store.hold`, with the states of all they wait for."""
    return await transaction.fetch(
        f"select {HELD_COLUMNS}, array(select a.state from message_attachment o"
        " join attachment a using (attachment_id) where o.message_id = m.message_id) as attachment_states"
        " from message_attachment u join message m using (message_id) join mailbox b using (mailbox_id)"
        " where u.attachment_id = $1 and m.state = 2 order by m.message_id for update of m",
        attachment_id,
    )
