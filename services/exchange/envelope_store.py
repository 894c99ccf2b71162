"""SQL of envelopes: what was sent, to whom, how far it has come, and bodies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from services.runtime.database import Connection, Database, Row

Writer = Connection | Database

ENVELOPE = (
    "envelope_id, sender, message_id, digest, target, purpose, type, media_type, answers, lane, place, body_sha256,"
    " body_bytes, statement, statement_sha256, expire_time, create_time"
)
RECIPIENT = (
    "envelope_id, subsystem, state, replayed, reason, statement_sha256, attempts, last_failure, next_attempt_time,"
    " arrive_time, settle_time"
)
COUNTS = (
    "(select count(*) from recipient r where r.envelope_id = e.envelope_id) as recipient_count,"
    " (select count(*) from recipient r where r.envelope_id = e.envelope_id and r.state > 3) as settled_count"
)


async def next_place(transaction: Connection, sender: str, target: str, lane: str) -> int:
    """The next place in a lane; who asks holds the lane until the transaction ends."""
    return int(
        await transaction.fetchval(
            "insert into envelope_lane as l (sender, target, lane, last) values ($1, $2, $3, 1)"
            " on conflict (sender, target, lane) do update set last = l.last + 1 returning last",
            sender,
            target,
            lane,
        )
    )


async def insert(transaction: Connection, values: Sequence[Any], recipients: Sequence[str], *, state: int) -> None:
    """Keeps an envelope, the columns of ENVELOPE but for the last, with its recipients."""
    marks = ", ".join(f"${number}" for number in range(1, len(values) + 1))
    columns = ENVELOPE.removesuffix(", create_time")
    await transaction.execute(f"insert into envelope ({columns}) values ({marks})", *values)
    await insert_recipients(transaction, values[0], recipients, state=state)


async def insert_recipients(
    writer: Writer, envelope_id: UUID, recipients: Sequence[str], *, state: int, replayed: bool = False
) -> None:
    """Has an envelope go to these, or, where it has gone there before, go there again."""
    await writer.execute(
        "insert into recipient as r (envelope_id, subsystem, state, replayed) select $1, unnest($2::text[]), $3, $4"
        " on conflict (envelope_id, subsystem) do update set state = $3, replayed = true,"
        " settle_time = case when r.state in (4, 5) then r.settle_time end, next_attempt_time = clock_timestamp()"
        " where $4 and r.state > 1",
        envelope_id,
        recipients,
        state,
        replayed,
    )


async def again(database: Database, subsystem: str, *, start: datetime, end: datetime | None) -> int:
    """Has what was sent to a subsystem, by no topic, and is kept, be brought again; returns how many envelopes."""
    rows = await database.fetch(
        "update recipient r set state = 1, replayed = true, next_attempt_time = clock_timestamp(),"
        " settle_time = case when r.state in (4, 5) then r.settle_time end"
        " from envelope e join envelope_content using (envelope_id) where e.envelope_id = r.envelope_id"
        " and r.subsystem = $1 and e.target not like 'topic %' and r.state > 1 and e.create_time >= $2"
        " and ($3::timestamptz is null or e.create_time < $3) returning r.envelope_id",
        subsystem,
        start,
        end,
    )
    return len(rows)


async def by_message_id(writer: Writer, sender: str, message_id: str) -> Row | None:
    """The envelope with a message id of its sender's."""
    return await writer.fetchrow(
        f"select {ENVELOPE}, {COUNTS} from envelope e where sender = $1 and message_id = $2", sender, message_id
    )


async def envelope(writer: Writer, envelope_id: UUID) -> Row | None:
    """An envelope."""
    return await writer.fetchrow(f"select {ENVELOPE}, {COUNTS} from envelope e where envelope_id = $1", envelope_id)


async def by_statement(writer: Writer, statement_sha256: bytes) -> Row | None:
    """The envelope of a statement."""
    return await writer.fetchrow(
        f"select {ENVELOPE}, {COUNTS} from envelope e where statement_sha256 = $1", statement_sha256
    )


async def envelopes(
    database: Database, sender: str, *, message_id: str, unsettled: bool, before: UUID | None, limit: int
) -> list[Row]:
    """The envelopes of a sender, latest first."""
    return await database.fetch(
        f"select {ENVELOPE}, {COUNTS} from envelope e where sender = $1 and ($2 = '' or message_id = $2)"
        " and (not $3 or exists (select 1 from recipient r where r.envelope_id = e.envelope_id and r.state <= 3))"
        " and ($4::uuid is null or envelope_id < $4) order by envelope_id desc limit $5",
        sender,
        message_id,
        unsettled,
        before,
        limit,
    )


