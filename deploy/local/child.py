"""One child process: how it is started, bound to its parent, written down in a log, and ended. Linux only."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from deploy.local.privileges import SELF, Account
from deploy.local.probes import Probe

LOG_BYTES = 16_000_000
"""Where a log is turned over. One older log is kept: a week of a quiet node, some minutes of a benchmark."""

TAIL_LINES = 12
"""Lines of a log shown with a failure: the exception and what led to it."""

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a process gets when the thread that started it ends."""

_libc = ctypes.CDLL(None, use_errno=True)

Hook = Callable[[], Awaitable[None]]


async def nothing() -> None:
    """The hook that does nothing."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """What the supervisor has to know of a process."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    """Its whole environment."""
    folder: Path
    """Where it is started."""
    probe: Probe
    after: tuple[str, ...] = ()
    """The processes that must be ready before it starts, and stop only after it."""
    prepare: Hook = nothing
    """Before every start. Raises NodeProblem where there is no use in trying."""
    settle: Hook = nothing
    """After the probe first succeeds and before others may count on it."""
    drain: Hook = nothing
    """Before it is told to stop, while it still works."""
    account: Account = SELF
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    """What it gets when the supervisor is killed."""
    grace: float = 30.0
    """Seconds from the stop signal to SIGKILL."""
    ready_within: float = 60.0
    """Seconds from start to ready, before it counts as failed."""


async def start(process: Process, log: Path) -> asyncio.subprocess.Process:
    """Starts a child in a session of its own, with its output appended to `log`. Raises OSError."""
    account = process.account
    # A file and no pipe: a supervisor that stands still must not stop its children.
    with appending(log) as output:
        return await asyncio.create_subprocess_exec(
            *account.prefix,
            *process.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(process.environment),
            cwd=process.folder,
            umask=0o077,
            start_new_session=True,
            preexec_fn=bound_to_parent(process.death_signal),
            user=account.uid,
            group=account.gid,
            extra_groups=account.extra_groups,
        )


def bound_to_parent(death_signal: signal.Signals) -> Callable[[], None]:
    """What a child does between fork and exec, so that it never outlives this process.

    It runs after the change of user, which would undo it. Only system calls,
    on values made here: other threads of the parent are not there any more,
    and a lock that one of them held would never open.
    """
    parent = os.getpid()
    number = int(death_signal)
    prctl, getppid, leave = _libc.prctl, os.getppid, os._exit

    def bind() -> None:
        prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
        if getppid() != parent:  # it died before the line above
            leave(1)

    return bind


async def end(process: Process, child: asyncio.subprocess.Process) -> None:
    """Ends a child: lets it drain, tells it to stop, and kills what is left of its session after the grace."""
    with contextlib.suppress(Exception):  # it may be too ill to drain; then it just stops
        await asyncio.wait_for(process.drain(), process.grace)
    with contextlib.suppress(ProcessLookupError):
        child.send_signal(process.stop_signal)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(child.wait(), process.grace)
    kill_session(child.pid)
    await child.wait()


def kill_session(leader: int) -> None:
    """Kills every process in the group of a child that we started as leader of its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def turn_over(log: Path, *, limit: int = LOG_BYTES) -> None:
    """Moves the content of a log that has grown past `limit` bytes to `<log>.1`.

    The file is emptied and not replaced, because its writers hold it open (they
    append, so they go on at its new end). What they write between the copy and
    the emptying, some microseconds, is lost. Raises OSError, for instance on a
    full disk, and then leaves the log as it was.
    """
    if not log.exists() or log.stat().st_size <= limit:
        return
    draft = log.with_name(log.name + ".new")
    shutil.copyfile(log, draft)
    draft.chmod(0o600)
    draft.replace(log.with_name(log.name + ".1"))
    os.truncate(log, 0)


def tail(log: Path, *, start: int = 0, lines: int = TAIL_LINES) -> str:
    """The last lines of a log, from byte `start` at the earliest."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start if start <= size else 0, size - 16_384))
            content = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(content.splitlines()[-lines:])


def appending(log: Path) -> IO[bytes]:
    """A log, made for its owner only if it is not there, to be written at its end."""
    return os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")
