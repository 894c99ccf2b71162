"""PostgreSQL: held connections, transactions, migrations.

Every service has a database and a role of its own name, and logs in with its
certificate. Connections are held and not reset between uses: asyncpg's default
reset costs two to three times a query, and nothing here leaves session state
behind. One statement per transaction, where a CTE can carry it, halves the cost
of a write.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, asynccontextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from opentelemetry.trace import SpanKind

from services.runtime import tls
from services.runtime.telemetry import DATABASE_CONNECTIONS, Telemetry

logger = logging.getLogger(__name__)

Connection = PoolConnectionProxy  # what a transaction is run on
Row = asyncpg.Record

AWAY: tuple[type[Exception], ...] = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    ConnectionError,
    TimeoutError,
)
"""What a call meets while PostgreSQL is down, starting or failing over. Whether a commit took effect is then open."""

PASSING: tuple[type[Exception], ...] = (*AWAY, OSError, asyncpg.PostgresError)
"""What a background task rides out: it tries again, and what it does is safe to do again."""

COMMAND_TIMEOUT = 10.0
"""Seconds for one statement; more than any of ours needs, less than the edge waits (15)."""

CONNECT_TIMEOUT = 5.0
"""Seconds for a new connection, TLS and log-in included."""

MIGRATION_LOCK = 0x736F6C6D75
"""Advisory lock under which one process migrates while its siblings wait ("solmu")."""

LEAD_INTERVAL = 0.5
"""Seconds between two tries to become the process that does something alone."""

MIGRATION_LOCK_TIMEOUT = "5s"
"""How long a migration waits for a table that the previous release uses, before it gives up and is tried again."""

NEEDS = "-- needs:"
"""How a migration begins that takes away what earlier releases use (see `needed`)."""

RUNTIME_MIGRATIONS = Path(__file__).parent / "migrations"


class MigrationError(Exception):
    """The database and the migrations of this release do not fit together."""


class Database:
    """A service's database."""

    def __init__(self, pool: asyncpg.Pool, telemetry: Telemetry, context: ssl.SSLContext | None) -> None:
        self._pool = pool
        self._telemetry = telemetry
        self._kept: dict[str, KeptConnection] = {}
        self.context = context

    @classmethod
    async def connect(cls, address: str, *, files: tls.Files | None, size: int, telemetry: Telemetry) -> Database:
        """Opens the pool. `files` prove the role by certificate; None is for tests on a socket of their own."""
        context = tls.client_context(files) if files else None
        pool = await asyncpg.create_pool(
            address,
            min_size=1,
            max_size=size,
            ssl=context or False,
            command_timeout=COMMAND_TIMEOUT,
            timeout=CONNECT_TIMEOUT,
            reset=_keep,
            server_settings={"application_name": "solmu", "timezone": "UTC"},
        )
        for state, count in _USES.items():
            DATABASE_CONNECTIONS.labels(state).set_function(partial(count, pool))
        return cls(pool, telemetry, context)

    async def close(self) -> None:
        """Closes the pool, and what hangs in it after a moment."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                for kept in self._kept.values():
                    await kept.give_back()
                await self._pool.close()
        except (TimeoutError, asyncpg.InterfaceError):  # the latter of a connection that is given back amid a statement
            self._pool.terminate()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A transaction: committed at the end of the block, rolled back on an exception."""
        with self._telemetry.span("postgresql transaction", SpanKind.CLIENT, db_system_name="postgresql"):
            async with self._pool.acquire() as connection, connection.transaction():
                yield connection

    @asynccontextmanager
    async def leading(self, what: str) -> AsyncIterator[Connection]:
        """Waits until no other process does `what`, then keeps them from it until the end of the block.

        Yields the connection that holds the lock: when it breaks, the lead is
        lost. Raises what AWAY holds.
        """
        lock = int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], "big", signed=True)
        async with self._pool.acquire() as connection:
            while not await connection.fetchval("select pg_try_advisory_lock($1)", lock):  # noqa: ASYNC110  # another process has it
                await asyncio.sleep(LEAD_INTERVAL)
            logger.info("leads", extra={"what": what})
            try:
                yield connection
            finally:
                if not connection.is_closed():
                    await connection.execute("select pg_advisory_unlock($1)", lock)

    @asynccontextmanager
    async def listening(self, channel: str, heard: Callable[[str], None]) -> AsyncIterator[Connection]:
        """Calls `heard` with what is notified on a channel, until the end of the block.

        Yields the connection that listens: once it breaks, nothing is heard, so
        it has to be asked something now and then. Raises what AWAY holds.
        """
        async with self._pool.acquire() as connection:
            try:
                await connection.add_listener(channel, lambda _, __, ___, said: heard(str(said)))
                yield connection
            finally:
                connection.terminate()  # it may hang, and what it listens to ends with it

    def keep(self, what: str) -> KeptConnection:
        """A connection for `what` alone, whose statements come one after another for as long as the process runs."""
        if what not in self._kept:
            self._kept[what] = KeptConnection(self._pool, self._span)
        return self._kept[what]

    async def fetch(self, statement: str, *values: Any) -> list[Row]:
        """All rows of one statement, in a transaction of its own."""
        with self._span(statement):
            return await self._pool.fetch(statement, *values)

    async def fetchrow(self, statement: str, *values: Any) -> Row | None:
        """The first row of one statement, in a transaction of its own."""
        with self._span(statement):
            return await self._pool.fetchrow(statement, *values)

    async def fetchval(self, statement: str, *values: Any) -> Any:
        """The first value of one statement, in a transaction of its own."""
        with self._span(statement):
            return await self._pool.fetchval(statement, *values)

    async def execute(self, statement: str, *values: Any) -> str:
        """Runs one statement in a transaction of its own; returns PostgreSQL's tag."""
        with self._span(statement):
            return await self._pool.execute(statement, *values)

    async def ready(self) -> bool:
        """Whether the database answers."""
        try:
            return await self._pool.fetchval("select true", timeout=2) is True
        except PASSING:
            return False

    async def migrate(self, *folders: Path) -> list[str]:
        """Applies what is new in the folders, the runtime's first; returns the names.

        Files are numbered SQL, each in a transaction of its own, kept with
        their checksum; several processes may start at once. A database that a
        later release has migrated is taken where that release says that this
        one goes on with it (`deploy.migrations`). Raises MigrationError where
        an applied file was edited, or the database is too far ahead.
        """
        files = [
            (f"{folder.parent.name}/{file.name}", file)
            for folder in (RUNTIME_MIGRATIONS, *folders)
            for file in sorted(folder.glob("*.sql"))
        ]
        async with self._pool.acquire() as connection:
            await connection.execute("select pg_advisory_lock($1)", MIGRATION_LOCK, timeout=120)
            try:
                return await _apply(connection, files)
            finally:
                await connection.execute("select pg_advisory_unlock($1)", MIGRATION_LOCK)

    def _span(self, statement: str) -> Any:
        return self._telemetry.span(
            "postgresql", SpanKind.CLIENT, db_system_name="postgresql", db_query_text=_on_one_line(statement)
        )


