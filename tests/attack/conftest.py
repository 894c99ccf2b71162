from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import psutil
import pytest

from deploy.local import demo_clients
from deploy.local.node import Node
from gateway.client import Client
from gateway.routes import Door
from tests.attack.wire import PATIENCE, Headers, context
from tests.integration.node.callers import Caller, profile

UNIT = f"/v1/units/{demo_clients.UNIT}"
GROWTH = 64 << 20
"""Bytes by which a process may grow under one attack: buffers of its connections, and what an allocator keeps."""


DOCUMENTATION = "/docs"

at_both_doors = pytest.mark.parametrize("target", list(Door), indirect=True, ids=lambda door: door.value)
"""For attacks on what stands before certificates and tokens: tried at the port for browsers, too."""


@dataclass
class Target:
    """A whole node, an attacker at one of its ports with a client's token, and honest clients at both.

    At the port for systems the attacker has the certificate of that client, too.
    """

    node: Node
    token: str
    caller: Caller
    door: Door = Door.SYSTEMS

    @property
    def port(self) -> int:
        return _port(self.node.edge if self.door is Door.SYSTEMS else self.node.browsers)

    @property
    def path(self) -> str:
        """What a good request asks for."""
        return UNIT if self.door is Door.SYSTEMS else DOCUMENTATION

    def tls(self, *protocols: str) -> ssl.SSLContext:
        """TLS with the attacker's certificate, where one is wanted."""
        files = self.caller.files if self.door is Door.SYSTEMS else None
        return context(files, str(self.caller.files.authorities), *protocols)

    @property
    def http1(self) -> ssl.SSLContext:
        return self.tls("http/1.1")

    @property
    def http2(self) -> ssl.SSLContext:
        return self.tls("h2")

    @property
    def bearer(self) -> str:
        return f"Bearer {self.token}"

    def headers(self, method: str = "GET", path: str = "", *more: tuple[str, str]) -> Headers:
        """A request over HTTP/2 that is good but for what is added."""
        path = path or self.path
        pseudo = [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path)]
        return [*pseudo, ("authorization", self.bearer), *more]

    def request(self, line: str = "", *more: str, body: bytes = b"") -> bytes:
        """A request over HTTP/1.1 that is good but for what is added."""
        line = line or f"GET {self.path} HTTP/1.1"
        fields = ["Host: localhost", f"Authorization: {self.bearer}", *more]
        return "\r\n".join([line, *fields, "", ""]).encode("latin-1") + body

    def memory(self) -> dict[str, int]:
        """Resident bytes of each process."""
        return {name: psutil.Process(keeper.pid).memory_info().rss for name, keeper in self.node.processes.items()}

    async def serves(self) -> None:
        """An honest client gets its answer, and a token, on new connections; a browser gets the documentation."""
        form = {"grant_type": "client_credentials", "client_id": "permits"}
        system, browser = (replace(self, door=door).http1 for door in (Door.SYSTEMS, Door.BROWSERS))
        async with (
            asyncio.timeout(PATIENCE),
            aiohttp.ClientSession(self.node.edge, connector=aiohttp.TCPConnector(ssl=system)) as session,
        ):
            while (status := await _status(session, self.node.browsers + DOCUMENTATION, browser)) == 429:
                await asyncio.sleep(0.2)  # all browsers share one rate, and are told to come back when it is used up
            assert status == 200
            async with session.get(UNIT, headers={"authorization": self.bearer}) as unit:
                assert (unit.status, (await unit.json())["name"]) == (200, UNIT.removeprefix("/v1/"))
            async with session.post("/oauth2/token", data=form) as token:
                assert (token.status, "access_token" in await token.json()) == (200, True)


async def _status(session: aiohttp.ClientSession, url: str, made: ssl.SSLContext) -> int:
    async with session.get(url, ssl=made) as answer:
        return answer.status


def _port(origin: str) -> int:
    port = urlsplit(origin).port
    assert port is not None
    return port


@pytest.fixture(scope="session")
async def _client(node: Node) -> AsyncIterator[Client]:
    async with Client(profile(node, "permits")) as client:
        yield client


@pytest.fixture
async def target(node: Node, _client: Client, request: pytest.FixtureRequest) -> AsyncIterator[Target]:
    """The node under attack. Afterwards it serves at once, nothing of it died, and its memory has not run away."""
    token = await _client.token()  # a new one when it is due: all attacks together take longer than it lasts
    assert token
    _target = Target(node, token, Caller(node.edge, _client.profile.files, token))
    pids = {name: keeper.pid for name, keeper in _target.node.processes.items()}
    before = _target.memory()
    yield replace(_target, door=getattr(request, "param", Door.SYSTEMS))
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
