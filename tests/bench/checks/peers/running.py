"""What all peers' processes do: read the command line, measure, print JSON."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import psutil

from tests.bench.checks.measuring import Figures
from tests.bench.checks.world import Asked


class Library:
    """An engine inside the process, asked by a function."""

    def __init__(self, allowed: Callable[[Asked], bool]) -> None:
        self._allowed = allowed

    async def one(self, question: Asked) -> bool:
        """Whether it is allowed."""
        return self._allowed(question)

    async def many(self, questions: Sequence[Asked]) -> list[bool]:
        """One after another."""
        return [self._allowed(question) for question in questions]


class Loading:
    """How long loading takes, and how much memory it needs in this process."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._before = psutil.Process().memory_info().rss

    def note(self, size: int) -> str:
        """Both, for people."""
        held = psutil.Process().memory_info().rss - self._before
        return f"{time.perf_counter() - self._began:.0f} s to load, {held / size:.0f} bytes a mandate"


def run(measure: Callable[[argparse.Namespace], Coroutine[Any, Any, Figures]], *options: str) -> None:
    """Measures and prints. `options` are names of further arguments."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--batch", type=int, required=True)
    for option in options:
        parser.add_argument(f"--{option}", required=True)
    print(json.dumps(dataclasses.asdict(asyncio.run(measure(parser.parse_args())))))
