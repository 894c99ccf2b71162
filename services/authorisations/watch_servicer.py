"""WatchService: lets a consumer hold the facts and judge checks by itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

from solmu.authorisations.v1 import watch_pb2
from solmu.authorisations.v1.watch_pb2 import WatchResponse

from services.authorisations import asking, messages, revision_store
from services.authorisations.fact_stream import FactStream
from services.runtime import identity
from services.runtime.database import Database
from services.runtime.errors import ResourceExhausted
from services.runtime.facts.tokens import token

AHEAD = 8
"""Parts that wait for a consumer at most, some 100 kB each: beyond that, reading waits for it too."""

TOO_SLOW = 10.0
"""Seconds that one part may wait for its consumer; a snapshot holds a connection to the database all the while."""


class WatchServicer:
    """Answers WatchService. `revoked` says whether a client is."""

    def __init__(
        self,
        *,
        database: Database,
        stream: FactStream,
        limits: asking.Limits,
        revoked: Callable[[str], bool],
        too_slow: float = TOO_SLOW,
    ) -> None:
        self._database = database
        self._limits = limits
        self._stream = stream
        self._revoked = revoked
        self._too_slow = too_slow

    async def GetHead(self, _: watch_pb2.GetHeadRequest) -> watch_pb2.Head:
        """Returns the newest revision, and the oldest from which a watch can go on."""
        head = await revision_store.head(self._database)
        oldest = await revision_store.oldest(self._database)
        return watch_pb2.Head(
            consistency_token=token(head.epoch, head.revision),
            oldest_consistency_token=token(head.epoch, oldest - 1),
            commit_time=messages.timestamp(head.commit_time),
        )

    async def Watch(self, request: watch_pb2.WatchRequest) -> AsyncGenerator[WatchResponse]:
        """Streams the facts, where no position is given, and then every change of them."""
        caller, limits = identity.caller(), await self._limits.themes()
        for theme in request.themes:
            asking.hold(theme, limits)
        request.themes.extend(sorted(limits) if not request.themes else ())
        async with contextlib.aclosing(paced(self._stream.watch(request), seconds=self._too_slow)) as parts:
            async for part in parts:
                if (fault := identity.still_valid(caller, revoked=self._revoked)) is not None:
                    raise fault
                yield part


async def paced(source: AsyncGenerator[WatchResponse], *, seconds: float) -> AsyncGenerator[WatchResponse]:
    """What the source gives, read ahead of its consumer, whom the source does not wait for longer than some seconds.

    Raises ResourceExhausted, WATCH_TOO_SLOW, and what the source raises. When
    the consumer is given up the source is closed at once, though the consumer
    hears of it only when it reads on.
    """
    parts: asyncio.Queue[WatchResponse | Exception] = asyncio.Queue(AHEAD)
    reading = asyncio.create_task(_read(source, parts, seconds))
    try:
        while True:
            part = await parts.get()
            if isinstance(part, Exception):
                raise part
            yield part
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _read(
    source: AsyncGenerator[WatchResponse], parts: asyncio.Queue[WatchResponse | Exception], seconds: float
) -> None:
    """Reads the source until it fails or its consumer does; then that is all that the consumer hears of it."""
    end: Exception
    try:
        async with contextlib.aclosing(source):
            async for part in source:
                async with asyncio.timeout(seconds):
                    await parts.put(part)
        return
    except TimeoutError:
        end = ResourceExhausted("WATCH_TOO_SLOW", "the changes were not taken in time: go on after the last revision")
    except Exception as error:  # noqa: BLE001  # whatever the source raises is the consumer's
        end = error
    while not parts.empty():
        parts.get_nowait()
    parts.put_nowait(end)
