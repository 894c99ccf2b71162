"""What Linux tells about processes, read from /proc: who is who, and how much memory they take."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")

CONTROL_GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""What a container may use, or `max`; at the root of a machine there is no such file."""

LISTEN = "0A"
"""State of a listening socket in /proc/net/tcp."""


@dataclass(frozen=True)
class Birth:
    """Which process a number meant: numbers are used again, this pair is not."""

    pid: int
    ticks: int
    """Clock ticks from the start of the machine to the start of the process."""

    @classmethod
    def of(cls, pid: int) -> Birth | None:
        """The process that has this number now; None if none has, or it is dead and only waits to be reaped."""
        fields = _stat(pid)
        if fields is None or fields[0] in ("Z", "X"):
            return None
        return cls(pid, int(fields[19]))

    @classmethod
    def current(cls) -> Birth:
        """This process."""
        birth = cls.of(os.getpid())
        if birth is None:
            raise FileNotFoundError("this process is not in /proc")
        return birth

    def is_alive(self) -> bool:
        """Whether that very process still runs."""
        return Birth.of(self.pid) == self


def command_line(pid: int) -> list[str]:
    """The command and its arguments; empty for a process that is gone or not ours to see."""
    try:
        content = (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return []
    return [part.decode(errors="replace") for part in content.split(b"\0") if part]


def working_folder(pid: int) -> Path | None:
    """Where a process stands; None if it is gone or not ours to see."""
    try:
        return (PROC / str(pid) / "cwd").readlink()
    except OSError:
        return None


def pids() -> list[int]:
    """All processes of the machine."""
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for other in pids():
        fields = _stat(other)
        if fields is not None:
            children.setdefault(int(fields[1]), []).append(other)
    found = [pid]
    for member in found:
        found.extend(children.get(member, ()))
    return found


def memory_bytes(pid: int) -> int | None:
    """Memory of one process, pages that it shares with others counted in part (PSS). None if it cannot be seen."""
    try:
        rollup = (PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return None
    return sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))


def family_memory_bytes(pid: int) -> int | None:
    """Memory of a process and of all that descend from it."""
    own = memory_bytes(pid)
    if own is None:
        return None
    return own + sum(memory_bytes(member) or 0 for member in family(pid)[1:])


def memory() -> int:
    """Bytes of memory that this machine has, or that this container may use."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(machine, int(CONTROL_GROUP_LIMIT.read_text()))
    except (OSError, ValueError):
        return machine


def listener(port: int) -> str | None:
    """Who listens on a TCP port: "envoy (pid 4711)". None where that cannot be seen."""
    sockets = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _listening(table, port)}
    for pid in pids():
        try:
            descriptors = list((PROC / str(pid) / "fd").iterdir())
            held = any(str(descriptor.readlink()) in sockets for descriptor in descriptors)
        except OSError:
            continue
        if held:
            name = (PROC / str(pid) / "comm").read_text().strip()
            return f"{name} (pid {pid})"
    return None


def end(process: Birth, *, first: signal.Signals, grace: float) -> None:
    """Ends a process that is not our child: `first`, and SIGKILL when it has not gone after `grace` seconds."""
    for number in (first, signal.SIGKILL):
        deadline = time.monotonic() + grace
        if not _send(process, number):
            return
        while process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)


def _send(process: Birth, number: signal.Signals) -> bool:
    if not process.is_alive():
        return False
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat from the third on: state, parent, ... (proc(5))."""
    try:
        content = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    return content.rpartition(")")[2].split()


def _listening(table: str, port: int) -> list[str]:
    try:
        lines = (PROC / "net" / table).read_text().splitlines()[1:]
    except OSError:
        return []
    rows = (line.split() for line in lines)
    return [row[9] for row in rows if row[3] == LISTEN and int(row[1].rpartition(":")[2], 16) == port]
