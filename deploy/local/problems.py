"""What an operator can mend: said in words, with what to do next, never as a traceback."""

from __future__ import annotations

import errno


class NodeProblem(Exception):
    """The node cannot go on. `message` says why, `remedy` what to do, `log` the last lines that bear on it."""

    def __init__(self, message: str, remedy: str, *, log: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.log = log

    def __str__(self) -> str:
        lines = [self.message, *(f"    {line}" for line in self.log.splitlines()), f"What to do: {self.remedy}"]
        return "\n".join(lines)


DISK_FULL = "No space left on device"
"""The text of ENOSPC, as it also stands in the logs of the engines."""


def of_os_error(error: OSError, doing: str) -> NodeProblem:
    """The problem behind an operating system error that happened while `doing`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NodeProblem(f"the disk is full ({doing})", "free some space, then run the same command again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return NodeProblem(
            f"{error.filename or doing}: {error.strerror}",
            "run as the user who owns the state folder, or name another folder with SOLMU_STATE",
        )
    return NodeProblem(f"{doing}: {error}", "mend that, then run the same command again")
