"""The service keys of one database, and the roots that wrapped each."""

from __future__ import annotations

from services.runtime.database import Connection, Database, Row

LOCK = 0x6B657973
"""Advisory lock under which one process makes or wraps keys ("keys")."""


async def lock(transaction: Connection) -> None:
    """Keeps other processes from making or wrapping keys until the transaction ends."""
    await transaction.execute("select pg_advisory_xact_lock($1)", LOCK)


async def generations(reader: Database | Connection) -> dict[int, float]:
    """The age in seconds of every generation."""
    rows = await reader.fetch(
        "select generation, extract(epoch from now() - create_time)::float8 as age from service_key order by generation"
    )
    return {row["generation"]: row["age"] for row in rows}


async def wrappings(reader: Database | Connection) -> list[Row]:
    """Everything that is wrapped: generation, root, wrapped, create_time."""
    return await reader.fetch(
        "select generation, root, wrapped, create_time from service_key_wrapping order by generation, root"
    )


async def add_generation(transaction: Connection, generation: int) -> None:
    """A new generation, still without a wrapping."""
    await transaction.execute("insert into service_key (generation) values ($1)", generation)


async def put_wrapping(transaction: Connection, generation: int, root: str, wrapped: bytes) -> None:
    """A key as a root wrapped it, in place of what that root wrapped before."""
    await transaction.execute(
        "insert into service_key_wrapping (generation, root, wrapped) values ($1, $2, $3)"
        " on conflict (generation, root) do update set wrapped = excluded.wrapped, create_time = now()",
        generation,
        root,
        wrapped,
    )


async def drop_root(transaction: Connection, root: str) -> int:
    """Takes a root's wrappings away; answers how many there were."""
    rows = await transaction.fetch("delete from service_key_wrapping where root = $1 returning generation", root)
    return len(rows)
