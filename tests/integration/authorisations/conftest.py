"""The service for each test."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.runtime.database import Database
from services.runtime.server import Tasks
from tests.integration.authorisations.service import Service, assemble


@pytest.fixture
async def service(authorisations_database: Database, tmp_path: Path) -> AsyncIterator[Service]:
    """The servicers over the shared database, with a signing key of their own, and the facts in memory."""
    service = assemble(authorisations_database, tmp_path)
    async with Tasks(asyncio.Event()) as tasks:
        tasks.start(service.stream.look())
        tasks.start(service.facts.run())
        yield service
