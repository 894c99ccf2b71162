"""A client of clamd, the daemon of ClamAV, for content that arrives in pieces.

The protocol is that of clamd(8), command INSTREAM in its form with a NUL at the
end: chunks of content, each behind its length, and an empty one at last; then
one line of answer. Over TCP or a UNIX socket; without TLS, so clamd belongs on
the same machine or network.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from enum import Enum
from pathlib import Path

from services.runtime import config
from services.runtime.config import Address

SECONDS = 120.0
"""For one step: to connect, to take a piece, to answer. Large files take clamd a minute after their last byte."""

MAX_ANSWER_BYTES = 4096
"""A line with the name of a signature is far shorter."""


class Verdict(Enum):
    """What the scanner says of a file."""

    CLEAN = "clean"
    INFECTED = "infected"
    NOT_SCANNED = "not scanned"
    """It cannot scan this file, such as one over its size limit; trying again does not help."""


class ScannerAway(Exception):
    """The scanner is not there or does not answer: try again later."""


def place(value: str) -> Address | Path:
    """Reads a setting: host:port, or unix: and the path of a socket."""
    return Path(value.removeprefix("unix:")) if value.startswith("unix:/") else config.address(value)


class Clamd:
    """The clamd at an address or a socket."""

    def __init__(self, at: Address | Path) -> None:
        self._at = at

    async def scan(self, content: AsyncIterator[bytes]) -> Verdict:
        """The verdict on some content. Raises ScannerAway; nothing of the content stays with clamd."""
        try:
            reader, writer = await asyncio.wait_for(self._connect(), SECONDS)
        except (OSError, TimeoutError):
            raise ScannerAway from None
        # Read while sending: a clamd that has had enough says so and closes, and its word is lost once we write on.
        answering = asyncio.create_task(reader.readuntil(b"\0"))
        try:
            with contextlib.suppress(ConnectionError):
                await _send(writer, content)
            answer = await asyncio.wait_for(answering, SECONDS)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            raise ScannerAway from None
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
            writer.close()
        return _verdict(answer.rstrip(b"\0"))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._at, Path):
            return await asyncio.open_unix_connection(self._at, limit=MAX_ANSWER_BYTES)
        return await asyncio.open_connection(self._at.host, self._at.port, limit=MAX_ANSWER_BYTES)


async def _send(writer: asyncio.StreamWriter, content: AsyncIterator[bytes]) -> None:
    writer.write(b"zINSTREAM\0")
    async for piece in content:
        writer.write(len(piece).to_bytes(4, "big"))
        writer.write(piece)
        await asyncio.wait_for(writer.drain(), SECONDS)
    writer.write(bytes(4))
    await asyncio.wait_for(writer.drain(), SECONDS)


def _verdict(answer: bytes) -> Verdict:
    if answer == b"stream: OK":
        return Verdict.CLEAN
    if answer.startswith(b"stream: ") and answer.endswith(b" FOUND"):
        return Verdict.INFECTED
    if answer.endswith(b"ERROR"):
        return Verdict.NOT_SCANNED
    raise ScannerAway
