"""A terminal, as a person has it before them: a program runs on it, keys are typed, and what it shows is read."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from typing import Self

PATIENCE = 60.0
"""Seconds within which what is waited for has come, also on a slow machine."""


_ENVIRONMENT = {"TERM": "dumb", "PYTHONUTF8": "1"}


class Session:
    """A program on a terminal of so many columns; it is ended with the session."""

    def __init__(self, *program: str, columns: int) -> None:
        self._program = program
        self._columns = columns
        self.shown = ""

    def __enter__(self) -> Self:
        self._pid, self._terminal = pty.fork()
        if not self._pid:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # who started the tests may have had it ignored
            # Its width has to be right before the program asks.
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, self._columns, 0, 0))
            os.execvpe(self._program[0], self._program, os.environ | _ENVIRONMENT)  # noqa: S606 - no shell
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._terminal)  # which hangs up
        if self._pid:
            os.waitpid(self._pid, 0)

    def type(self, keys: str) -> None:
        """As if by hand."""
        os.write(self._terminal, keys.encode())

    def wait_for(self, text: str) -> None:
        """Reads until it is shown; what was shown before it is gone from `shown`."""
        end = time.monotonic() + PATIENCE
        while text not in self.shown:
            if not self._read(end - time.monotonic()):
                raise AssertionError(f"{text!r} did not come after {self.shown[-2000:]!r}")
        self.shown = self.shown.partition(text)[2]

    def wait_for_end(self) -> int:
        """Reads all that is shown until the program is over; its exit status."""
        end = time.monotonic() + PATIENCE
        while self._read(end - time.monotonic()):
            pass
        if time.monotonic() >= end:
            raise AssertionError(f"it did not end after {self.shown[-2000:]!r}")
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        return os.waitstatus_to_exitcode(status)

    def _read(self, seconds: float) -> bool:
        """More of what is shown; False where there is no more, or not in time."""
        if not select.select([self._terminal], [], [], max(0, seconds))[0]:
            return False
        try:
            piece = os.read(self._terminal, 65536)
        except OSError:  # what Linux says when the program is over
            return False
        self.shown += piece.decode(errors="replace")
        return bool(piece)


def output(*program: str, columns: int) -> str:
    """What a program shows from its beginning to its end."""
    with Session(*program, columns=columns) as session:
        session.wait_for_end()
        return session.shown