class KeptConnection:
    """A connection that is not given back between statements, which costs half as much as a statement does.

    One that broke is replaced; a statement that was under way fails.
    """

    def __init__(self, pool: asyncpg.Pool, span: Callable[[str], AbstractContextManager[None]]) -> None:
        self._pool = pool
        self._span = span
        self._turn = asyncio.Lock()
        self._connection: Connection | None = None

    async def execute(self, statement: str, *values: Any) -> str:
        """Runs one statement in a transaction of its own, after those before it; returns PostgreSQL's tag."""
        with self._span(statement):
            async with self._turn:
                if self._connection is None or _is_gone(self._connection):
                    await self.give_back()
                    self._connection = await self._pool.acquire()
                return await self._connection.execute(statement, *values)

    async def give_back(self) -> None:
        """Gives the connection back to the pool, until the next statement."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await self._pool.release(connection)


def _is_gone(connection: Connection) -> bool:
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:  # it broke, and the pool has taken it back
        return True


async def _apply(connection: Connection, files: Sequence[tuple[str, Path]]) -> list[str]:
    await connection.execute(
        "create table if not exists schema_migration"
        " (name text primary key, sha256 text not null, apply_time timestamptz not null default now());"
        "alter table schema_migration add column if not exists needs text"
    )
    rows = await connection.fetch("select name, sha256, needs from schema_migration")
    _refuse_if_too_far_ahead({row["name"]: row["needs"] for row in rows}, {name for name, _ in files})
    applied = {row["name"]: row["sha256"] for row in rows}
    fresh = []
    for name, file in files:
        statements = file.read_text(encoding="utf-8")
        digest = hashlib.sha256(statements.encode()).hexdigest()
        if name in applied:
            if applied[name] != digest:
                raise MigrationError(f"{name} was edited after it was applied")
            continue
        async with connection.transaction():
            await connection.execute(f"set local lock_timeout = '{MIGRATION_LOCK_TIMEOUT}'")
            await connection.execute(statements, timeout=None)
            await connection.execute(
                "insert into schema_migration (name, sha256, needs) values ($1, $2, $3)",
                name,
                digest,
                needed(statements),
            )
        logger.info("migrated", extra={"migration": name})
        fresh.append(name)
    return fresh


def needed(statements: str) -> str | None:
    """The migration that a release has to know so as to run after this one: what its first line says, if it does.

    -- needs: messages/0050_expanded.sql
    """
    first = statements.partition("\n")[0]
    return first.removeprefix(NEEDS).strip() if first.startswith(NEEDS) else None


def _refuse_if_too_far_ahead(applied: Mapping[str, str | None], known: AbstractSet[str]) -> None:
    """Raises MigrationError where the database has what a release that knows so much cannot run with."""
    ahead = sorted(applied.keys() - known)
    for name in ahead:
        needs = applied[name]
        if needs is not None and needs not in known:
            raise MigrationError(
                f"the database is ahead of this release: {name} is for releases that know {needs}."
                " Start a later release, or restore a backup made by this one"
            )
    if ahead:
        logger.warning("a later release has migrated this database", extra={"migrations": ", ".join(ahead)})


_USES: Mapping[str, Callable[[asyncpg.Pool], float]] = {
    "busy": lambda pool: pool.get_size() - pool.get_idle_size(),
    "idle": lambda pool: pool.get_idle_size(),
    "most": lambda pool: pool.get_max_size(),
}
"""What is told of a pool: calls wait where `busy` reaches `most`."""


@lru_cache(maxsize=512)
def _on_one_line(statement: str) -> str:
    return " ".join(statement.split())


async def _keep(_: asyncpg.Connection) -> None:
    """In place of asyncpg's reset query."""
