"""What tests share: engines for tests of one service, and a whole node for tests through the edge."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import services.authorisations
import services.messages
from deploy.local import demo_clients
from deploy.local.node import Node, NodeSettings, running
from services.runtime.database import Database
from services.runtime.telemetry import Telemetry
from tests import engines, softhsm
from tests.engines import Engines
from tests.softhsm import SoftToken


@pytest.fixture(scope="session")
async def _engines(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engines]:
    async with engines.running(tmp_path_factory.mktemp("engines") / "state") as started:
        yield started


@pytest.fixture(name="engines", scope="session")
def engines_fixture(_engines: Engines) -> Engines:
    """PostgreSQL and NATS, configured as a node's."""
    return _engines


@pytest.fixture(scope="session")
async def messages_database(engines: Engines) -> AsyncIterator[Database]:
    """The database of messages, migrated."""
    async for database in _migrated(engines, "messages", Path(services.messages.__file__)):
        yield database


@pytest.fixture(scope="session")
async def authorisations_database(engines: Engines) -> AsyncIterator[Database]:
    """The database of authorisations, migrated."""
    async for database in _migrated(engines, "authorisations", Path(services.authorisations.__file__)):
        yield database


async def _migrated(engines: Engines, service: str, package: Path) -> AsyncIterator[Database]:
    database = await Database.connect(
        engines.database(service), files=engines.identity(service), size=8, telemetry=Telemetry()
    )
    await database.migrate(package.parent / "migrations")
    yield database
    await database.close()


@pytest.fixture(scope="session")
def soft_token(tmp_path_factory: pytest.TempPathFactory) -> SoftToken:
    """A token behind PKCS #11."""
    return softhsm.initialised(tmp_path_factory.mktemp("softhsm"))


@pytest.fixture(scope="session")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """A whole node, with the demo's clients."""
    settings = NodeSettings(state=tmp_path_factory.mktemp("node") / "state", edge_port=0)
    async with running(settings) as started:
        await demo_clients.provision(started.state, node=settings.node, edge=started.edge)
        yield started
