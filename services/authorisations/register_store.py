"""Registers, their records and imports in PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from services.authorisations.registers import Said
from services.runtime.database import Connection, Database, Row
from services.runtime.errors import AlreadyExists
from services.runtime.facts.checking import DEAD

_REGISTER = "register_id, display_name, importer, contents, greatest_age, latest_import, as_of, create_time, revision"
_IMPORT = (
    "import_id, register_id, request_id, mode, as_of, create_time, record_count, added_count, changed_count,"
    " ended_count, mandates_ended_count, importer, token"
)
_SAID = "digest, content, what, subject, object, role, alone, block, effect, birth_day"

ABANDONED_HOURS = 24
"""After how long what an import that never ended left is deleted; an import takes an hour at most."""


async def insert(transaction: Connection, register: Mapping[str, Any]) -> None:
    """Adds a register. Raises AlreadyExists, RESOURCE_EXISTS."""
    try:
        await transaction.execute(
            "insert into register (register_id, display_name, importer, contents, greatest_age, create_time, revision)"
            " values ($1, $2, $3, $4, $5, $6, 1)",
            *(register[key] for key in ("register_id", "display_name", "importer", "contents", "greatest_age")),
            register["create_time"],
        )
    except asyncpg.UniqueViolationError:
        name = f"registers/{register['register_id']}"
        raise AlreadyExists("RESOURCE_EXISTS", f"{name} exists already", resource=name) from None


async def update(transaction: Connection, register: Mapping[str, Any]) -> None:
    """Writes what may change of a register."""
    await transaction.execute(
        "update register set display_name = $2, importer = $3, contents = $4, greatest_age = $5,"
        " revision = revision + 1 where register_id = $1",
        *(register[key] for key in ("register_id", "display_name", "importer", "contents", "greatest_age")),
    )


async def find(reader: Database | Connection, register_id: str) -> Row | None:
    """A register, with how many records hold in it."""
    return await reader.fetchrow(
        f"select {_REGISTER}, (select count(*) from register_record r"
        " where r.register_id = register.register_id and latest) as record_count"
        " from register where register_id = $1 and register_id <> ''",
        register_id,
    )


async def page(reader: Database, *, after: str, size: int) -> list[Row]:
    """At most `size` registers after an id, in order."""
    return await reader.fetch(
        f"select {_REGISTER}, (select count(*) from register_record r"
        " where r.register_id = register.register_id and latest) as record_count"
        " from register where register_id > $1 order by register_id limit $2",
        after,
        size,
    )


async def find_import(reader: Database | Connection, register_id: str, *, request_id: UUID) -> Row | None:
    """The import that a request made."""
    return await reader.fetchrow(
        f"select {_IMPORT} from register_import where register_id = $1 and request_id = $2", register_id, request_id
    )


async def get_import(reader: Database, register_id: str, import_id: UUID) -> Row | None:
    """An import."""
    return await reader.fetchrow(
        f"select {_IMPORT} from register_import where register_id = $1 and import_id = $2", register_id, import_id
    )


async def imports(reader: Database, register_id: str, *, before: UUID | None, size: int) -> list[Row]:
    """At most `size` imports older than one, the newest first."""
    return await reader.fetch(
        f"select {_IMPORT} from register_import where register_id = $1 and ($2::uuid is null or import_id < $2)"
        " order by import_id desc limit $3",
        register_id,
        before,
        size,
    )


async def arrive(writer: Database, import_id: UUID, records: Sequence[tuple[UUID, Said, bytes, bytes | None]]) -> None:
    """Keeps records of an import that is still arriving: id, what it says, digest, sealed day of birth."""
    columns = list(
        zip(
            *(
                (
                    record,
                    said.record_id,
                    said.removed,
                    digest,
                    said.content,
                    said.what,
                    said.subject,
                    said.object,
                    said.role,
                    said.alone,
                    said.block,
                    int(said.effect),
                    birth_day,
                    said.start,
                    said.end,
                )
                for record, said, digest, birth_day in records
            ),
            strict=True,
        )
    )
    await writer.execute(
        f"insert into register_arrival (import_id, record, record_id, removed, {_SAID}, start_time, end_time)"
        " select $1, * from unnest($2::uuid[], $3::text[], $4::bool[], $5::bytea[], $6::bytea[], $7::text[],"
        " $8::text[], $9::text[], $10::text[], $11::bool[], $12::text[], $13::smallint[], $14::bytea[],"
        " $15::timestamptz[], $16::timestamptz[])",
        import_id,
        *columns,
    )


async def leave(writer: Database, import_id: UUID) -> None:
    """Deletes what arrived for an import, and what others abandoned."""
    await writer.execute(
        "delete from register_arrival where import_id = $1 or arrived < now() - make_interval(hours => $2)",
        import_id,
        ABANDONED_HOURS,
    )


async def unknown_removals(transaction: Connection, register_id: str, import_id: UUID) -> list[str]:
    """Ids of records that a delta removes and that are not there."""
    rows = await transaction.fetch(
        "select record_id from register_arrival a where import_id = $2 and removed and not exists ("
        " select from register_record r where r.register_id = $1 and r.record_id = a.record_id and latest)",
        register_id,
        import_id,
    )
    return [row["record_id"] for row in rows]


async def apply(
    transaction: Connection, register_id: str, import_id: UUID, *, snapshot: bool, as_of: datetime
) -> tuple[int, int, int]:
    """Ends what vanished or changed, and adds what is new; returns how many were added, changed and ended."""
    ended = await transaction.fetch(
        "update register_record r set latest = false,"
        " held_until = least(coalesce(r.held_until, 'infinity'), $4, coalesce(a.start_time, 'infinity'))"
        " from register_record o left join register_arrival a on a.import_id = $2 and a.record_id = o.record_id"
        " where r.record = o.record and o.register_id = $1 and o.latest"
        " and case when a.record_id is null then $3 else a.removed or a.digest <> o.digest end"
        " returning a.record_id is not null and not a.removed as changed",
        register_id,
        import_id,
        snapshot,
        as_of,
    )
    changed = sum(row["changed"] for row in ended)
    status = await transaction.execute(
        f"insert into register_record (record, register_id, record_id, {_SAID}, held_from, held_until, import_id)"
        f" select record, $1, record_id, {_SAID}, coalesce(start_time, $3), end_time, import_id"
        " from register_arrival a where import_id = $2 and not removed and not exists ("
        " select from register_record r where r.register_id = $1 and r.record_id = a.record_id and latest)",
        register_id,
        import_id,
        as_of,
    )
    made = int(status.rpartition(" ")[2])
    return made - changed, changed, len(ended) - changed


async def touched(transaction: Connection, register_id: str, import_id: UUID, as_of: datetime) -> list[Row]:
    """Rights and blocks that an import made or ended."""
    return await transaction.fetch(
        "select record, register_id, subject, object, role, alone, block, effect, birth_day, held_from, held_until"
        " from register_record where register_id = $1 and (role <> '' or effect <> 0)"
        " and (import_id = $2 or not latest and held_until <= $3 and xmin = pg_current_xact_id()::xid)"
        " order by record",
        register_id,
        import_id,
        as_of,
    )


async def deaths(transaction: Connection, persons: Sequence[str], now: datetime) -> list[Row]:
    """Of persons, those of whom a register says that they have died, each with the earliest word."""
    return await transaction.fetch(
        "select distinct on (subject) subject, register_id, record, held_from from register_record"
        " where subject = any($1) and block = $2 and held_from <= $3 and (held_until is null or $3 < held_until)"
        " order by subject, held_from",
        persons,
        DEAD,
        now,
    )


async def keep_import(transaction: Connection, values: Mapping[str, Any]) -> None:
    """Keeps an import, as the register's last one."""
    places = ", ".join(f"${number}" for number in range(1, _IMPORT.count(",") + 2))
    await transaction.execute(
        f"insert into register_import ({_IMPORT}) values ({places})",
        *(values[key.strip()] for key in _IMPORT.split(",")),
    )
    await transaction.execute(
        "update register set latest_import = $2, as_of = $3 where register_id = $1",
        values["register_id"],
        values["import_id"],
        values["as_of"],
    )


