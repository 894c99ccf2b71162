"""The frames of a call, read in their order: head, chunks, end (calls.proto, peer_frames.proto)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from services.exchange.backends import stream_idle
from services.runtime.errors import Fault, InvalidArgument

F = TypeVar("F", bound=Message)
H = TypeVar("H", bound=Message)


class Frames(Generic[F, H]):
    """Reads a stream. `side` says who sends it, for the refusal where nothing comes for too long."""

    def __init__(self, source: AsyncIterator[F], *, side: str) -> None:
        self._source = source
        self._side = side
        self._idle: float | None = 30.0
        self._whole: bytes | None = None
        self.end: Any = None
        """The last frame, once the chunks have ended. None where the head is the only frame."""

    def patience(self, idle: float | None) -> None:
        """How many seconds may pass between two frames; None: who reads them sees to it."""
        self._idle = idle

    async def head(self) -> H:
        """The first frame. Raises InvalidArgument, FRAMES_INVALID."""
        frame = await self._next()
        if frame is None or frame.WhichOneof("frame") != "head":
            raise invalid()
        head: H = frame.head
        if head.HasField("body"):
            self._whole = head.body  # type: ignore[attr-defined]
        return head

    @property
    def whole(self) -> bytes | None:
        """The whole body, where it came with the head."""
        return self._whole

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, as it comes; afterwards `end` is there. Raises InvalidArgument, FRAMES_INVALID."""
        if self._whole is not None:
            yield self._whole
            return
        while True:
            frame = await self._next()
            kind = frame.WhichOneof("frame") if frame is not None else None
            if frame is None or kind not in {"chunk", "end"}:
                raise invalid()
            if kind == "end":
                self.end = frame.end
                return
            yield frame.chunk

    async def _next(self) -> Any:
        if self._idle is None:
            return await anext(self._source, None)
        try:
            async with asyncio.timeout(self._idle):
                return await anext(self._source, None)
        except TimeoutError:
            raise stream_idle(self._side) from None


def invalid() -> Fault:
    """The refusal of frames that do not come in their order."""
    return InvalidArgument("FRAMES_INVALID", "the frames do not come in their order")
