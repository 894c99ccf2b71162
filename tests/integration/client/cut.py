"""A way to the edge that breaks: forwards bytes, and cuts every connection that has carried its share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


@asynccontextmanager
async def cutting(edge: str, shares: Iterator[int]) -> AsyncIterator[str]:
    """Yields the origin to call in place of the edge's. Each connection carries so many bytes as the next of `shares`."""
    target = urlsplit(edge)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = next(shares, 1 << 40)
        there_reader, there_writer = await asyncio.open_connection(target.hostname, target.port)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            nonlocal left
            while left > 0 and (data := await source.read(16384)):
                left -= len(data)
                sink.write(data)
                await sink.drain()

        pumps = [asyncio.create_task(pump(reader, there_writer)), asyncio.create_task(pump(there_reader, writer))]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for task in pumps:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await task
        for each in (writer, there_writer):
            each.close()

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    yield f"https://localhost:{server.sockets[0].getsockname()[1]}"
    server.close()
