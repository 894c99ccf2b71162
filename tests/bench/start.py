"""How long a node takes to be ready, and how much memory it holds when idle."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import psutil

from deploy.local.node import Node, NodeSettings, running

SETTLE = 5.0
"""Seconds of idleness before memory is read."""


async def measure(state: Path) -> None:
    """Starts a node on an empty folder and again on the same, and reads its memory."""
    settings = NodeSettings(state=state, edge_port=0)
    print("start to ready")
    for label in ("empty state (certificates, initdb, migrations)", "existing state"):
        began = time.perf_counter()
        async with running(settings) as node:
            print(f"  {time.perf_counter() - began:5.1f} s  {label}")
            if label == "existing state":
                await asyncio.sleep(SETTLE)
                _memory(node)
    print()


def _memory(node: Node) -> None:
    print("\nidle memory (PSS: shared pages counted once), MB")
    total = 0.0
    for name, keeper in node.processes.items():
        assert keeper.pid is not None
        tree = psutil.Process(keeper.pid)
        size = sum(one.memory_full_info().pss for one in (tree, *tree.children(recursive=True))) / 1e6
        total += size
        print(f"  {size:6.0f}  {name}")
    print(f"  {total:6.0f}  in all")
