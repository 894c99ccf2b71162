"""SQL of the units' feeds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from solmu.messages.v1 import feed_pb2

from services.runtime.database import Connection, Database, Row

TOLD = """
placed as (
    insert into feed as f (unit_id, last)
    select unit_id, count(*) from happened group by unit_id order by unit_id
    on conflict (unit_id) do update set last = f.last + excluded.last returning unit_id, last
), told as (
    insert into feed_event (unit_id, sequence, event_id, type, event, time)
    select unit_id, p.last - count(*) over of_unit + row_number() over (of_unit order by position),
        event_id, type, event, time
    from happened join placed p using (unit_id) window of_unit as (partition by unit_id)
)
"""
"""Gives what has `happened` (unit_id, event_id, type, event, time, position) the next places in the units' feeds.

Whoever takes places in the same feed waits until this transaction ends: so places are in the order of the commits.
Units come in the order of their ids, lest two transactions wait for each other.
"""


async def append(transaction: Connection, entries: Sequence[tuple[str, feed_pb2.Event]]) -> None:
    """Gives events the next places in their units' feeds, in the order given."""
    if not entries:
        return
    await transaction.execute(
        "with happened as ("
        "select * from unnest($1::text[], $2::uuid[], $3::text[], $4::bytea[], $5::timestamptz[]) with ordinality"
        " as e (unit_id, event_id, type, event, time, position)"
        f"), {TOLD} select",
        [unit_id for unit_id, _ in entries],
        [UUID(event.id) for _, event in entries],
        [event.type for _, event in entries],
        [event.SerializeToString() for _, event in entries],
        [event.time.ToDatetime(UTC) for _, event in entries],
    )


async def page(database: Database, unit_id: str, *, after: int, size: int) -> tuple[list[Row], int | None]:
    """The events after a place, and the oldest place that is kept where nothing, or not the next, was found."""
    rows = await database.fetch(
        "select sequence, type, event from feed_event where unit_id = $1 and sequence > $2 order by sequence limit $3",
        unit_id,
        after,
        size,
    )
    if not after or (rows and rows[0]["sequence"] == after + 1):
        return rows, None
    oldest = await database.fetchval(
        "select coalesce((select min(sequence) from feed_event where unit_id = $1),"
        " (select last + 1 from feed where unit_id = $1))",
        unit_id,
    )
    return rows, oldest


async def sweep(database: Database, *, older_than: datetime) -> None:
    """Forgets old events."""
    await database.execute("delete from feed_event where time < $1", older_than)
