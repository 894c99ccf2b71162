"""A service that cannot be right does not serve: it says what to do, and ends."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

import services.messages
from deploy import pki
from deploy.local.lock import Held
from deploy.local.node import Node, NodeSettings
from services.messages import disposal
from services.messages.blob_folder import Folder
from services.messages.blobs import Blobs
from services.runtime import start_checks, tls
from services.runtime.config import ConfigError
from services.runtime.database import Database
from services.runtime.ids import new_id
from services.runtime.sealing import Sealer
from services.runtime.telemetry import Telemetry
from tests.engines import NODE, Engines

CONFIG, DATA = os.EX_CONFIG, os.EX_DATAERR
MIGRATIONS = Path(services.messages.__file__).parent / "migrations"


@pytest.fixture
async def fresh(engines: Engines) -> AsyncIterator[str]:
    """The address of a database of messages' own that holds nothing."""
    name = f"fresh_{uuid.uuid4().hex[:8]}"
    owner = await asyncpg.connect(engines.database("messages"), ssl=tls.client_context(engines.identity("messages")))
    await owner.execute(f"create schema {name}")
    yield f"{engines.database('messages')}?search_path={name}"
    await owner.execute(f"drop schema {name} cascade")
    await owner.close()


def environment(engines: Engines, database: str, folder: Path) -> dict[str, str]:
    """Of messages, with nothing wrong."""
    identity = engines.identity("messages")
    return {name: value for name, value in os.environ.items() if not name.startswith("SOLMU_")} | {
        "SOLMU_NODE": NODE,
        "SOLMU_ISSUER": "https://localhost:8443",
        "SOLMU_LISTEN": "127.0.0.1:0",
        "SOLMU_METRICS_LISTEN": "127.0.0.1:0",
        "SOLMU_TLS_CERTIFICATE": str(identity.certificate),
        "SOLMU_TLS_KEY": str(identity.key),
        "SOLMU_TLS_AUTHORITIES": str(identity.authorities),
        "SOLMU_DATABASE": database,
        "SOLMU_NATS": f"tls://{engines.nats}",
        "SOLMU_AUTHORISATIONS": "127.0.0.1:1",
        "SOLMU_ROOT_KEY": str(engines.state.root_key),
        "SOLMU_PARTY_KEY": str(engines.state.party_key),
        "SOLMU_ATTACHMENTS": str(folder),
    }


async def ended(values: dict[str, str], *command: str) -> tuple[int, str]:
    """Exit status and last words of a service that does not come to serve, or of another process that ends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *(command or ("services.messages",))), env=values, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    said = b""
    try:
        async with asyncio.timeout(90):
            async for line in process.stderr:
                said += line
                assert b'"message": "serving"' not in line, "it serves"
            return await process.wait(), said.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def served(values: dict[str, str]) -> None:
    """Starts a service, sees it serve, and ends it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.messages"), env=values, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(90):
            async for line in process.stderr:
                if b'"message": "serving"' in line:
                    return
            raise AssertionError(f"it ended with {await process.wait()}")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_keys_of_another_backup_are_refused_and_the_right_ones_serve(
    engines: Engines, fresh: str, tmp_path: Path
):
    values = environment(engines, fresh, tmp_path)
    await served(values)
    other = tmp_path / "other.key"
    other.write_bytes(os.urandom(32))
    status, said = await ended(values | {"SOLMU_ROOT_KEY": str(other)})
    assert (status, "has not wrapped the keys of this database" in said) == (CONFIG, True), said
    status, said = await ended(values | {"SOLMU_PARTY_KEY": str(other)})
    assert (status, "SOLMU_PARTY_KEY is not the key that this database was filled with" in said) == (CONFIG, True), said
    await served(values)


async def test_a_second_node_on_the_same_database_is_refused(engines: Engines, fresh: str, tmp_path: Path):
    await served(environment(engines, fresh, tmp_path))
    authority = pki.Authority.load(engines.state.internal)
    authority.issue(pki.Identity.service("elsewhere", "messages"), tmp_path / "elsewhere")
    status, said = await ended(
        environment(engines, fresh, tmp_path)
        | {
            "SOLMU_NODE": "elsewhere",
            "SOLMU_TLS_CERTIFICATE": str(tmp_path / "elsewhere" / pki.CERTIFICATE),
            "SOLMU_TLS_KEY": str(tmp_path / "elsewhere" / pki.KEY),
        }
    )
    assert status == CONFIG, said
    assert f"the database is that of the node {NODE}" in said


async def test_two_nodes_do_not_share_a_state_folder(node: Node):
    with pytest.raises(Held):
        await Node(NodeSettings(state=node.state.root, edge_port=0)).start()


