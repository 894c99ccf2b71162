"""SQL of meshes, their anchors and directories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from services.runtime.database import Connection, Database, Row

COLUMNS = "instance, own, node, first_anchor, directory, version, refresh_time, refresh_failure, change_time"


async def meshes(database: Database) -> list[Row]:
    """All meshes, the node's own first."""
    return await database.fetch(f"select {COLUMNS} from mesh order by own desc, instance")


async def anchors(database: Database, instance: str, *, after: int, limit: int | None) -> list[bytes]:
    """The anchors of a mesh after a version, oldest first."""
    rows = await database.fetch(
        "select signed from anchor where instance = $1 and version > $2 order by version limit $3",
        instance,
        after,
        limit,
    )
    return [row["signed"] for row in rows]


async def insert_mesh(
    transaction: Connection, *, instance: str, own: bool, node: str, anchor: bytes, version: int
) -> bool:
    """Enters a mesh with its first anchor; False where it is there, or the node has one of its own already."""
    row = await transaction.fetchrow(
        "insert into mesh (instance, own, node, first_anchor) values ($1, $2, $3, $4)"
        " on conflict do nothing returning instance",
        instance,
        own,
        node,
        anchor,
    )
    if row is None:
        return False
    await insert_anchor(transaction, instance=instance, version=version, signed=anchor)
    return True


async def insert_anchor(transaction: Connection, *, instance: str, version: int, signed: bytes) -> None:
    """Enters a verified anchor."""
    await transaction.execute(
        "insert into anchor (instance, version, signed) values ($1, $2, $3) on conflict do nothing",
        instance,
        version,
        signed,
    )


async def delete_mesh(database: Database, instance: str) -> bool:
    """Leaves a mesh."""
    return await database.fetchval("delete from mesh where instance = $1 returning true", instance) is True


async def set_directory(transaction: Connection, *, instance: str, version: int, signed: bytes, now: datetime) -> bool:
    """Puts a verified directory into force; False where a newer one is in force by now."""
    row = await transaction.fetchrow(
        "update mesh set directory = $3, version = $2, refresh_time = $4, refresh_failure = '',"
        " change_time = clock_timestamp() where instance = $1 and version <= $2 returning instance",
        instance,
        version,
        signed,
        now,
    )
    return row is not None


async def set_refreshed(database: Database, instance: str, *, now: datetime | None, failure: str) -> None:
    """Records a look for a newer directory; `now` is None where nobody answered."""
    await database.execute(
        "update mesh set refresh_time = coalesce($2, refresh_time), refresh_failure = $3,"
        " change_time = clock_timestamp() where instance = $1",
        instance,
        now,
        failure,
    )


async def held_parts(database: Database, digests: Sequence[bytes]) -> dict[bytes, bytes]:
    """Those of these parts that are held."""
    rows = await database.fetch("select sha256, content from directory_part where sha256 = any($1::bytea[])", digests)
    return {row["sha256"]: row["content"] for row in rows}


async def sweep_parts(database: Database, named: Callable[[Sequence[bytes]], set[bytes]]) -> int:
    """Deletes the parts that no directory in force names; returns how many.

    `named` reads from directories which parts they name. The lock keeps out
    who puts a newer one into force meanwhile.
    """
    async with database.transaction() as transaction:
        await transaction.execute("lock table directory_part in share row exclusive mode")
        rows = await transaction.fetch("select directory from mesh where directory is not null")
        deleted = await transaction.fetch(
            "delete from directory_part where not (sha256 = any($1::bytea[])) returning sha256",
            list(named([row["directory"] for row in rows])),
        )
    return len(deleted)


async def insert_parts(transaction: Connection, parts: Sequence[tuple[bytes, bytes]]) -> None:
    """Keeps verified parts."""
    await transaction.executemany(
        "insert into directory_part (sha256, content) values ($1, $2) on conflict do nothing", parts
    )


async def touch(transaction: Connection, instance: str) -> None:
    """Has all processes look at a mesh anew."""
    await transaction.execute("update mesh set change_time = clock_timestamp() where instance = $1", instance)
