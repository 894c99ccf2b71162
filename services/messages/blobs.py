"""Content of attachments, sealed piece by piece, wherever it lies.

A blob is a run of segments, each so many bytes of the content under
AES-256-GCM, bound to the blob and to its place in it: a segment that is
changed, moved or taken from another blob does not open. Segments have one size
but the last, so that reading and writing can start at any of them. How much of
a blob has arrived follows from its segments; after a break, writing goes on
behind them.

Where segments lie is a `Store`: a folder (`blob_folder.py`) or a bucket
(`blob_bucket.py`). A blob has one writer at a time; whoever writes sees to it,
and is asked again before each segment.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO, Protocol, TypeVar
from uuid import UUID

from services.runtime.errors import Fault, Internal
from services.runtime.sealing import NONCE_BYTES, Sealer

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

T = TypeVar("T")
Claim = Callable[[], Awaitable[None]]

SEGMENT = 4 << 20
"""Bytes of content in a segment: few enough to hold for each stream, so many that 2 GiB are some hundreds."""

PIECE = 256 << 10
"""Bytes of content that a reader is given at once."""

OVERHEAD = NONCE_BYTES + 16
"""Bytes that sealing adds to a segment: nonce and tag."""

THREADS = 32
"""Segments of one process that are sealed, opened and carried at the same time."""


class Store(Protocol):
    """Where segments lie: under the id of their blob and a number from 0, without a gap. Its methods block."""

    def write(self, blob: UUID, number: int, content: bytes) -> None:
        """Keeps a segment, in place of the one of this number; it outlives a crash when this returns."""

    def read(self, blob: UUID, number: int) -> bytes:
        """A segment. Raises Internal where it is not there."""

    def sizes(self, blob: UUID) -> list[int]:
        """The sizes of a blob's segments, in their order; none where there is no such blob."""

    def delete(self, blob: UUID) -> None:
        """Deletes a blob, if it is there."""