@pytest.mark.parametrize(
    ("lifetime", "node", "told"),
    [(-timedelta(days=1), NODE, "expired on"), (timedelta(days=9), "elsewhere", "check SOLMU_NODE")],
)
async def test_a_certificate_that_all_others_would_refuse_ends_the_start(
    engines: Engines, fresh: str, tmp_path: Path, lifetime: timedelta, node: str, told: str
):
    authority = pki.Authority.load(engines.state.internal)
    authority.issue(pki.Identity.service(node, "messages"), tmp_path / "bad", lifetime=lifetime)
    values = environment(engines, fresh, tmp_path) | {
        "SOLMU_TLS_CERTIFICATE": str(tmp_path / "bad" / pki.CERTIFICATE),
        "SOLMU_TLS_KEY": str(tmp_path / "bad" / pki.KEY),
    }
    status, said = await ended(values)
    assert (status, told in said) == (CONFIG, True), said


async def test_secrets_that_are_missing_or_cut_are_all_told(engines: Engines, fresh: str, tmp_path: Path):
    cut = tmp_path / "cut.key"
    cut.write_bytes(b"short")
    values = environment(engines, fresh, tmp_path) | {
        "SOLMU_ROOT_KEY": "/nowhere/root.key",
        "SOLMU_PARTY_KEY": str(cut),
        "SOLMU_TLS_KEY": "/nowhere/key.pem",
    }
    status, said = await ended(values)
    assert status == CONFIG
    for told in ("there is no file /nowhere/root.key", "holds 5 bytes", "there is no file /nowhere/key.pem"):
        assert told in said


async def test_a_database_of_other_code_is_refused(engines: Engines, fresh: str, tmp_path: Path):
    values = environment(engines, fresh, tmp_path)
    await served(values)
    connection = await asyncpg.connect(fresh, ssl=tls.client_context(engines.identity("messages")))
    try:
        await connection.execute("update schema_migration set sha256 = 'x' where name = 'messages/0001_messages.sql'")
        status, said = await ended(values)
        assert (status, "was edited after it was applied" in said) == (DATA, True), said
    finally:
        await connection.close()


async def test_a_job_migrates_ahead_of_the_service_or_says_what_does_not_fit(
    engines: Engines, fresh: str, tmp_path: Path
):
    wanted = ("SOLMU_NODE", "SOLMU_TLS", "SOLMU_DATABASE")
    values = environment(engines, fresh, tmp_path)
    few = {name: value for name, value in values.items() if not name.startswith("SOLMU_") or name.startswith(wanted)}
    status, said = await ended(few, "services.runtime.migrate", "messages")
    assert (status, '"migration": "messages/0001_messages.sql"' in said) == (0, True), said
    status, said = await ended(few, "services.runtime.migrate", "messages")
    assert (status, "migrated" in said) == (0, False), "nothing is left to do"
    await served(values)
    connection = await asyncpg.connect(fresh, ssl=tls.client_context(engines.identity("messages")))
    try:
        await connection.execute("update schema_migration set sha256 = 'x' where name = 'messages/0001_messages.sql'")
    finally:
        await connection.close()
    assert (await ended(few, "services.runtime.migrate", "messages"))[0] == DATA


@pytest.fixture
async def database(engines: Engines, fresh: str) -> AsyncIterator[Database]:
    opened = await Database.connect(fresh, files=engines.identity("messages"), size=2, telemetry=Telemetry())
    await opened.migrate(MIGRATIONS)
    yield opened
    await opened.close()


@pytest.mark.parametrize("off", [timedelta(hours=1), -timedelta(hours=1)])
async def test_a_clock_that_is_an_hour_off_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch, off: timedelta
):
    class Wrong(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + off

    await start_checks.check_clock(database)
    monkeypatch.setattr(start_checks, "datetime", Wrong)
    with pytest.raises(ConfigError, match="set the one that is wrong"):
        await start_checks.check_clock(database)


async def test_attachments_that_are_older_than_the_database_are_refused(database: Database, tmp_path: Path):
    blobs = Blobs(Folder(tmp_path))
    await disposal.check_there(database, blobs)
    attachment, content = new_id(), b"content" * 1000
    async with blobs.writer(attachment, Sealer(bytes(32))) as writer:
        await writer.append(content)
        await writer.finish()
    await database.execute(
        "insert into attachment (attachment_id, owner, state, file_name, media_type, size_bytes, sha256, data_key,"
        " create_time, expire_time) values ($1, 'organisations/a', 2, $2, 'text/plain', $3, 'digest', $2, $4, $4)",
        attachment,
        b"x",
        len(content),
        datetime.now(UTC),
    )
    await disposal.check_there(database, blobs)
    shutil.rmtree(tmp_path)
    with pytest.raises(ConfigError, match="was a backup restored in part"):
        await disposal.check_there(database, blobs)
