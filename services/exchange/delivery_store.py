"""SQL of deliveries: what came for subsystems of this node, leases, and the receipts that go back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from services.runtime.database import Connection, Database, Row

VIEW = (
    "select d.envelope_id, d.subsystem, d.state, d.attempt, d.replayed, d.lease_id, d.lease_end_time, d.reason,"
    " d.receipt_sha256, d.settle_time, a.seq, a.sender, a.target, a.message_id, a.purpose, a.type, a.media_type,"
    " a.answers, a.lane, a.place, a.body_sha256, a.body_bytes, a.statement_sha256, a.send_time, a.expire_time,"
    " a.arrive_time, d.finding, c.data_key, c.on_behalf_of from delivery d join arrival a using (envelope_id)"
    " left join envelope_content c using (envelope_id)"
)


async def insert_arrival(transaction: Connection, values: Sequence[Any]) -> None:
    """Keeps an envelope that came, where it had not."""
    marks = ", ".join(f"${number}" for number in range(1, len(values) + 1))
    await transaction.execute(
        "insert into arrival (envelope_id, sender, target, message_id, purpose, type, media_type, answers, lane, place,"
        f" body_sha256, body_bytes, statement_sha256, send_time, expire_time) values ({marks}) on conflict do nothing",
        *values,
    )


async def insert(
    transaction: Connection, envelope_id: UUID, subsystem: str, *, state: int, finding: bytes | None
) -> bool:
    """Has an envelope be for a subsystem, with what was found of its mandate; says whether it had not been."""
    return (
        await transaction.fetchval(
            "insert into delivery (envelope_id, subsystem, state, finding) values ($1, $2, $3, $4)"
            " on conflict do nothing returning true",
            envelope_id,
            subsystem,
            state,
            finding,
        )
        is True
    )


async def lease(
    database: Database,
    subsystem: str,
    *,
    topic: str,
    types: Sequence[str],
    now: datetime,
    until: datetime,
    limit: int,
) -> list[Row]:
    """Hands out what may be: of each lane the first that has not ended."""
    rows = await database.fetch(
        "with chosen as (select d.envelope_id, d.subsystem from delivery d join arrival a using (envelope_id)"
        " where d.subsystem = $1 and (d.state = 2 or (d.state = 3 and d.lease_end_time <= $4))"
        " and (a.expire_time > $4 or d.replayed) and ($2 = '' or a.target = 'topic ' || $2)"
        " and (cardinality($3::text[]) = 0 or a.type = any($3)) and (a.lane = '' or not exists (select 1"
        " from delivery e join arrival b using (envelope_id) where e.subsystem = d.subsystem and e.state in (2, 3)"
        " and b.sender = a.sender and b.target = a.target and b.lane = a.lane and b.place < a.place))"
        " order by a.seq limit $6 for update of d skip locked),"
        " leased as (update delivery d set state = 3, attempt = d.attempt + 1, lease_end_time = $5,"
        " lease_id = gen_random_uuid()::text from chosen c where d.envelope_id = c.envelope_id"
        " and d.subsystem = c.subsystem returning d.*)"
        f" {VIEW.replace('from delivery d', 'from leased d')} order by a.seq",
        subsystem,
        topic,
        types,
        now,
        until,
        limit,
    )
    return list(rows)


async def is_leased(database: Database, lease_id: str, *, now: datetime) -> bool:
    """Whether a lease still runs."""
    return (
        await database.fetchval(
            "select true from delivery where lease_id = $1 and state = 3 and lease_end_time > $2", lease_id, now
        )
        is True
    )


async def one(writer: Connection | Database, envelope_id: UUID, subsystem: str, *, lock: bool = False) -> Row | None:
    """A delivery."""
    return await writer.fetchrow(
        f"{VIEW} where d.envelope_id = $1 and d.subsystem = $2{' for update of d' if lock else ''}",
        envelope_id,
        subsystem,
    )


async def listed(
    database: Database,
    subsystem: str,
    *,
    states: Sequence[int],
    start: datetime | None,
    end: datetime | None,
    before: int | None,
    limit: int,
) -> list[Row]:
    """What came for a subsystem, latest first."""
    return await database.fetch(
        f"{VIEW} where d.subsystem = $1 and (cardinality($2::smallint[]) = 0 or d.state = any($2))"
        " and ($3::timestamptz is null or a.arrive_time >= $3) and ($4::timestamptz is null or a.arrive_time < $4)"
        " and ($5::bigint is null or a.seq < $5) order by a.seq desc limit $6",
        subsystem,
        states,
        start,
        end,
        before,
        limit,
    )


async def set_lease_end(database: Database, envelope_id: UUID, subsystem: str, end: datetime | None) -> None:
    """Prolongs a lease, or gives it back."""
    await database.execute(
        "update delivery set lease_end_time = $3, state = case when $3::timestamptz is null then 2 else 3 end"
        " where envelope_id = $1 and subsystem = $2",
        envelope_id,
        subsystem,
        end,
    )


async def settle(
    transaction: Connection,
    envelope_id: UUID,
    subsystem: str,
    *,
    state: int,
    reason: str = "",
    receipt: bytes | None = None,
) -> None:
    """Ends a delivery; a receipt is to be brought to the sender."""
    await transaction.execute(
        "update delivery set state = $3, reason = case when $5::bytea is null then reason else $4 end,"
        " receipt_sha256 = coalesce($5, receipt_sha256),"
        " receipt_due = case when $5::bytea is null then receipt_due else clock_timestamp() end,"
        " settle_time = coalesce(settle_time, clock_timestamp()), replayed = false"
        " where envelope_id = $1 and subsystem = $2",
        envelope_id,
        subsystem,
        state,
        reason,
        receipt,
    )


async def replay(
    writer: Connection | Database, subsystem: str, *, start: datetime, end: datetime | None, topic: str
) -> int:
    """Has what was sent in a time be handed out again, as far as its body is kept; returns how many."""
    rows = await writer.fetch(
        "update delivery d set state = 2, replayed = true from arrival a join envelope_content c using (envelope_id)"
        " where a.envelope_id = d.envelope_id and d.subsystem = $1 and a.send_time >= $2"
        " and ($3::timestamptz is null or a.send_time < $3) and ($4 = '' or a.target = 'topic ' || $4)"
        " and d.state in (4, 5, 6) returning d.envelope_id",
        subsystem,
        start,
        end,
        topic,
    )
    return len(rows)


async def replay_one(transaction: Connection, envelope_id: UUID, subsystem: str) -> None:
    """Has one that was brought again be handed out again."""
    await transaction.execute(
        "update delivery set state = 2, replayed = true where envelope_id = $1 and subsystem = $2"
        " and state in (4, 5, 6)",
        envelope_id,
        subsystem,
    )


async def expire(database: Database, *, now: datetime) -> None:
    """Ends what was not acknowledged in its time."""
    await database.execute(
        "update delivery d set state = 6, settle_time = clock_timestamp() from arrival a"
        " where a.envelope_id = d.envelope_id and not d.replayed and a.expire_time <= $1"
        " and (d.state = 2 or (d.state = 3 and d.lease_end_time <= $1))",
        now,
    )


async def due_receipts(database: Database, *, now: datetime, limit: int) -> list[Row]:
    """Receipts and rejections to be brought to their senders now."""
    return await database.fetch(
        "select d.envelope_id, d.subsystem, d.receipt_attempts, a.sender, s.content, s.signature, s.time_stamp,"
        " o.answer from delivery d join arrival a using (envelope_id)"
        " join statement s on s.sha256 = d.receipt_sha256 and s.own left join evidence e on e.seq = s.seq"
        " left join certificate_status o on o.sha256 = e.status_sha256"
        " where d.receipt_due <= $1 order by d.receipt_due limit $2",
        now,
        limit,
    )


async def set_receipt_due(database: Database, envelope_id: UUID, subsystem: str, due: datetime | None) -> None:
    """Enters when a receipt is brought next; None: it was."""
    await database.execute(
        "update delivery set receipt_due = $3, receipt_attempts = receipt_attempts + 1"
        " where envelope_id = $1 and subsystem = $2",
        envelope_id,
        subsystem,
        due,
    )
