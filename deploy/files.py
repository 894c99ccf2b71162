"""Writing files so that a reader sees the old content or the new one, never half of it."""

from __future__ import annotations

import os
from pathlib import Path

PRIVATE = 0o600
"""Only the owner reads it. The default: most of what a node writes is keys, or names their places."""


def write(path: Path, content: bytes | str, *, mode: int = PRIVATE, synced: bool = True) -> None:
    """Puts `content` at `path` by renaming a finished file over it.

    The mode holds whatever the umask says. With `synced` the content survives
    a crash of the machine; without, only of this process. One writer per path
    at a time. Raises OSError, and then leaves what was there before.
    """
    data = content.encode() if isinstance(content, str) else content
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    draft.unlink(missing_ok=True)
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            if synced:
                file.flush()
                os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    if synced:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
