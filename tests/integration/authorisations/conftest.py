"""The service for each test."""

from pathlib import Path

import pytest

from services.runtime.database import Database
from tests.integration.authorisations.service import Service, assemble


@pytest.fixture
def service(authorisations_database: Database, tmp_path: Path) -> Service:
    """The servicers over the shared database, with a signing key of their own."""
    return assemble(authorisations_database, tmp_path)
