"""A schema that nobody has migrated."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from services.runtime.database import Database
from services.runtime.telemetry import Telemetry
from tests.engines import Engines

Trial = Callable[[], Awaitable[Database]]


@pytest.fixture
async def trial(engines: Engines) -> AsyncIterator[Trial]:
    """Connects to a schema of its own, which nobody has migrated."""
    opened = [
        await Database.connect(
            engines.database("exchange"), files=engines.identity("exchange"), size=1, telemetry=Telemetry()
        )
    ]
    await opened[0].execute("create schema trial")

    async def in_trial() -> Database:
        address = f"{engines.database('exchange')}?search_path=trial"
        opened.append(
            await Database.connect(address, files=engines.identity("exchange"), size=4, telemetry=Telemetry())
        )
        return opened[-1]

    yield in_trial
    await opened[0].execute("drop schema trial cascade")
    for database in opened:
        await database.close()
