"""Many callers, one statement: what is asked while a batch is under way goes with the next.

A lone question goes at once. Under load batches form, and the round trip, the
statement and the commit are shared by all that wait for them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from services.runtime.database import AWAY

Q = TypeVar("Q")
A = TypeVar("A")

MOST = 250
"""Questions in a batch."""

LINGER, MAX_LINGER = 0.001, 0.02
"""Seconds that a batch waits for as many questions as are expected, for each of those, and at most.

A statement costs nearly as much for one as for many, so a busy process gets
more done by it. Who is alone, and not just after many, does not wait.
"""

FORGETS = 8
"""What is expected falls by one part in so many with each batch that is smaller."""


class Gathering(Generic[Q, A]):
    """Has questions answered in batches, one at a time. `answer` returns one answer for each question, in their order.

    It runs in the context of one of those who ask: it must not look at who
    calls. A batch that fails is asked again one by one, so that nobody pays for
    another's fault; not where the database is away. What has begun goes on when
    its caller leaves.
    """

    def __init__(self, answer: Callable[[Sequence[Q]], Awaitable[Sequence[A]]], *, most: int = MOST) -> None:
        self._answer = answer
        self._most = most
        self._waiting: deque[tuple[Q, asyncio.Future[A]]] = deque()
        self._expected = 0
        self._enough = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    async def ask(self, question: Q) -> A:
        """The answer; raises what `answer` raises for it."""
        return await self.begin(question)

    def begin(self, question: Q) -> asyncio.Future[A]:
        """Asks while the caller goes on."""
        future: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        elif len(self._waiting) >= self._expected:
            self._enough.set()
        return future

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._linger()
                batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
                self._expected = max(len(batch), self._expected - self._expected // FORGETS - 1)
                await self._settle(batch)
        finally:
            self._worker = None

    async def _linger(self) -> None:
        if self._expected > 1 and len(self._waiting) < self._expected:
            self._enough.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(LINGER * self._expected, MAX_LINGER)):
                    await self._enough.wait()

    async def _settle(self, batch: Sequence[tuple[Q, asyncio.Future[A]]]) -> None:
        try:
            answers = await self._answer([question for question, _ in batch])
        except AWAY as error:
            _fail(batch, error)
        except Exception as error:  # noqa: BLE001  # whatever the database says
            if len(batch) == 1:
                _fail(batch, error)
            else:
                for one in batch:
                    await self._settle([one])
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():  # else its caller has gone
                    future.set_result(answer)


def _fail(batch: Sequence[tuple[Q, asyncio.Future[A]]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)


async def in_order(
    function: Callable[[Q], Awaitable[A]],
    questions: AsyncIterator[Q],
    *,
    at_once: int = MOST,
    size: Callable[[Q], int] = lambda _: 1,
) -> AsyncGenerator[A, None]:
    """Asks each question of a stream as it comes, and gives the answers in its order.

    Questions are asked beside one another as long as their sizes, together,
    are `at_once` at most; one alone always is.
    """
    answers: asyncio.Queue[tuple[asyncio.Future[A], int] | None] = asyncio.Queue()
    room = _Room(at_once)

    async def read() -> None:
        try:
            async for question in questions:
                await room.take(size(question))
                answers.put_nowait((asyncio.ensure_future(function(question)), size(question)))
        except Exception as error:  # noqa: BLE001  # raised below, after the answers before it
            failed: asyncio.Future[A] = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            answers.put_nowait((failed, 0))
        answers.put_nowait(None)

    reader = asyncio.create_task(read())
    try:
        while (answer := await answers.get()) is not None:
            yield await answer[0]
            room.leave(answer[1])
    finally:
        reader.cancel()
        while not answers.empty():
            if (left := answers.get_nowait()) is not None:
                left[0].cancel()


class _Room:
    """Room for so much at a time; who comes first to empty room is let in, however large."""

    def __init__(self, whole: int) -> None:
        self._whole = whole
        self._taken = 0
        self._left = asyncio.Event()

    async def take(self, size: int) -> None:
        while self._taken and self._taken + size > self._whole:
            self._left.clear()
            await self._left.wait()
        self._taken += size

    def leave(self, size: int) -> None:
        self._taken -= size
        self._left.set()
