"""Brings a service's database to this release, and ends: a job ahead of an update.

    python -m services.runtime.migrate messages

The release before runs on meanwhile, and afterwards (`deploy/migrations.py`). A
service that finds its database as it should be does the same at its start, and
has nothing left to do. Ends with 78 (EX_CONFIG) where a setting is wrong, with
65 (EX_DATAERR) where the database and this release do not fit together.
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import AsyncExitStack

from services.runtime import config, foundation, mesh, server
from services.runtime.config import DatabaseSettings
from services.runtime.telemetry import start


async def main(service: str, stack: AsyncExitStack) -> None:
    """Migrates. Raises ConfigError and MigrationError."""
    settings = config.read(DatabaseSettings)
    telemetry = start(service, settings, metrics=None)
    stack.callback(telemetry.stop)
    await foundation.migrated(service, settings, size=1, telemetry=telemetry, stack=stack)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m services.runtime.migrate", description=__doc__.split("\n", 1)[0])
    parser.add_argument("service", choices=mesh.SERVICES)
    named = parser.parse_args().service

    async def _run(_: asyncio.Event, stack: AsyncExitStack) -> None:
        await main(named, stack)

    server.run(_run)
