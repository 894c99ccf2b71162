"""Runs the benchmarks and prints what they found."""

from __future__ import annotations

import asyncio
import os
import platform
import tempfile
from pathlib import Path

from tests.bench import backlog, checks, edge, evidence, look_up, sending, start, transfer


async def main() -> None:
    """All of them, on a node of their own in a folder that is deleted afterwards."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    with tempfile.TemporaryDirectory(prefix="solmu-bench-") as folder:
        state = Path(folder) / "state"
        evidence.measure()
        await backlog.measure(Path(folder))
        await start.measure(state)
        await edge.measure(Path(folder))
        await sending.measure(state)
        await checks.measure(state)
        await look_up.measure(state)
        await transfer.measure(state)


if __name__ == "__main__":
    asyncio.run(main())
