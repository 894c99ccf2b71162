"""Calls whose messages are written one by one, and what the other side says, whatever became of the writing.

Where a message can no longer be written, since the other side has ended the
call, grpc.aio gives the call an INTERNAL status of its own. That hides answers
that were not read yet, and the status with which the other side ended the call
or is about to. Here both are heard.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, NamedTuple

import grpc

from services.runtime.status import BROKEN_WRITE

SHORTLY = 5.0
"""Seconds for the status of a call that has ended."""


class NotWantedError(Exception):
    """The other side has ended the call and takes no more of it. Why is to be read."""


class Status(NamedTuple):
    """How a call ended."""

    code: grpc.StatusCode
    details: str
    trailers: grpc.aio.Metadata


class Stream:
    """A call that was begun without its messages, whether one answer comes or a stream of them."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._status: Status | None = None
        call.add_done_callback(self._note)

    async def write(self, message: Any) -> None:
        """Sends a message. Raises NotWantedError."""
        await _wanted(self._call.write(message))

    async def done_writing(self) -> None:
        """Says that there are no more. Raises NotWantedError."""
        await _wanted(self._call.done_writing())

    async def began(self) -> Any:
        """The metadata with which the answer begins."""
        return await self._call.initial_metadata()

    async def answer(self) -> Any:
        """The one answer. Raises AioRpcError."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            return await self._call
        raise await self._error()

    async def answers(self) -> AsyncIterator[Any]:
        """The answers, to their end. Raises AioRpcError."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for message in self._call:
                yield message
        if (await self.status()).code is not grpc.StatusCode.OK:
            raise await self._error()

    async def status(self) -> Status:
        """How the other side ended the call, or its connection broke; waits until it has."""
        await self._call.code()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SHORTLY):
                while self._status is None:
                    await asyncio.sleep(0.001)
                    self._note(self._call)
        return self._status or _shown(self._call)

    def done(self) -> bool:
        """Whether the call has ended."""
        done: bool = self._call.done()
        return done

    def cancel(self) -> None:
        """Ends the call, where it has not ended."""
        self._call.cancel()

    def _note(self, call: Any) -> None:
        """Keeps the status, where it is the other side's, before a write that fails takes its place."""
        shown = _shown(call)
        if self._status is None and (shown.code, shown.details) != (grpc.StatusCode.INTERNAL, BROKEN_WRITE):
            self._status = shown

    async def _error(self) -> grpc.aio.AioRpcError:
        status = await self.status()
        return grpc.aio.AioRpcError(status.code, await self.began(), status.trailers, details=status.details)


async def _wanted(writing: Coroutine[Any, Any, None]) -> None:
    try:
        await writing
    except (grpc.aio.AioRpcError, grpc.aio.BaseError, asyncio.InvalidStateError):
        raise NotWantedError from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise NotWantedError from None  # the call was cancelled, not this task


def _shown(call: Any) -> Status:
    """The status of a call that has ended."""
    return Status(_at_once(call.code()), _at_once(call.details()) or "", _at_once(call.trailing_metadata()))


def _at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise RuntimeError("the call has not ended")
