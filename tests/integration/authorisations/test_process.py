"""The service as a process of its own: how it starts, serves and stops."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
from solmu.authorisations.v1 import tokens_pb2
from solmu.authorisations.v1.tokens_pb2_grpc import TokenServiceStub

from services.authorisations.exchange import ID_TOKEN, TOKEN_EXCHANGE
from services.runtime import mesh
from services.runtime.client import Peer
from services.runtime.config import Address
from services.runtime.database import Database
from services.runtime.telemetry import Telemetry
from tests.engines import Engines
from tests.integration.authorisations.service import new_id
from tests.integration.authorisations.test_exchanging import id_token
from tests.unit.authorisations import test_identity_providers as provider
from tests.unit.authorisations.builders import CERTIFICATE, ISSUER, OWNER


def environment(engines: Engines, declared: Path) -> dict[str, str]:
    identity = engines.identity("authorisations")
    return {name: value for name, value in os.environ.items() if not name.startswith("SOLMU_")} | {
        "SOLMU_ISSUER": ISSUER,
        "SOLMU_LISTEN": "127.0.0.1:0",
        "SOLMU_METRICS_LISTEN": "127.0.0.1:0",
        "SOLMU_TLS_CERTIFICATE": str(identity.certificate),
        "SOLMU_TLS_KEY": str(identity.key),
        "SOLMU_TLS_AUTHORITIES": str(identity.authorities),
        "SOLMU_DATABASE": engines.database("authorisations"),
        "SOLMU_NATS": f"tls://{engines.nats}",
        "SOLMU_PARTY_KEY": str(engines.state.party_key),
        "SOLMU_TOKEN_KEYS": str(engines.state.token_keys),
        "SOLMU_CLIENTS": str(declared),
    }


def declare(path: Path, *client_ids: str, **changes: Any) -> Path:
    owner = {"scheme": "FI_YTUNNUS", "value": OWNER}
    entry = {"display_name": "Operator", "owner": owner, "scopes": ["clients.manage"]} | changes
    path.write_text(json.dumps({"clients": [{"client_id": client_id, **entry} for client_id in client_ids]}))
    return path


@asynccontextmanager
async def started(values: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.authorisations"), env=values, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def port_of(process: asyncio.subprocess.Process) -> int:
    assert process.stderr is not None
    async for line in process.stderr:
        logged = json.loads(line)
        if logged["message"] == "serving":
            return int(logged["port"])
    raise AssertionError(f"the process ended with {await process.wait()}")


async def test_a_declared_client_gets_a_token_from_the_process(
    engines: Engines, authorisations_database: Database, tmp_path: Path
) -> None:
    client_id = new_id()
    async with started(environment(engines, declare(tmp_path / "clients.json", client_id))) as process:
        address = Address("127.0.0.1", await port_of(process))
        identity = engines.identity(mesh.GATEWAY)
        gateway = Peer(name="authorisations", address=address, files=identity, telemetry=Telemetry())
        certificate = tokens_pb2.ClientCertificate(sha256=CERTIFICATE, uri_sans=[f"spiffe://solmu/client/{client_id}"])
        request = tokens_pb2.IssueTokenRequest(
            grant_type="client_credentials", client_id=client_id, certificate=certificate
        )
        response = await gateway.stub(TokenServiceStub).IssueToken(request, timeout=10)
        await gateway.close()
        assert response.scope == "clients.manage"
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 15) == os.EX_OK
    assert await authorisations_database.fetchval("select true from client where client_id = $1", client_id)


async def test_a_log_in_at_a_trusted_provider_counts_in_the_process(
    engines: Engines, authorisations_database: Database, tmp_path: Path
) -> None:
    client_id = new_id()
    providers = provider.file(tmp_path, provider.entry(clients={"portal-there": client_id}))
    trusting = {"SOLMU_IDENTITY_PROVIDERS": str(providers), "SOLMU_TEST_MODE": "yes"}
    async with started(environment(engines, declare(tmp_path / "clients.json", client_id)) | trusting) as process:
        address = Address("127.0.0.1", await port_of(process))
        identity = engines.identity(mesh.GATEWAY)
        gateway = Peer(name="authorisations", address=address, files=identity, telemetry=Telemetry())
        certificate = tokens_pb2.ClientCertificate(sha256=CERTIFICATE, uri_sans=[f"spiffe://solmu/client/{client_id}"])
        request = tokens_pb2.IssueTokenRequest(
            grant_type=TOKEN_EXCHANGE,
            client_id=client_id,
            subject_token=id_token(),
            subject_token_type=ID_TOKEN,
            certificate=certificate,
        )
        response = await gateway.stub(TokenServiceStub).IssueToken(request, timeout=10)
        await gateway.close()
    claims = jwt.decode(response.access_token, options={"verify_signature": False})
    assert claims["sub"].startswith("persons/")


async def test_a_fault_in_the_identity_providers_ends_the_start_and_says_where(
    engines: Engines, tmp_path: Path
) -> None:
    providers = provider.file(tmp_path, provider.entry(algorithms=["none"]))
    values = environment(engines, declare(tmp_path / "clients.json", new_id()))
    async with started(values | {"SOLMU_IDENTITY_PROVIDERS": str(providers)}) as process:
        _, logged = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == os.EX_CONFIG
    assert b"identity_providers[0]" in logged


async def test_invented_people_are_taken_by_an_embedded_node_only(engines: Engines, tmp_path: Path) -> None:
    providers = provider.file(tmp_path, provider.entry(issuer="https://localhost:8446"))
    values = environment(engines, declare(tmp_path / "clients.json", new_id()))
    # An address of documentation, on which nothing can listen: only the embedded node's services are on loopback.
    values |= {"SOLMU_IDENTITY_PROVIDERS": str(providers), "SOLMU_LISTEN": "192.0.2.1:7443"}
    async with started(values) as process:
        _, logged = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == os.EX_CONFIG
    assert b"only an embedded node takes them" in logged


async def test_people_log_in_where_their_browsers_can_come_to(engines: Engines, tmp_path: Path) -> None:
    providers = provider.file(tmp_path, provider.entry(log_in=provider.log_in()))
    values = environment(engines, declare(tmp_path / "clients.json", new_id()))
    async with started(values | {"SOLMU_IDENTITY_PROVIDERS": str(providers)}) as process:
        _, logged = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == os.EX_CONFIG
    assert b"SOLMU_BROWSER_ORIGIN" in logged


async def test_a_fault_in_the_declared_clients_ends_the_start_and_says_where(engines: Engines, tmp_path: Path) -> None:
    declared = declare(tmp_path / "clients.json", "Wrong", new_id(), scopes=["clients.manage", "no.such"])
    async with started(environment(engines, declared)) as process:
        _, logged = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == os.EX_CONFIG
    assert b"clients[0].client_id" in logged
    assert b"no.such" in logged


async def test_every_setting_that_is_missing_is_told_at_once() -> None:
    async with started({"PATH": os.environ["PATH"]}) as process:
        _, logged = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == os.EX_CONFIG
    for field in ("SOLMU_DATABASE", "SOLMU_PARTY_KEY", "SOLMU_TOKEN_KEYS", "SOLMU_ISSUER"):
        assert field.encode() in logged