async def recipients(database: Database, envelope_id: UUID, *, after: str, limit: int) -> list[Row]:
    """The recipients of an envelope, by identifier."""
    return await database.fetch(
        f"select {RECIPIENT} from recipient where envelope_id = $1 and subsystem > $2 order by subsystem limit $3",
        envelope_id,
        after,
        limit,
    )


async def due(database: Database, *, now: datetime, limit: int) -> list[Row]:
    """Who waits to be brought something now: of each lane the first only, so that it arrives in its order."""
    return await database.fetch(
        "select r.envelope_id, r.subsystem, r.replayed, r.attempts, e.sender, e.statement, e.statement_sha256,"
        " c.data_key, c.on_behalf_of from recipient r join envelope e using (envelope_id)"
        " left join envelope_content c using (envelope_id) where r.state = 1 and r.next_attempt_time <= $1"
        " and (e.lane = '' or not exists (select 1 from recipient f join envelope g using (envelope_id)"
        " where f.subsystem = r.subsystem and f.state = 1 and g.sender = e.sender and g.target = e.target"
        " and g.lane = e.lane and g.place < e.place)) order by r.next_attempt_time, r.envelope_id limit $2",
        now,
        limit,
    )


async def still_waiting(database: Database, envelope_id: UUID, subsystems: Sequence[str]) -> set[str]:
    """Those of these to whom an envelope is still to be brought."""
    rows = await database.fetch(
        "select subsystem from recipient where envelope_id = $1 and subsystem = any($2) and state = 1",
        envelope_id,
        subsystems,
    )
    return {row["subsystem"] for row in rows}


async def wake(database: Database, subsystems: Sequence[str], *, now: datetime) -> int:
    """Has what waits for these be brought now; returns how much that is."""
    rows = await database.fetch(
        "update recipient set next_attempt_time = $2 where state = 1 and subsystem = any($1) returning envelope_id",
        subsystems,
        now,
    )
    return len(rows)


async def set_arrived(transaction: Connection, envelope_id: UUID, subsystems: Sequence[str]) -> None:
    """Enters that an envelope has arrived; of one brought again, only that it was."""
    await transaction.execute(
        "update recipient set state = case when settle_time is null then 2"
        " when reason = '' then 4 else 5 end, replayed = false, arrive_time = coalesce(arrive_time, clock_timestamp()),"
        " attempts = attempts + 1, last_failure = '' where envelope_id = $1 and subsystem = any($2) and state = 1",
        envelope_id,
        subsystems,
    )


async def set_failed(
    database: Database, envelope_id: UUID, subsystems: Sequence[str], *, failure: str, next_attempt: datetime
) -> None:
    """Enters that bringing an envelope failed this time."""
    await database.execute(
        "update recipient set attempts = attempts + 1, last_failure = $3, next_attempt_time = $4"
        " where envelope_id = $1 and subsystem = any($2) and state = 1",
        envelope_id,
        subsystems,
        failure,
        next_attempt,
    )


async def settle(
    transaction: Connection, envelope_id: UUID, subsystem: str, *, state: int, reason: str, statement: bytes | None
) -> Row | None:
    """Ends an envelope with a recipient; None where it had ended."""
    return await transaction.fetchrow(
        "update recipient set state = $3::smallint, reason = $4, statement_sha256 = $5,"
        " settle_time = clock_timestamp(), arrive_time = case when $3::smallint in (4, 5)"
        " then coalesce(arrive_time, clock_timestamp()) else arrive_time end"
        f" where envelope_id = $1 and subsystem = $2 and settle_time is null returning {RECIPIENT}",
        envelope_id,
        subsystem,
        state,
        reason,
        statement,
    )


async def cancellable(transaction: Connection, envelope_id: UUID) -> list[str]:
    """Those where an envelope has not arrived."""
    rows = await transaction.fetch(
        "select subsystem from recipient where envelope_id = $1 and state = 1 and settle_time is null for update",
        envelope_id,
    )
    return [row["subsystem"] for row in rows]


async def undelivered(transaction: Connection, *, limit: int) -> list[Row]:
    """Recipients whom an envelope has not reached, and with whom it has not ended."""
    return await transaction.fetch(
        "select envelope_id, subsystem from recipient where state = 1 and settle_time is null"
        " order by envelope_id limit $1 for update",
        limit,
    )