class Blobs:
    """The blobs in one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="blobs")

    async def size(self, blob: UUID) -> int:
        """Bytes of content from which writing a blob goes on; 0 where there is none."""
        return sum(size - OVERHEAD for size in await self._run(self._store.sizes, blob))

    @asynccontextmanager
    async def writer(self, blob: UUID, sealer: Sealer, *, claim: Claim | None = None) -> AsyncIterator[Writer]:
        """Writes a blob, from where it broke off. Where the block breaks off, what has come is kept.

        `claim` is asked before anything is written, and raises where another
        may write by now.
        """
        writer = Writer(self._store, blob, sealer, run=self._run, claim=claim)
        await writer.catch_up()
        try:
            yield writer
        except BaseException:
            with suppress(Fault):  # what made the block break off is what counts
                await writer.pause()
            raise

    async def read(self, blob: UUID, sealer: Sealer, *, offset: int, size: int) -> AsyncIterator[bytes]:
        """The content from `offset` on, in pieces; `size` is that of all. Raises Internal where it is not whole."""
        first, skip = divmod(offset, SEGMENT)
        for number in range(first, -(-size // SEGMENT)):
            content = await self._run(_opened, self._store, blob, number, sealer, size)
            for start in range(skip, len(content), PIECE):
                yield content[start : start + PIECE]
            skip = 0

    @contextmanager
    def opened(self, blob: UUID, sealer: Sealer, *, size: int) -> Iterator[BinaryIO]:
        """The content as a file that can be read at any place, for libraries that want one; blocks."""
        with io.BufferedReader(_File(self._store, blob, sealer, size), PIECE) as file:
            yield file

    async def delete(self, blob: UUID) -> None:
        """Deletes a blob, if it is there."""
        await self._run(self._store.delete, blob)

    async def _run(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


class Writer:
    """Appends to one blob. `received` counts what has come, `kept` what the death of the process would leave."""

    def __init__(
        self,
        store: Store,
        blob: UUID,
        sealer: Sealer,
        *,
        run: Callable[..., Awaitable[None]],
        claim: Claim | None = None,
    ) -> None:
        self._store = store
        self._blob = blob
        self._sealer = sealer
        self._run = run
        self._claim = claim
        self._digest = hashlib.sha256()
        self._pending = bytearray()
        self._whole = 0
        self._closed = False
        self.kept = 0

    @property
    def received(self) -> int:
        """Bytes of content that have come, kept or waiting for their segment to fill."""
        return self._whole * SEGMENT + len(self._pending)

    @property
    def digest(self) -> str:
        """SHA-256 of all of it, hexadecimal, once it is finished."""
        return self._digest.hexdigest()

    async def catch_up(self) -> None:
        """Reads what is kept already, for the digest."""
        await self._run(self._catch_up)

    async def append(self, data: bytes) -> None:
        """Takes the next bytes."""
        self._pending += data
        while len(self._pending) >= SEGMENT:
            await self._claimed(self._write_whole)

    async def finish(self) -> None:
        """Keeps the last segment. Nothing can be appended from now on."""
        await self._claimed(self._finish)

    async def pause(self) -> None:
        """Keeps what has come, to go on behind it later."""
        if not self._closed and self.kept < self.received:
            await self._claimed(self._write_last)

    async def discard(self) -> None:
        """Throws away all of it."""
        self._closed = True
        self._pending.clear()
        await self._claimed(self._store.delete, self._blob)

    async def _claimed(self, function: Callable[..., None], *arguments: object) -> None:
        if self._claim is not None:
            await self._claim()
        await self._run(function, *arguments)

    def _catch_up(self) -> None:
        for number, size in enumerate(self._store.sizes(self._blob)):
            self._pending += _open(self._store, self._blob, number, self._sealer)
            self.kept += size - OVERHEAD
            if len(self._pending) == SEGMENT:
                self._count_whole()

    def _write_whole(self) -> None:
        content = bytes(memoryview(self._pending)[:SEGMENT])
        self._write(content)
        self._count_whole()

    def _count_whole(self) -> None:
        self._digest.update(memoryview(self._pending)[:SEGMENT])
        del self._pending[:SEGMENT]
        self._whole += 1

    def _write_last(self) -> None:
        self._write(bytes(self._pending))

    def _finish(self) -> None:
        if self._pending:
            self._write_last()
            self._digest.update(self._pending)
        self._closed = True

    def _write(self, content: bytes) -> None:
        sealed = self._sealer.seal(content, context=_context(self._blob, self._whole))
        self._store.write(self._blob, self._whole, sealed)
        self.kept = self._whole * SEGMENT + len(content)


class _File(io.RawIOBase):
    """The content of a blob as a file. It holds the segment that was read last."""

    def __init__(self, store: Store, blob: UUID, sealer: Sealer, size: int) -> None:
        self._store = store
        self._blob = blob
        self._sealer = sealer
        self._size = size
        self._place = 0
        self._held = -1
        self._content = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise OSError("before the beginning")
        self._place = start + offset
        return self._place

    def readinto(self, buffer: WriteableBuffer) -> int:
        if self._place >= self._size:
            return 0
        number, skip = divmod(self._place, SEGMENT)
        if number != self._held:
            self._content = _opened(self._store, self._blob, number, self._sealer, self._size)
            self._held = number
        into = memoryview(buffer).cast("B")
        piece = memoryview(self._content)[skip : skip + len(into)]
        into[: len(piece)] = piece
        self._place += len(piece)
        return len(piece)


def _opened(store: Store, blob: UUID, number: int, sealer: Sealer, size: int) -> bytes:
    """A segment of a blob of a size that is known. Raises Internal where it has another length than it should."""
    content = _open(store, blob, number, sealer)
    if len(content) != min(SEGMENT, size - number * SEGMENT):
        raise Internal("INTERNAL", "an attachment is not whole")
    return content


def _open(store: Store, blob: UUID, number: int, sealer: Sealer) -> bytes:
    return sealer.open(store.read(blob, number), context=_context(blob, number))


def _context(blob: UUID, number: int) -> str:
    return f"attachments/{blob}/{number}"
