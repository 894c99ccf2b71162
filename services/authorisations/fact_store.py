"""All facts from PostgreSQL, for snapshots and for the news of imports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from datetime import datetime
from uuid import UUID

from solmu.authorisations.v1.facts_pb2 import FactChange

from services.authorisations import messages
from services.authorisations.register_facts import RegisterFacts
from services.authorisations.themes import Kind
from services.runtime.database import Connection, Row

RECORD_COLUMNS = "record, register_id, subject, object, role, alone, block, effect, birth_day, held_from, held_until"


async def mandates(transaction: Connection) -> AsyncIterator[FactChange]:
    """Every mandate that held, holds or will hold."""
    cursor = transaction.cursor(
        "select mandate_id, kind, principal, delegate, theme_id, specifier, held_from, held_until"
        " from mandate where held_from is not null",
        prefetch=1000,
    )
    async for row in cursor:
        yield messages.mandate_fact(
            row["mandate_id"],
            kind=Kind(row["kind"]),
            principal=row["principal"],
            delegate=row["delegate"],
            theme_id=row["theme_id"],
            specifier=row["specifier"],
            held=(row["held_from"], row["held_until"]),
        )


async def records(
    transaction: Connection, registers: RegisterFacts, ages: Collection[int]
) -> AsyncIterator[FactChange]:
    """Every right and block that registers told of."""
    cursor = transaction.cursor(
        f"select {RECORD_COLUMNS} from register_record where role <> '' or effect <> 0", prefetch=1000
    )
    async for row in cursor:
        yield record_change(row, registers, ages)


def record_change(row: Row, registers: RegisterFacts, ages: Collection[int]) -> FactChange:
    """What a register's record means to those who judge by facts: a right or a block."""
    name = f"registers/{row['register_id']}/records/{row['record']}"
    window: tuple[datetime, datetime | None] = (row["held_from"], row["held_until"])
    if window[1] is not None and window[1] <= window[0]:
        return FactChange(name=name)
    if row["effect"]:
        return messages.block_fact(
            name, window, party=row["subject"], counterpart=row["object"], kind=row["block"], effect=row["effect"]
        )
    record: UUID = row["record"]
    reached = registers.ages(row["birth_day"], record, ages) if row["birth_day"] else {}
    return messages.right_fact(
        name,
        window,
        delegate=row["subject"],
        principal=row["object"],
        role=row["role"],
        alone=row["alone"],
        reached=reached,
    )
