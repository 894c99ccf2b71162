"""Content of attachments in a folder, sealed piece by piece.

A blob is a file of frames, each one piece of the content under AES-256-GCM,
bound to the blob and to its place in it: a frame that is changed, moved or
taken from another blob does not open. Frames have one size but the last, so
that reading and writing can start at any of them. How much of a blob has
arrived follows from the file's size; after a break, writing goes on there.

A writer holds the file's lock; a crash of the process frees it.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import io
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from uuid import UUID

from services.runtime.errors import Aborted, Internal
from services.runtime.sealing import NONCE_BYTES, Sealer

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PIECE = 256 * 1024
"""Bytes of content in a frame: large enough that sealing costs nothing, small enough to hold many streams."""

OVERHEAD = NONCE_BYTES + 16
"""Bytes that sealing adds: nonce and tag."""

FRAME = PIECE + OVERHEAD


class Blobs:
    """The blobs in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def size(self, blob: UUID) -> int:
        """Bytes of content from which writing a blob goes on: those in whole frames; 0 where there is none."""
        try:
            return self._path(blob).stat().st_size // FRAME * PIECE
        except FileNotFoundError:
            return 0

    @asynccontextmanager
    async def writer(self, blob: UUID, sealer: Sealer) -> AsyncIterator[Writer]:
        """Writes a blob, from where it broke off. Raises Aborted, ATTACHMENT_BUSY, while another does."""
        path = self._path(blob)
        await asyncio.to_thread(path.parent.mkdir, mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Aborted("ATTACHMENT_BUSY", "another upload of this attachment is under way") from None
            writer = Writer(path, descriptor, sealer, str(blob))
            await asyncio.to_thread(writer.catch_up)
            yield writer
        finally:
            os.close(descriptor)

    async def read(self, blob: UUID, sealer: Sealer, *, offset: int, size: int) -> AsyncIterator[bytes]:
        """The content from `offset` on, in pieces. Raises Internal where it is not whole."""
        path = self._path(blob)
        first, skip = divmod(offset, PIECE)
        descriptor = await asyncio.to_thread(os.open, path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for index in range(first, -(-size // PIECE)):
                piece = await asyncio.to_thread(_read_piece, descriptor, sealer, str(blob), index)
                if len(piece) != min(PIECE, size - index * PIECE):
                    raise Internal("INTERNAL", "an attachment is not whole")
                yield piece[skip:] if skip else piece
                skip = 0
        finally:
            os.close(descriptor)

    @contextmanager
    def opened(self, blob: UUID, sealer: Sealer, *, size: int) -> Iterator[BinaryIO]:
        """The content as a file that can be read at any place, for libraries that want one; blocks."""
        descriptor = os.open(self._path(blob), os.O_RDONLY | os.O_CLOEXEC)
        try:
            with io.BufferedReader(_File(descriptor, sealer, str(blob), size), PIECE) as file:
                yield file
        finally:
            os.close(descriptor)

    async def delete(self, blob: UUID) -> None:
        """Deletes a blob, if it is there."""
        await asyncio.to_thread(self._path(blob).unlink, missing_ok=True)

    def _path(self, blob: UUID) -> Path:
        return self._folder / blob.hex[-2:] / blob.hex


class Writer:
    """Appends to one blob. `received` counts what has come, `kept` what a break would leave."""

    def __init__(self, path: Path, descriptor: int, sealer: Sealer, blob: str) -> None:
        self._path = path
        self._descriptor = descriptor
        self._sealer = sealer
        self._blob = blob
        self._digest = hashlib.sha256()
        self._pending = bytearray()
        self.kept = 0

    @property
    def received(self) -> int:
        """Bytes of content that have come, kept or waiting for their frame to fill."""
        return self.kept + len(self._pending)

    @property
    def digest(self) -> str:
        """SHA-256 of all that has come, hexadecimal."""
        return self._digest.hexdigest()

    def catch_up(self) -> None:
        """Reads what is kept already, for the digest; drops a last frame that is not whole."""
        whole = os.fstat(self._descriptor).st_size // FRAME
        for index in range(whole):
            self._digest.update(_read_piece(self._descriptor, self._sealer, self._blob, index))
        os.ftruncate(self._descriptor, whole * FRAME)
        self.kept = whole * PIECE

    async def append(self, data: bytes) -> None:
        """Takes the next bytes."""
        self._pending += data
        if len(self._pending) >= PIECE:
            await asyncio.to_thread(self._write_whole_frames, len(data))
        else:
            self._digest.update(data)

    async def finish(self) -> None:
        """Writes the last frame and has all of it on disk."""
        await asyncio.to_thread(self._finish)

    async def pause(self) -> None:
        """Has the whole frames on disk; the rest has to come again."""
        await asyncio.to_thread(os.fsync, self._descriptor)

    def discard(self) -> None:
        """Throws away all of it."""
        self._pending.clear()
        self._path.unlink(missing_ok=True)

    def _write_whole_frames(self, fresh: int) -> None:
        self._digest.update(memoryview(self._pending)[len(self._pending) - fresh :])
        while len(self._pending) >= PIECE:
            self._write(bytes(self._pending[:PIECE]))
            del self._pending[:PIECE]

    def _write(self, piece: bytes) -> None:
        index = self.kept // PIECE
        frame = self._sealer.seal(piece, context=_context(self._blob, index))
        place = index * FRAME
        while frame:
            written = os.pwrite(self._descriptor, frame, place)
            frame, place = frame[written:], place + written
        self.kept += len(piece)

    def _finish(self) -> None:
        if self._pending:
            self._write(bytes(self._pending))
            self._pending.clear()
        os.fsync(self._descriptor)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class _File(io.RawIOBase):
    """The content of a blob as a file."""

    def __init__(self, descriptor: int, sealer: Sealer, blob: str, size: int) -> None:
        self._descriptor = descriptor
        self._sealer = sealer
        self._blob = blob
        self._size = size
        self._place = 0

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
        index, skip = divmod(self._place, PIECE)
        piece = _read_piece(self._descriptor, self._sealer, self._blob, index)[skip:]
        into = memoryview(buffer).cast("B")
        count = min(len(piece), len(into))
        into[:count] = piece[:count]
        self._place += count
        return count


def _read_piece(descriptor: int, sealer: Sealer, blob: str, index: int) -> bytes:
    frame = os.pread(descriptor, FRAME, index * FRAME)
    return sealer.open(frame, context=_context(blob, index))


def _context(blob: str, index: int) -> str:
    return f"attachments/{blob}/{index}"
