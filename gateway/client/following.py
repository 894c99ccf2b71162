"""Following a feed with a saved cursor."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

from solmu.messages.v1 import feed_pb2

from services.runtime.errors import DeadlineExceeded, Unauthenticated, Unavailable

if TYPE_CHECKING:
    from gateway.client.client import Client

FIRST_PAUSE, MAX_PAUSE = 0.2, 10.0
"""Seconds before the stream is taken up again: doubling from the first to the largest while nothing comes."""


async def events(
    client: Client, unit: str, *, cursor: Path | None, types: Sequence[str]
) -> AsyncGenerator[feed_pb2.Event]:
    """See `Client.follow`."""
    place, pause = read_cursor(cursor), FIRST_PAUSE
    while True:
        request = feed_pb2.StreamEventsRequest(parent=unit, cursor=place, types=types)
        try:
            async with aclosing(client.stream(client.feed.StreamEvents, request)) as stream:
                async for event in stream:
                    yield event
                    place, pause = event.cursor, FIRST_PAUSE
                    write_cursor(cursor, place)
        except Unauthenticated as fault:
            if fault.reason != "TOKEN_EXPIRED":
                raise
            client.forget_token()
        except (Unavailable, DeadlineExceeded):
            pass
        await asyncio.sleep(pause)
        pause = min(pause * 2, MAX_PAUSE)


def read_cursor(file: Path | None) -> str:
    """Where to go on; empty, which is the beginning, where nothing is saved yet."""
    return file.read_text(encoding="ascii").strip() if file and file.exists() else ""


def write_cursor(file: Path | None, cursor: str) -> None:
    """Saves where to go on, whole or not at all."""
    if file is None:
        return
    new = file.with_name(file.name + ".new")
    new.write_text(cursor + "\n", encoding="ascii")
    os.replace(new, file)  # noqa: PTH105 - Path.replace says nothing more
