"""Registers, their records and imports in PostgreSQL."""

from __future__ import annotations

from datetime import datetime

from services.runtime.database import Connection, Database, Row


async def about(reader: Database | Connection, party: str, *, at: datetime) -> list[Row]:
    """The records that hold at an instant with the party in them, on either side."""
    return await reader.fetch(
        "select record, register_id, what, subject, object, role, alone, block, effect, birth_day, content"
        " from register_record where (subject = $1 or object = $1)"
        " and held_from <= $2 and (held_until is null or $2 < held_until) order by record",
        party,
        at,
    )