_BLOCK = "record, register_id, subject, object, role, alone, block, effect, birth_day, held_from, held_until"


async def place_block(
    transaction: Connection,
    *,
    record: UUID,
    proposal_id: UUID,
    content: bytes,
    subject: str,
    counterpart: str,
    kind: str,
    effect: int,
    held: tuple[datetime, datetime | None],
) -> Row:
    """Adds a block that officers place."""
    row = await transaction.fetchrow(
        "insert into register_record (record, register_id, record_id, digest, content, what, subject, object, block,"
        " effect, held_from, held_until, import_id)"
        f" values ($1, '', $1::uuid::text, '', $2, 'block', $3, $4, $5, $6, $7, $8, $9) returning {_BLOCK}",
        record,
        content,
        subject,
        counterpart,
        kind,
        effect,
        *held,
        proposal_id,
    )
    assert row is not None
    return row


async def end_block(transaction: Connection, record: UUID, at: datetime) -> Row:
    """Ends a block that officers placed."""
    row = await transaction.fetchrow(
        f"update register_record set latest = false, held_until = $2 where record = $1 returning {_BLOCK}", record, at
    )
    assert row is not None
    return row


async def find_record(reader: Connection, record: UUID) -> Row | None:
    """A record of a register, or a block that officers placed."""
    return await reader.fetchrow(f"select {_BLOCK} from register_record where record = $1", record)


async def has_blocks(reader: Connection, kind: str) -> bool:
    """Whether any register tells, or told, of blocks of this kind."""
    found: bool = await reader.fetchval(
        "select exists (select from register_record where block = $1 and register_id <> '')", kind
    )
    return found


async def about(reader: Database | Connection, party: str, *, at: datetime) -> list[Row]:
    """The records that hold at an instant with the party in them, on either side."""
    return await reader.fetch(
        "select record, register_id, record_id, what, subject, object, role, alone, block, effect, birth_day, content,"
        " held_from, held_until from register_record where (subject = $1 or object = $1)"
        " and held_from <= $2 and (held_until is null or $2 < held_until) order by record",
        party,
        at,
    )
