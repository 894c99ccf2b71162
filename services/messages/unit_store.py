"""SQL of units."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from services.runtime.database import Database, Row

UNIT_COLUMNS = (
    "unit_id, organisation, display_names, accepts_new_messages, retention, legal_profile, create_time, version"
)


async def insert_unit(database: Database, unit: Row | Mapping[str, object]) -> Row | None:
    """The new unit, or None where there is one of that name."""
    return await database.fetchrow(
        f"insert into unit ({UNIT_COLUMNS}) values ($1, $2, $3, $4, $5, $6, $7, 1)"
        f" on conflict (unit_id) do nothing returning {UNIT_COLUMNS}",
        unit["unit_id"],
        unit["organisation"],
        unit["display_names"],
        unit["accepts_new_messages"],
        unit["retention"],
        unit["legal_profile"],
        unit["create_time"],
    )


async def unit(database: Database, unit_id: str) -> Row | None:
    """A unit."""
    return await database.fetchrow(f"select {UNIT_COLUMNS} from unit where unit_id = $1", unit_id)


async def units_of(database: Database, organisation: str, *, after: str, limit: int) -> list[Row]:
    """Units of an organisation, by name."""
    return await database.fetch(
        f"select {UNIT_COLUMNS} from unit where organisation = $1 and unit_id > $2 order by unit_id limit $3",
        organisation,
        after,
        limit,
    )


async def update_unit(
    database: Database,
    unit_id: str,
    *,
    version: int,
    display_names: bytes,
    accepts_new_messages: bool,
    retention: timedelta | None,
    legal_profile: str,
) -> Row | None:
    """The changed unit, or None where somebody else changed it first."""
    return await database.fetchrow(
        "update unit set display_names = $3, accepts_new_messages = $4, retention = $5, legal_profile = $6,"
        f" version = version + 1 where unit_id = $1 and version = $2 returning {UNIT_COLUMNS}",
        unit_id,
        version,
        display_names,
        accepts_new_messages,
        retention,
        legal_profile,
    )
