"""SQL of the record of exchanges: looked up, exported, summed up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from uuid import UUID

from services.runtime.database import Database, Row

COLUMNS = (
    "e.exchange_id, e.side, e.message_id, e.consumer, e.service, e.consumer_node, e.provider_node, e.method, e.status,"
    " e.outcome, e.reason, e.refused_by, e.on_behalf, e.request_sha256, e.response_sha256, e.measurement, e.start_time,"
    " e.end_time, case when e.request_sha256 is null and e.response_sha256 is null then 3"
    " when exists (select from statement s join evidence v using (seq)"
    " where s.exchange_id = e.exchange_id and s.sha256 in (e.request_sha256, e.response_sha256)"
    " and (v.stamp_state = 1 or v.log_index is null)) then 1 else 2 end as evidence_state"
)

_MINE = "(e.side = 1 and e.consumer = any({0}) or e.side = 2 and subsystem_of(e.service) = any({0}))"
"""Those of subsystems, on whichever side they were; null: of the whole node."""

EXPORTED = 500
"""Rows read at once for an export."""


async def exchange(database: Database, exchange_id: UUID, *, subsystems: Sequence[str]) -> list[Row]:
    """An exchange of these subsystems: a row for each side that was theirs."""
    return await database.fetch(
        f"select {COLUMNS} from exchange e where exchange_id = $1 and {_MINE.format('$2::text[]')} order by side",
        exchange_id,
        subsystems,
    )


async def exchanges(
    database: Database,
    *,
    subsystems: Sequence[str],
    side: int,
    counterpart: str,
    service: str,
    message_id: str,
    outcomes: Sequence[int],
    start: datetime | None,
    end: datetime | None,
    before: tuple[datetime, UUID, int] | None,
    limit: int,
) -> list[Row]:
    """Exchanges of these subsystems, latest first; an empty filter lets all through."""
    at, exchange_id, at_side = before or (None, None, None)
    return await database.fetch(
        f"select {COLUMNS} from exchange e where {_MINE.format('$1::text[]')} and ($2::smallint = 0 or side = $2)"
        " and ($3::text = '' or (side = 1 and subsystem_of(service) = $3) or (side = 2 and consumer = $3))"
        " and ($4::text = '' or service = $4) and ($5::text = '' or message_id = $5)"
        " and ($6::smallint[] = '{}' or outcome = any($6)) and ($7::timestamptz is null or start_time >= $7)"
        " and ($8::timestamptz is null or start_time < $8)"
        " and ($9::timestamptz is null or (start_time, exchange_id, side) < ($9, $10::uuid, $11::smallint))"
        " order by start_time desc, exchange_id desc, side desc limit $12",
        subsystems,
        side,
        counterpart,
        service,
        message_id,
        outcomes,
        start,
        end,
        at,
        exchange_id,
        at_side,
        limit,
    )


async def ended(
    database: Database,
    *,
    subsystems: Sequence[str] | None,
    start: datetime | None,
    end: datetime | None,
    after: tuple[datetime, UUID, int] | None,
) -> AsyncIterator[Row]:
    """Exchanges in the order in which they ended, from an instant or a place on."""
    while True:
        at, exchange_id, side = after or (None, None, None)
        rows = await database.fetch(
            f"select {COLUMNS} from exchange e where ($1::text[] is null or {_MINE.format('$1::text[]')})"
            " and ($2::timestamptz is null or end_time >= $2) and ($3::timestamptz is null or end_time < $3)"
            " and ($4::timestamptz is null or (end_time, exchange_id, side) > ($4, $5::uuid, $6::smallint))"
            " order by end_time, exchange_id, side limit $7",
            subsystems,
            start,
            end,
            at,
            exchange_id,
            side,
            EXPORTED,
        )
        for row in rows:
            yield row
        if len(rows) < EXPORTED:
            return
        after = rows[-1]["end_time"], rows[-1]["exchange_id"], rows[-1]["side"]


HEADINGS = {0: "''", 1: "service", 2: "consumer", 3: "date_trunc('hour', end_time)::text"}
"""By what traffic is summed up; keys as `GroupBy` in the contract."""


async def traffic(
    database: Database,
    *,
    subsystems: Sequence[str] | None,
    side: int,
    start: datetime,
    end: datetime | None,
    group_by: int,
    skip: int,
    limit: int,
) -> list[Row]:
    """Traffic summed up: the most first, hours in their order."""
    order = "heading" if group_by == 3 else "count desc, heading"
    return await database.fetch(
        f"select {HEADINGS[group_by]} as heading, count(*) as count, count(*) filter (where outcome = 1) as answered,"
        " count(*) filter (where outcome = 2) as backend_errors, count(*) filter (where outcome = 3) as refused,"
        " count(*) filter (where outcome = 4) as broken, sum(request_bytes)::bigint as request_bytes,"
        " sum(response_bytes)::bigint as response_bytes, coalesce(avg(backend_share), 0) as backend_share,"
        " percentile_cont(array[0.5, 0.99]) within group (order by extract(epoch from end_time - start_time))"
        f" as seconds from exchange e where ($1::text[] is null or {_MINE.format('$1::text[]')})"
        " and ($2::smallint = 0 or side = $2) and end_time >= $3 and ($4::timestamptz is null or end_time < $4)"
        f" group by heading order by {order} offset $5 limit $6",
        subsystems,
        side,
        start,
        end,
        skip,
        limit,
    )
