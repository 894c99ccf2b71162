"""SQL of the units' feeds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from solmu.messages.v1 import feed_pb2

from services.runtime.database import Connection, Database, Row


async def append(transaction: Connection, entries: Sequence[tuple[str, feed_pb2.Event]]) -> None:
    """Gives events the next places in their units' feeds, in the order given."""
    if not entries:
        return
    counts: dict[str, int] = {}
    for unit_id, _ in entries:
        counts[unit_id] = counts.get(unit_id, 0) + 1
    units = sorted(counts)
    last = await transaction.fetch(
        "insert into feed as f (unit_id, last) select * from unnest($1::text[], $2::bigint[])"
        " on conflict (unit_id) do update set last = f.last + excluded.last returning unit_id, last",
        units,
        [counts[unit_id] for unit_id in units],
    )
    following = {row["unit_id"]: row["last"] - counts[row["unit_id"]] for row in last}
    rows = []
    for unit_id, event in entries:
        following[unit_id] += 1
        rows.append(
            (
                unit_id,
                following[unit_id],
                UUID(event.id),
                event.type,
                event.SerializeToString(),
                event.time.ToDatetime(UTC),
            )
        )
    await transaction.execute(
        "insert into feed_event (unit_id, sequence, event_id, type, event, time)"
        " select * from unnest($1::text[], $2::bigint[], $3::uuid[], $4::text[], $5::bytea[], $6::timestamptz[])",
        *(list(column) for column in zip(*rows, strict=True)),
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
