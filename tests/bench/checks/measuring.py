"""How fast an engine answers, and how often wrongly: the same for all engines."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import psutil

from services.runtime.server import settle
from tests.bench.checks import world
from tests.bench.checks.world import Asked
from tests.bench.report import percentile

WARM = 50
"""Calls before the first that counts."""

TOGETHER = 16
"""Calls under way at once, where calls go over the network."""


class Engine(Protocol):
    """Something that answers checks."""

    async def one(self, question: Asked) -> bool:
        """Whether it is allowed."""

    async def many(self, questions: Sequence[Asked]) -> list[bool]:
        """The same of a batch."""


@dataclass
class Figures:
    """What was measured of one engine at one number of mandates."""

    direct: float = 0.0
    """Checks of a mandate of one's own, one after another, in a second; `p50` and `p99` in microseconds."""
    p50: float = 0.0
    p99: float = 0.0
    represented: float = 0.0
    """The same for a mandate of one's firm."""
    represented_p50: float = 0.0
    represented_p99: float = 0.0
    together: float = 0.0
    """Checks in a second, some calls at once; 0 where there are no calls."""
    batches: float = 0.0
    """Checks in a second, in batches; 0 where it takes none."""
    single_cpu: float = 0.0
    """Microseconds of processor time for a check, one after another, of all who take part: asker, engine, database."""
    together_cpu: float = 0.0
    """The same with some calls at once; 0 where there are no calls."""
    batch_cpu: float = 0.0
    """The same in batches."""
    asked: int = 0
    wrong: int = 0
    notes: list[str] = field(default_factory=list)


class Work:
    """Processor time of this process, and of other processes with those that they started."""

    def __init__(self, others: Sequence[int] = ()) -> None:
        self._others = [psutil.Process(pid) for pid in others]
        self._began = self._seconds()

    def for_each(self, count: int) -> float:
        """Microseconds since the beginning for each of so many."""
        return (self._seconds() - self._began) / max(count, 1) * 1e6

    def _seconds(self) -> float:
        spent = time.process_time()
        for other in self._others:
            for process in (other, *other.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    spent += times.user + times.system
                    if process is other:  # those that have ended
                        spent += times.children_user + times.children_system
        return spent


async def measure(
    engine: Engine,
    size: int,
    *,
    seconds: float,
    batch: int = 0,
    together: bool = False,
    others: Sequence[int] = (),
) -> Figures:
    """Measures an engine for some seconds each way. `others` are processes that work for it beside this one.

    The process is settled first, as those of the node are: what the engine has
    loaded is no garbage, and is not looked through for it again and again.
    """
    figures = Figures()
    settle()
    await _singles(engine, world.direct(size), Figures(), count=WARM)
    work = Work(others)
    figures.direct, figures.p50, figures.p99 = await _singles(engine, world.direct(size), figures, seconds=seconds)
    figures.single_cpu = work.for_each(figures.asked)
    figures.represented, figures.represented_p50, figures.represented_p99 = await _singles(
        engine, world.represented(size), figures, seconds=seconds
    )
    if together:
        before, work = figures.asked, Work(others)
        figures.together = await _together(engine, world.direct(size, begin=size // 3), figures, seconds)
        figures.together_cpu = work.for_each(figures.asked - before)
    if batch:
        before, work = figures.asked, Work(others)
        figures.batches = await _batches(engine, world.of_accountants(size, batch), figures, seconds, batch)
        figures.batch_cpu = work.for_each(figures.asked - before)
    return figures


async def _singles(
    engine: Engine, questions: Iterator[Asked], figures: Figures, *, seconds: float = 1e9, count: int = 10**9
) -> tuple[float, float, float]:
    latencies: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end and len(latencies) < count:
        question = next(questions)
        began = time.perf_counter()
        allowed = await engine.one(question)
        latencies.append(time.perf_counter() - began)
        figures.wrong += allowed is not question.allowed
    figures.asked += len(latencies)
    p50, p99 = (percentile(latencies, share) * 1e6 for share in (0.5, 0.99))
    return len(latencies) / sum(latencies), p50, p99


async def _together(engine: Engine, questions: Iterator[Asked], figures: Figures, seconds: float) -> float:
    began, before = time.perf_counter(), figures.asked

    async def call() -> None:
        while time.perf_counter() < began + seconds:
            question = next(questions)
            figures.wrong += await engine.one(question) is not question.allowed
            figures.asked += 1

    await asyncio.gather(*(call() for _ in range(TOGETHER)))
    return (figures.asked - before) / (time.perf_counter() - began)


async def _batches(engine: Engine, questions: Iterator[Asked], figures: Figures, seconds: float, size: int) -> float:
    spent, count = 0.0, 0
    while spent < seconds:
        batch = world.batch(questions, size)
        began = time.perf_counter()
        answers = await engine.many(batch)
        spent += time.perf_counter() - began
        count += len(batch)
        figures.wrong += sum(answer is not one.allowed for answer, one in zip(answers, batch, strict=True))
    figures.asked += count
    return count / spent
