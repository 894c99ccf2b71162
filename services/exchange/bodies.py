"""Bodies on their way: counted, hashed, and kept until they are proven, in memory or on disk.

Memory stays flat whatever the size: what is larger than `IN_MEMORY` lies in a
temporary file that has no name.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from typing import IO

from services.runtime.errors import Fault, InvalidArgument, ResourceExhausted

IN_MEMORY = 1 << 20
"""Bytes of a body that are kept in memory; the contract lets a proof go ahead of bodies up to this size."""

CHUNK = 256 << 10
"""Bytes of a frame: few enough to share a connection, enough not to be many."""

SMALL = 64 << 10
"""Bytes of a body that goes with its head in one frame (peer_frames.proto)."""


class Body:
    """A body that is received. `most` is the largest that is taken; `expected` its length where it is known."""

    def __init__(self, *, most: int, expected: int | None = None) -> None:
        self._most = most
        self.expected = expected
        self._hash = hashlib.sha256()
        self._chunks: list[bytes] = []
        self._file: IO[bytes] | None = None
        self.size = 0
        self.kept = False
        """Whether its bytes are kept, not only counted."""
        if expected is not None and expected > most:
            raise too_large(most)

    def count(self, chunk: bytes) -> None:
        """Counts and hashes bytes that are not kept. Raises what makes the body one that is not taken."""
        self.size += len(chunk)
        if self.size > self._most:
            raise too_large(self._most)
        if self.expected is not None and self.size > self.expected:
            raise length_mismatch(self.expected, self.size)
        self._hash.update(chunk)

    async def keep(self, chunk: bytes) -> None:
        """Counts bytes and keeps them."""
        self.kept = True
        self.count(chunk)
        if self._file is None and self.size > IN_MEMORY:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115  # `close` closes it
            await asyncio.to_thread(self._file.write, b"".join(self._chunks))
            self._chunks = []
        if self._file is None:
            self._chunks.append(chunk)
        else:
            await asyncio.to_thread(self._file.write, chunk)

    def end(self) -> None:
        """All has come. Raises InvalidArgument, BODY_LENGTH_MISMATCH."""
        if self.expected is not None and self.size != self.expected:
            raise length_mismatch(self.expected, self.size)

    @property
    def sha256(self) -> str:
        """Of what has come, hexadecimal."""
        return self._hash.hexdigest()

    @property
    def in_memory(self) -> bool:
        """Whether what was kept is in memory."""
        return self._file is None

    def whole(self) -> bytes:
        """What was kept, where it is in memory."""
        if len(self._chunks) > 1:
            self._chunks = [b"".join(self._chunks)]
        return self._chunks[0] if self._chunks else b""

    async def chunks(self) -> AsyncIterator[bytes]:
        """What was kept, in pieces of a frame."""
        if self._file is None:
            content = self.whole()
            for first in range(0, len(content), CHUNK):
                yield content[first : first + CHUNK]
            return
        self._file.seek(0)
        while chunk := await asyncio.to_thread(self._file.read, CHUNK):
            yield chunk

    def close(self) -> None:
        """Forgets what was kept."""
        self._chunks = []
        if self._file is not None:
            self._file.close()


def too_large(most: int) -> Fault:
    """The refusal of a body that the policy does not take."""
    return ResourceExhausted("EXCHANGE_TOO_LARGE", "the body is larger than the policy allows", max_bytes=str(most))


def length_mismatch(expected: int, actual: int) -> Fault:
    """The refusal of a body of another length than was announced."""
    return InvalidArgument(
        "BODY_LENGTH_MISMATCH",
        "more or fewer bytes came than were announced",
        expected=str(expected),
        actual=str(actual),
    )
