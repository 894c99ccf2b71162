"""Segments of blobs as files in a folder: what a node has unless it is told otherwise."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path
from uuid import UUID

from services.runtime.errors import Internal


class Folder:
    """A store of segments, each a file that only its owner may read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, blob: UUID, number: int, content: bytes) -> None:
        """See Store. A segment is there as a whole or not at all."""
        path = self._path(blob, number)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        part = path.with_suffix(".part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync(path.parent)

    def read(self, blob: UUID, number: int) -> bytes:
        """See Store."""
        try:
            return self._path(blob, number).read_bytes()
        except FileNotFoundError:
            raise Internal("INTERNAL", "an attachment is not whole") from None

    def sizes(self, blob: UUID) -> list[int]:
        """See Store."""
        sizes: list[int] = []
        for number in count():
            try:
                sizes.append(self._path(blob, number).stat().st_size)
            except FileNotFoundError:
                return sizes
        raise AssertionError("unreachable: numbers do not end")

    def delete(self, blob: UUID) -> None:
        """See Store. From the end, so that no gap is left where it breaks off."""
        segments = len(self.sizes(blob))
        self._path(blob, segments).with_suffix(".part").unlink(missing_ok=True)
        for number in reversed(range(segments)):
            self._path(blob, number).unlink(missing_ok=True)

    def _path(self, blob: UUID, number: int) -> Path:
        return self._folder / blob.hex[-2:] / f"{blob.hex}-{number:05}"


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
