"""How much memory processes of nodes hold while something happens."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Self

import psutil

from deploy.local.node import Node

EVERY_SECONDS = 0.1


class Watch:
    """Looks at processes, each given by its node and name, for the time of a block."""

    def __init__(self, processes: Sequence[tuple[Node, str]]) -> None:
        self._processes = processes

    async def __aenter__(self) -> Self:
        self._before = [resident(*process) for process in self._processes]
        self._most = list(self._before)
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._watching.cancel()

    def held(self) -> list[tuple[float, float]]:
        """Of each process what it held before, and the most that it held meanwhile; resident megabytes."""
        return list(zip(self._before, self._most, strict=True))

    async def _watch(self) -> None:
        while True:
            now = [resident(*process) for process in self._processes]
            self._most = [max(pair) for pair in zip(self._most, now, strict=True)]
            await asyncio.sleep(EVERY_SECONDS)


def resident(node: Node, name: str) -> float:
    """Megabytes of a process of a node and of those that it started."""
    pid = node.processes[name].pid
    assert pid is not None, f"{name} does not run"
    tree = psutil.Process(pid)
    return sum(one.memory_info().rss for one in (tree, *tree.children(recursive=True))) / 1e6
