from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.gateway.rig import Rig


@pytest.fixture(scope="package")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """One edge for all tests of this folder; a test that changes it puts it back."""
    async with Rig(tmp_path_factory.mktemp("edge")) as started:
        yield started
