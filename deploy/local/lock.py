"""The lock that makes sure that one supervisor at a time runs a state folder.

The kernel holds it for the supervisor and lets it go when that ends, however
it ends, so a killed node leaves none behind.
"""

from __future__ import annotations

import fcntl
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import IO

from deploy.local.procfs import Birth

ACQUIRE_WITHIN = 1.0
"""Seconds to keep trying: somebody who only asks whether it is held, holds it for a moment."""


class Held(Exception):
    """Another supervisor runs this state folder."""


class Lock:
    """The lock of one state folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Takes the lock for this process. Raises Held."""
        file = self._path.open("a+")
        deadline = time.monotonic() + ACQUIRE_WITHIN
        while not _try(file, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                file.close()
                raise Held
            time.sleep(0.02)
        file.truncate(0)
        file.write(json.dumps(asdict(Birth.current())))
        file.flush()
        self._file = file

    def release(self) -> None:
        """Lets the lock go. Without effect where this process does not hold it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def holder(self) -> Birth | None:
        """Who holds the lock; None if nobody does, or its holder is only just taking it."""
        try:
            with self._path.open() as file:
                if _try(file, fcntl.LOCK_SH):
                    return None
                return Birth(**json.load(file))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def is_held(self) -> bool:
        """Whether a supervisor, of this process or another, holds the lock."""
        try:
            with self._path.open() as file:
                return not _try(file, fcntl.LOCK_SH)
        except FileNotFoundError:
            return False


def _try(file: IO[str], kind: int) -> bool:
    """Takes the lock if it is free: for oneself, or (LOCK_SH) together with others who only ask."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
