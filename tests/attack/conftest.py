from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil
import pytest

from deploy.local import demo_clients
from deploy.local.node import Node
from gateway.client import Client
from tests.attack.wire import PATIENCE, Headers, context
from tests.integration.node.callers import Caller, profile

UNIT = f"/v1/units/{demo_clients.UNIT}"
GROWTH = 64 << 20
"""Bytes by which a process may grow under one attack: buffers of its connections, and what an allocator keeps."""


@dataclass
class Target:
    """A whole node, an attacker with the certificate and token of one of its clients, and an honest client."""

    node: Node
    port: int
    token: str
    caller: Caller

    def tls(self, *protocols: str) -> ssl.SSLContext:
        """TLS with the attacker's certificate."""
        return context(self.caller.files, str(self.caller.files.authorities), *protocols)

    @property
    def http1(self) -> ssl.SSLContext:
        return self.tls("http/1.1")

    @property
    def http2(self) -> ssl.SSLContext:
        return self.tls("h2")

    @property
    def bearer(self) -> str:
        return f"Bearer {self.token}"

    def headers(self, method: str = "GET", path: str = UNIT, *more: tuple[str, str]) -> Headers:
        """A request over HTTP/2 that is good but for what is added."""
        pseudo = [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path)]
        return [*pseudo, ("authorization", self.bearer), *more]

    def request(self, line: str = f"GET {UNIT} HTTP/1.1", *more: str, body: bytes = b"") -> bytes:
        """A request over HTTP/1.1 that is good but for what is added."""
        fields = ["Host: localhost", f"Authorization: {self.bearer}", *more]
        return "\r\n".join([line, *fields, "", ""]).encode("latin-1") + body

    def memory(self) -> dict[str, int]:
        """Resident bytes of each process."""
        return {name: psutil.Process(keeper.pid).memory_info().rss for name, keeper in self.node.processes.items()}

    async def serves(self) -> None:
        """An honest client gets its answer, and a token, on new connections."""
        form = {"grant_type": "client_credentials", "client_id": "permits"}
        async with (
            asyncio.timeout(PATIENCE),
            aiohttp.ClientSession(self.node.edge, connector=aiohttp.TCPConnector(ssl=self.http1)) as session,
        ):
            async with session.get(UNIT, headers={"authorization": self.bearer}) as unit:
                assert (unit.status, (await unit.json())["name"]) == (200, UNIT.removeprefix("/v1/"))
            async with session.post("/oauth2/token", data=form) as token:
                assert (token.status, "access_token" in await token.json()) == (200, True)


@pytest.fixture(scope="session")
async def _target(node: Node) -> Target:
    async with Client(profile(node, "permits")) as client:
        caller = Caller(node.edge, client.profile.files, await client.token())
    assert caller.token
    return Target(node, int(node.edge.rpartition(":")[2]), caller.token, caller)


@pytest.fixture
async def target(_target: Target) -> AsyncIterator[Target]:
    """The node under attack. Afterwards it serves at once, nothing of it died, and its memory has not run away."""
    pids = {name: keeper.pid for name, keeper in _target.node.processes.items()}
    before = _target.memory()
    yield _target
    await _target.serves()
    assert {name: keeper.pid for name, keeper in _target.node.processes.items()} == pids
    growth = {name: size - before[name] for name, size in _target.memory().items()}
    print(
        f"  after     serves at once; envoy {growth['envoy'] / 1e6:+.1f} MB, gateway {growth['gateway'] / 1e6:+.1f} MB"
    )
    assert max(growth.values()) < GROWTH, growth


QUICK = (
    "test_a_stolen_token_with_a_forged_certificate_header_is_refused",
    "test_what_http2_forbids_does_not_become_http1",
    "test_rapid_reset",
    "test_old_versions_are_refused",
)
"""What `make test` runs; `make attack` runs all."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All but the quick ones are long."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and item.name.partition("[")[0] not in QUICK:
            item.add_marker(pytest.mark.long)


def told(tried: str, observed: object) -> None:
    """Says what was tried and what was seen."""
    print(f"\n  tried     {tried}\n  observed  {observed}")
