"""SQL of letters: made, claimed by print houses, reported on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from services.messages.attachment_store import ATTACHMENT_COLUMNS
from services.messages.deliveries import Delivery
from services.messages.message_store import HELD_COLUMNS
from services.runtime.database import Connection, Database, Row

LETTER_COLUMNS = "l.create_time as letter_create_time, l.attachment_id, l.page_count, l.wait_time, l.claim, l.claimant"

_HELD = (
    f"select {HELD_COLUMNS}, {LETTER_COLUMNS}, a.data_key as letter_key, a.size_bytes, a.sha256,"
    " a.digest from letter l"
    " join message m using (message_id) join mailbox b using (mailbox_id)"
    " left join attachment a on a.attachment_id = l.attachment_id"
)
"""Letters with their messages, as `message_store.hold` has them."""


# From the courses of messages


async def insert(transaction: Connection, letters: Sequence[Delivery]) -> None:
    """New letters, of messages that are held; a letter has the id of its message."""
    await transaction.executemany(
        "insert into delivery (message_id, delivery_id, channel, state, update_time) values ($1, $1, $2, $3, $4)",
        [(letter.delivery_id, letter.channel, letter.state, letter.update_time) for letter in letters],
    )
    await transaction.executemany(
        "insert into letter (message_id, create_time, compose_time) values ($1, $2, $2)",
        [(letter.delivery_id, letter.update_time) for letter in letters],
    )


async def rest(transaction: Connection, letters: Sequence[tuple[UUID, datetime | None]]) -> None:
    """Letters that do not wait any more, and until when their PDFs are kept; None: as long as they are printed."""
    await transaction.executemany(
        "update letter set compose_time = null, wait_time = null where message_id = $1",
        [(message_id,) for message_id, _ in letters],
    )
    await transaction.executemany(
        "update attachment set expire_time = $2 where attachment_id ="
        " (select attachment_id from letter where message_id = $1) and state = 4",
        letters,
    )


async def try_again(transaction: Connection, message_ids: Sequence[UUID], *, now: datetime) -> None:
    """Letters that had failed and are made anew; whoever had claimed them has them no more."""
    await transaction.execute(
        "update letter set compose_time = $2, attempts = 0, claim = null where message_id = any($1::uuid[])",
        message_ids,
        now,
    )


async def address(transaction: Connection, message_id: UUID) -> bytes | None:
    """Where a letter goes whose message does not say, or said it wrong; sealed."""
    found: bytes | None = await transaction.fetchval("select address from letter where message_id = $1", message_id)
    return found


async def set_address(transaction: Connection, message_id: UUID, *, address: bytes) -> None:
    """Where a letter goes whose message does not say, or says it wrong; sealed."""
    await transaction.execute("update letter set address = $2 where message_id = $1", message_id, address)


# Making them


async def claim_composing(database: Database, *, now: datetime, until: datetime) -> Row | None:
    """The letter that has waited longest for its PDF, kept from others until a time, with all that it is made of."""
    return await database.fetchrow(
        "with claimed as (update letter set compose_time = $2, attempts = attempts + 1 where message_id ="
        " (select message_id from letter where compose_time <= $1 order by compose_time limit 1"
        " for update skip locked) returning message_id, create_time, address, attempts)"
        " select l.message_id, l.create_time, l.address, l.attempts, m.mailbox_id, m.content, m.legal_profile,"
        " b.data_key, u.display_names"
        " from claimed l join message m using (message_id) join mailbox b using (mailbox_id)"
        " join unit u using (unit_id)",
        now,
        until,
    )


async def insert_file(
    database: Database, *, attachment_id: UUID, owner: str, data_key: bytes, now: datetime, expire_time: datetime
) -> None:
    """A PDF that is about to be written: forgotten by `expire_time` unless `set_composed` follows."""
    await database.execute(
        "insert into attachment (attachment_id, owner, state, file_name, media_type, size_bytes, data_key,"
        " create_time, expire_time) values ($1, $2, 1, '', 'application/pdf', 0, $3, $4, $5)",
        attachment_id,
        owner,
        data_key,
        now,
        expire_time,
    )


async def set_composed(
    database: Database,
    message_id: UUID,
    *,
    attachment_id: UUID,
    file_name: bytes,
    size: int,
    digest: bytes | None,
    page_count: int,
    now: datetime,
) -> bool:
    """Has a letter wait for a print house, with its PDF; False where it was stopped, or has another by now."""
    row = await database.fetchrow(
        "with composed as (update letter set attachment_id = $2, page_count = $6, compose_time = null, wait_time = $7"
        " where message_id = $1 and compose_time is not null returning message_id),"
        " filed as (update attachment set state = 4, file_name = $3, size_bytes = $4, digest = $5, expire_time = null"
        " where attachment_id = $2 and exists (select from composed))"
        " select message_id from composed",
        message_id,
        attachment_id,
        file_name,
        size,
        digest,
        page_count,
        now,
    )
    return row is not None


async def postpone(database: Database, message_id: UUID, *, until: datetime) -> None:
    """Has the next try to make a PDF wait."""
    await database.execute(
        "update letter set compose_time = $2 where message_id = $1 and compose_time is not null", message_id, until
    )


# Print houses


async def hold_waiting(transaction: Connection, *, now: datetime, limit: int) -> list[Row]:
    """Letters that a print house may claim, those that another process holds left out; their messages are locked."""
    return await transaction.fetch(
        f"{_HELD} where l.wait_time <= $1 order by l.wait_time limit $2 for update of m, l skip locked", now, limit
    )


async def hold(transaction: Connection, message_ids: Sequence[UUID], *, claimant: str) -> list[Row]:
    """Letters that a print house has claimed last; their messages are locked."""
    return await transaction.fetch(
        f"{_HELD} where l.message_id = any($1::uuid[]) and l.claimant = $2 order by l.message_id for update of m",
        message_ids,
        claimant,
    )


async def letter(database: Database, message_id: UUID, *, claimant: str) -> Row | None:
    """A letter that a print house has claimed last."""
    return await database.fetchrow(f"{_HELD} where l.message_id = $1 and l.claimant = $2", message_id, claimant)


async def set_claimed(
    transaction: Connection, message_ids: Sequence[UUID], *, claim: UUID, claimant: str, until: datetime
) -> None:
    """Letters that a print house has claimed: they wait again from then on, unless they are submitted before."""
    await transaction.execute(
        "update letter set claim = $2, claimant = $3, wait_time = $4 where message_id = any($1::uuid[])",
        message_ids,
        claim,
        claimant,
        until,
    )


async def file(database: Database, attachment_id: UUID, *, claimant: str) -> Row | None:
    """The PDF of a letter that a print house has claimed last, with the message that it is of."""
    return await database.fetchrow(
        f"select {ATTACHMENT_COLUMNS}, l.message_id, l.mailbox_id from attachment join"
        " (select l.attachment_id as file, m.message_id, m.mailbox_id from letter l join message m using (message_id)"
        " where l.attachment_id = $1 and l.claimant = $2) as l on l.file = attachment_id where data_key is not null",
        attachment_id,
        claimant,
    )


# Attachments that go on paper


async def printable(database: Database, attachment_ids: Sequence[UUID], *, owner: str) -> dict[UUID, Row]:
    """Attachments of an owner, with their pages where they were looked at before."""
    rows = await database.fetch(
        f"select {ATTACHMENT_COLUMNS}, page_count from attachment where attachment_id = any($1::uuid[]) and owner = $2",
        attachment_ids,
        owner,
    )
    return {row["attachment_id"]: row for row in rows}


async def set_page_count(database: Database, attachment_id: UUID, page_count: int) -> None:
    """Records that a PDF can be printed, and on how many pages."""
    await database.execute("update attachment set page_count = $2 where attachment_id = $1", attachment_id, page_count)
