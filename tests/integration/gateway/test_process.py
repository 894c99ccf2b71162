"""The gateway as a process: `python -m gateway`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from solmu.authorisations.v1 import tokens_pb2, tokens_pb2_grpc

from deploy.local import ports
from gateway.envoy import xds
from services.runtime import tls
from tests.integration.gateway import rig
from tests.tokens import ISSUER, Signer
from tests.unit.gateway import pki


class Keys(tokens_pb2_grpc.KeyServiceServicer):
    async def GetKeySet(self, _request: Any, _context: Any) -> Any:
        return tokens_pb2.KeySet(jwks=Signer().jwks())


class Tokens(tokens_pb2_grpc.TokenServiceServicer):
    async def IssueToken(self, request: Any, _context: Any) -> Any:
        return tokens_pb2.IssueTokenResponse(access_token=f"for.{request.client_id}.x", token_type="Bearer")


class House:
    """Certificates, ports and the environment of one gateway."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.internal, self.public = pki.Authority("internal"), pki.Authority("public")
        for name in ("gateway", "edge", "authorisations", "operator"):
            self.internal.service(name).write(folder, name)
        self.public.server("localhost").write(folder, "public")
        (folder / "internal.ca").write_text(self.internal.pem)
        (folder / "public.ca").write_text(self.public.pem)
        (folder / "crl.pem").write_text(self.public.crl())
        self.port, self.authorisations = ports.free(), ports.free()

    def files(self, name: str) -> tls.Files:
        return tls.Files(
            certificate=self.folder / f"{name}.pem",
            key=self.folder / f"{name}.key",
            authorities=self.folder / "internal.ca",
        )

    @property
    def environ(self) -> dict[str, str]:
        paths = {
            "SOLMU_TLS_CERTIFICATE": "gateway.pem",
            "SOLMU_TLS_KEY": "gateway.key",
            "SOLMU_TLS_AUTHORITIES": "internal.ca",
            "SOLMU_EDGE_STATE": "edge",
            "SOLMU_EDGE_TLS_CERTIFICATE": "public.pem",
            "SOLMU_EDGE_TLS_KEY": "public.key",
            "SOLMU_CLIENT_AUTHORITIES": "public.ca",
            "SOLMU_CLIENT_CRL": "crl.pem",
            "SOLMU_EDGE_UPSTREAM_CERTIFICATE": "edge.pem",
            "SOLMU_EDGE_UPSTREAM_KEY": "edge.key",
        }
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("SOLMU_")},
            **{name: str(self.folder / path) for name, path in paths.items()},
            "SOLMU_NODE": pki.NODE,
            "SOLMU_ISSUER": ISSUER,
            "SOLMU_LISTEN": f"127.0.0.1:{self.port}",
            "SOLMU_EDGE_LISTEN": "127.0.0.1:8443",
            "SOLMU_AUTHORISATIONS": f"127.0.0.1:{self.authorisations}",
            "SOLMU_MESSAGES": "127.0.0.1:1",
            "SOLMU_EXCHANGE": "127.0.0.1:1",
        }

    @asynccontextmanager
    async def gateway(self) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", env=self.environ, stderr=asyncio.subprocess.PIPE
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def serve_authorisations(self) -> grpc.aio.Server:
        server = grpc.aio.server()
        tokens_pb2_grpc.add_KeyServiceServicer_to_server(Keys(), server)
        tokens_pb2_grpc.add_TokenServiceServicer_to_server(Tokens(), server)  # type: ignore[abstract]
        credentials = tls.server_credentials(self.files("authorisations"))
        server.add_secure_port(f"127.0.0.1:{self.authorisations}", credentials)
        await server.start()
        return server

    def session(self, name: str) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(ssl=tls.client_context(self.files(name)))
        return aiohttp.ClientSession(f"https://localhost:{self.port}", connector=connector)

    async def healthy(self) -> bool:
        try:
            async with self.session("operator") as session, session.get("/healthz") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


async def test_it_waits_for_the_issuer_then_serves_until_it_is_told_to_stop(house: House) -> None:
    async with house.gateway() as process:
        await asyncio.sleep(1)
        assert not await house.healthy()
        assert not (house.folder / "edge" / xds.BOOTSTRAP).exists()

        authorisations = await house.serve_authorisations()
        await rig.until(house.healthy, within=20)
        assert (house.folder / "edge" / xds.BOOTSTRAP).exists()

        certificate = {"X-Forwarded-Client-Cert": f"Hash={'a' * 64}"}
        form = {"grant_type": "client_credentials", "client_id": "alice"}
        async with house.session("edge") as session:
            response = await session.post("/oauth2/token", data=form, headers=certificate)
            assert (await response.json())["access_token"] == "for.alice.x"

        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0
        await authorisations.stop(0)


async def test_it_stops_while_it_waits(house: House) -> None:
    async with house.gateway() as process:
        assert process.stderr is not None
        while b"token keys not fetched" not in await asyncio.wait_for(process.stderr.readline(), 30):
            pass
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0


async def test_an_outdated_revocation_list_is_told_and_ends_it(house: House) -> None:
    (house.folder / "crl.pem").write_text(house.public.crl(days=-1))
    async with house.gateway() as process:
        _, errors = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == os.EX_CONFIG
    assert b"past its next update" in errors
