"""All facts from PostgreSQL, for snapshots and for the news of imports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from datetime import datetime
from uuid import UUID

from solmu.authorisations.v1.facts_pb2 import FactChange

from services.authorisations import messages
from services.authorisations.register_facts import RegisterFacts
from services.runtime.database import Connection, Row
from services.runtime.facts.rules import Kind

RECORD_COLUMNS = "record, register_id, subject, object, role, alone, block, effect, birth_day, held_from, held_until"


async def mandates(transaction: Connection, theme_ids: Collection[str]) -> AsyncIterator[FactChange]:
    """Every mandate that held, holds or will hold, in some themes or in all."""
    cursor = transaction.cursor(
        "select mandate_id, kind, principal, delegate, theme_id, specifier, held_from, held_until"
        " from mandate where held_from is not null and (cardinality($1::text[]) = 0 or theme_id = any($1))",
        sorted(theme_ids),
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
    transaction: Connection, registers: RegisterFacts, ages: Collection[int], *, of_children: bool = False
) -> AsyncIterator[FactChange]:
    """Every right and block that registers told of, or only those that end with an age."""
    cursor = transaction.cursor(
        f"select {RECORD_COLUMNS} from register_record where case when $1 then role <> '' and birth_day is not null"
        " else role <> '' or effect <> 0 end",
        of_children,
        prefetch=1000,
    )
    async for row in cursor:
        yield record_change(row, registers, ages)


async def registers(transaction: Connection) -> AsyncIterator[FactChange]:
    """Every register that must speak again."""
    cursor = transaction.cursor(
        "select register_id, contents, greatest_age, as_of, create_time from register where greatest_age is not null"
    )
    async for row in cursor:
        yield messages.register_fact(row)


def record_change(row: Row, registers: RegisterFacts, ages: Collection[int]) -> FactChange:
    """What a register's record means to those who judge by facts: a right or a block."""
    name = messages.record_name(row["register_id"], row["record"])
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
