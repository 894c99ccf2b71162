"""SQL of templates."""

from __future__ import annotations

from datetime import datetime

from services.runtime.database import Connection, Database, Row

TEMPLATE_COLUMNS = "unit_id, template_id, version, bodies, create_time"


async def template(database: Database | Connection, unit_id: str, template_id: str) -> Row | None:
    """The newest version of a template."""
    return await database.fetchrow(
        f"select {TEMPLATE_COLUMNS} from template where unit_id = $1 and template_id = $2"
        " order by version desc limit 1",
        unit_id,
        template_id,
    )


async def hold_template(transaction: Connection, unit_id: str, template_id: str) -> Row | None:
    """The newest version of a template; until the transaction ends nobody else makes one in this unit."""
    await transaction.execute("select from unit where unit_id = $1 for no key update", unit_id)
    return await template(transaction, unit_id, template_id)


async def insert_template(
    transaction: Connection, *, unit_id: str, template_id: str, version: int, bodies: bytes, now: datetime
) -> Row:
    """The new version."""
    row = await transaction.fetchrow(
        f"insert into template ({TEMPLATE_COLUMNS}) values ($1, $2, $3, $4, $5) returning {TEMPLATE_COLUMNS}",
        unit_id,
        template_id,
        version,
        bodies,
        now,
    )
    assert row is not None
    return row


async def templates_of(database: Database, unit_id: str, *, after: str, limit: int) -> list[Row]:
    """The newest versions of a unit's templates, by name."""
    return await database.fetch(
        f"select distinct on (template_id) {TEMPLATE_COLUMNS} from template"
        " where unit_id = $1 and template_id > $2 order by template_id, version desc limit $3",
        unit_id,
        after,
        limit,
    )
