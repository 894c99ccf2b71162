"""Connections by certificate, migrations under a lock, leads that one process holds."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

from services.runtime import tls
from services.runtime.database import AWAY, Database, MigrationError
from services.runtime.telemetry import Telemetry
from tests.engines import Engines
from tests.integration.runtime.conftest import Trial


async def connect(engines: Engines, service: str = "exchange", *, certificate: str | None = None) -> Database:
    return await Database.connect(
        engines.database(service), files=engines.identity(certificate or service), size=4, telemetry=Telemetry()
    )


def migrations(folder: Path, **files: str) -> Path:
    target = folder / "trial" / "migrations"
    target.mkdir(parents=True, exist_ok=True)
    for name, statements in files.items():
        (target / f"{name}.sql").write_text(statements)
    return target


async def test_a_service_reaches_its_own_database_only(engines: Engines):
    with pytest.raises(asyncpg.PostgresError):
        await connect(engines, "messages", certificate="exchange")
    with pytest.raises(asyncpg.PostgresError):
        await Database.connect(
            engines.database("messages").replace("messages@", "exchange@"),
            files=engines.identity("exchange"),
            size=1,
            telemetry=Telemetry(),
        )
    with pytest.raises((asyncpg.PostgresError, OSError)):
        await asyncpg.connect(engines.database("exchange"), ssl=False)


async def test_processes_that_start_at_once_migrate_once(trial: Trial, tmp_path: Path):
    folder = migrations(
        tmp_path, **{"0001_first": "create table first (id int)", "0002_second": "create table second ()"}
    )
    databases = await asyncio.gather(*(trial() for _ in range(4)))
    applied = await asyncio.gather(*(database.migrate(folder) for database in databases))
    assert sorted(name for names in applied for name in names if name.startswith("trial/")) == [
        "trial/0001_first.sql",
        "trial/0002_second.sql",
    ]


async def test_a_migration_that_was_edited_stops_the_start(trial: Trial, tmp_path: Path):
    database = await trial()
    folder = migrations(tmp_path, **{"0001_first": "create table first (id int)"})
    await database.migrate(folder)
    (folder / "0001_first.sql").write_text("create table first (id bigint)")
    with pytest.raises(MigrationError, match="edited"):
        await database.migrate(folder)


async def test_a_release_goes_on_with_what_the_next_adds_and_not_with_what_takes_away_what_it_uses(
    trial: Trial, tmp_path: Path
):
    database = await trial()
    folder = migrations(
        tmp_path,
        **{
            "0001_first": "create table first (id int, old text)",
            "0002_expands": "alter table first add column new text",
            "0003_contracts": "-- needs: trial/0002_expands.sql\nalter table first drop column old",
        },
    )
    await database.migrate(folder)
    (folder / "0003_contracts.sql").unlink()
    assert await database.migrate(folder) == []
    (folder / "0002_expands.sql").unlink()
    with pytest.raises(MigrationError, match=r"ahead of this release: trial/0003_contracts\.sql is for releases"):
        await database.migrate(folder)
    await database.execute("delete from schema_migration where name = 'trial/0003_contracts.sql'")
    assert await database.migrate(folder) == []


async def test_a_migration_that_fails_leaves_nothing(trial: Trial, tmp_path: Path):
    database = await trial()
    folder = migrations(tmp_path, **{"0001_first": "create table first (id int); select 1/0"})
    with pytest.raises(asyncpg.DivisionByZeroError):
        await database.migrate(folder)
    assert await database.fetchval("select to_regclass('first')") is None


async def test_one_process_leads_and_another_follows_when_it_ends(engines: Engines):
    one, other = await connect(engines), await connect(engines)
    order = []

    async def follow() -> None:
        async with other.leading("trial"):
            order.append("other")

    async with one.leading("trial"):
        following = asyncio.create_task(follow())
        await asyncio.sleep(0.3)
        order.append("one")
    await following
    assert order == ["one", "other"]
    await one.close()
    await other.close()


async def test_a_kept_connection_runs_statements_in_turn_and_is_replaced_when_it_breaks(engines: Engines):
    database = await connect(engines)
    kept = database.keep("trial")
    assert database.keep("trial") is kept
    assert await asyncio.gather(*(kept.execute("select pg_sleep(0.01)") for _ in range(3))) == ["SELECT 1"] * 3
    with pytest.raises(AWAY):
        await kept.execute("select pg_terminate_backend(pg_backend_pid())")
    assert await kept.execute("select 1") == "SELECT 1"
    async with asyncio.timeout(4):  # it does not keep the pool from closing
        await database.close()


async def test_a_server_that_is_away_is_told_from_a_wrong_statement(engines: Engines):
    database = await connect(engines)
    with pytest.raises(asyncpg.PostgresError) as wrong:
        await database.execute("select nothing from nowhere")
    assert not isinstance(wrong.value, AWAY)
    with pytest.raises(AWAY):
        await Database.connect(
            "postgresql://exchange@127.0.0.1:1/exchange",
            files=tls.Files(*_paths(engines)),
            size=1,
            telemetry=Telemetry(),
        )
    await database.close()


def _paths(engines: Engines) -> tuple[Path, Path, Path]:
    files = engines.identity("exchange")
    return files.certificate, files.key, files.authorities