async def overdue(transaction: Connection, *, now: datetime, limit: int) -> list[Row]:
    """Recipients with whom an envelope has not ended although its time is over."""
    return await transaction.fetch(
        "select r.envelope_id, r.subsystem from recipient r join envelope e using (envelope_id)"
        " where r.settle_time is null and not r.replayed and r.state in (1, 2, 3)"
        " and e.expire_time + interval '1 minute' <= $1"
        " limit $2 for update of r skip locked",
        now,
        limit,
    )


async def append_receipt(
    transaction: Connection, *, receipt_id: UUID, sender: str, envelope_id: UUID, message_id: str, content: bytes
) -> None:
    """Adds to what became of a sender's envelopes. Who adds holds the sender's order until the transaction ends."""
    await transaction.execute("select pg_advisory_xact_lock(hashtextextended($1, 7))", sender)
    await transaction.execute(
        "insert into receipt (receipt_id, sender, envelope_id, message_id, content) values ($1, $2, $3, $4, $5)",
        receipt_id,
        sender,
        envelope_id,
        message_id,
        content,
    )


async def receipts(database: Database, sender: str, *, after: int, limit: int) -> list[Row]:
    """What became of a sender's envelopes, in order."""
    return await database.fetch(
        "select seq, receipt_id, envelope_id, message_id, content from receipt where sender = $1 and seq > $2"
        " order by seq limit $3",
        sender,
        after,
        limit,
    )


async def of_topic(database: Database, topic: str, *, start: datetime, end: datetime | None) -> list[Row]:
    """What was sent to a topic in a time and is kept, oldest first."""
    return await database.fetch(
        f"select {ENVELOPE} from envelope e join envelope_content using (envelope_id) where target = $1"
        " and create_time >= $2 and ($3::timestamptz is null or create_time < $3) order by envelope_id",
        f"topic {topic}",
        start,
        end,
    )


async def oldest_of_topic(database: Database, topic: str) -> datetime | None:
    """When the oldest was sent to a topic that is kept."""
    found: datetime | None = await database.fetchval(
        "select min(create_time) from envelope join envelope_content using (envelope_id) where target = $1",
        f"topic {topic}",
    )
    return found


# Bodies


async def insert_content(
    transaction: Connection, envelope_id: UUID, *, data_key: bytes, on_behalf_of: bytes | None, keep_until: datetime
) -> bool:
    """Makes room for a body, and keeps for whom it is, sealed; says whether there was none."""
    return (
        await transaction.fetchval(
            "insert into envelope_content as c (envelope_id, data_key, on_behalf_of, keep_until)"
            " values ($1, $2, $3, $4) on conflict (envelope_id) do update set keep_until = greatest(c.keep_until, $4)"
            " returning (xmax = 0)",
            envelope_id,
            data_key,
            on_behalf_of,
            keep_until,
        )
        is True
    )


async def insert_frame(transaction: Connection, envelope_id: UUID, frame: int, data: bytes) -> None:
    """Keeps a frame of a body."""
    await transaction.execute(
        "insert into envelope_body (envelope_id, frame, data) values ($1, $2, $3)", envelope_id, frame, data
    )


async def data_key(database: Database, envelope_id: UUID) -> bytes | None:
    """The wrapped key of a body; None where it is not kept."""
    found: bytes | None = await database.fetchval(
        "select data_key from envelope_content where envelope_id = $1", envelope_id
    )
    return found


async def frames(database: Database, envelope_id: UUID, *, first: int) -> AsyncIterator[tuple[int, bytes]]:
    """Frames of a body, with their numbers."""
    frame = first
    while True:
        data = await database.fetchval(
            "select data from envelope_body where envelope_id = $1 and frame = $2", envelope_id, frame
        )
        if data is None:
            return
        yield frame, data
        frame += 1


async def erase_content(database: Database, *, now: datetime, limit: int) -> int:
    """Erases bodies whose time is over and for which nobody waits; returns how many."""
    rows = await database.fetch(
        "delete from envelope_content where envelope_id in (select envelope_id from envelope_content c"
        " where keep_until <= $1"
        " and not exists (select 1 from recipient r where r.envelope_id = c.envelope_id and r.state = 1)"
        " and not exists (select 1 from delivery d where d.envelope_id = c.envelope_id and d.state in (2, 3)) limit $2)"
        " returning envelope_id",
        now,
        limit,
    )
    return len(rows)
