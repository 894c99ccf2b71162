"""The exchange service's parts on real engines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import services.exchange
from services.runtime.database import Database
from services.runtime.telemetry import Telemetry
from tests.engines import Engines
from tests.integration.exchange import backend as backends
from tests.integration.exchange import calls, trusting
from tests.integration.exchange import mesh as meshes
from tests.integration.exchange.mesh import Node


@pytest.fixture(scope="session")
async def database(engines: Engines) -> AsyncIterator[Database]:
    """The database of exchange, migrated."""
    database = await Database.connect(
        engines.database("exchange"), files=engines.identity("exchange"), size=8, telemetry=Telemetry()
    )
    await database.migrate(Path(services.exchange.__file__).parent / "migrations")
    yield database
    await database.close()


@pytest.fixture(scope="session")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[trusting.Mesh]:
    """A trust service, over HTTP."""
    async with trusting.running(tmp_path_factory.mktemp("trust")) as started:
        yield started


@pytest.fixture(scope="session")
async def nodes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Node, Node]]:
    """Two nodes of one mesh: the city's, which publishes the directory, and the company's."""
    folder = tmp_path_factory.mktemp("mesh")
    async with (
        meshes.node("FI/MUN/1/node", folder / "city") as city,
        meshes.node("FI/COM/2/node", folder / "company") as company,
    ):
        description = await meshes.found(city)
        await meshes.join(company, city, description.fingerprint)
        await meshes.serve(city, city, "FI/MUN/1/letters")
        await meshes.serve(company, city, "FI/COM/2/register")
        await meshes.serve(city, city, "FI/MUN/1/solmu")
        await meshes.serve(company, city, "FI/COM/2/solmu")
        await city.refresh()
        yield city, company


@pytest.fixture(scope="module")
async def pair(nodes: tuple[Node, Node]) -> tuple[Node, Node]:
    """Both nodes, the city's with a subsystem that calls."""
    city, company = nodes
    await calls.host(city, calls.CONSUMER, clients=[calls.CLIENT])
    for node in (city, company):  # modules before may have let them fail one another
        for circuit in node.exchange.peers.known().values():
            circuit.answered()
    return city, company


@pytest.fixture(scope="module")
async def backend() -> AsyncIterator[backends.Backend]:
    """A service of a member, over HTTP."""
    async with backends.running() as started:
        yield started
