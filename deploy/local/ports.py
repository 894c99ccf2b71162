"""Ports on the loopback interface: which are free, and who holds one that is not."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Collection, Iterable
from pathlib import Path

from deploy import files
from deploy.local import procfs
from deploy.local.problems import NodeProblem

LOOPBACK = "127.0.0.1"

LOWEST = 15_000
"""Below lie the ports that other programs have as their defaults."""

TRIES = 200
"""Far more than it takes unless nearly everything is taken."""


def is_free(port: int) -> bool:
    """Whether a server could listen on this port now. Raises PermissionError for a port that needs privileges."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except PermissionError:
            raise
        except OSError:
            return False
    return True


def free(*, but: Collection[int] = ()) -> int:
    """A port that is free, at random, and none of `but`.

    It lies outside the range from which the kernel takes the source ports of
    connections: another program's connection could otherwise be given it before
    a server listens, and a client that retries while its server restarts could
    be given the server's port, and connect to itself.
    """
    for _ in range(TRIES):
        port = random.randrange(LOWEST, _highest())  # noqa: S311 - not a secret
        if port not in but and is_free(port):
            return port
    raise NodeProblem(
        f"no free port found from {LOWEST} to {_highest()}", "end what holds them, or restart the machine"
    )


def choose(file: Path, names: Iterable[str]) -> dict[str, int]:
    """A port for each name: the one remembered in `file` while it is free, else another. Remembers the answer."""
    remembered = _remembered(file)
    chosen: dict[str, int] = {}
    for name in names:
        port = remembered.get(name)
        if port is None or port in chosen.values() or not is_free(port):
            port = free(but={*chosen.values(), *remembered.values()})
        chosen[name] = port
    if chosen != remembered:
        files.write(file, json.dumps(chosen, indent=2) + "\n")
    return chosen


def check_public(port: int) -> None:
    """Raises NodeProblem where the edge could not listen on `port`, naming the holder if it can be seen."""
    other = "or choose another port with SOLMU_EDGE_PORT"
    try:
        if is_free(port):
            return
    except PermissionError as error:
        raise NodeProblem(
            f"port {port} needs privileges that this user has not", f"run as root, {other} (1024 or more)"
        ) from error
    holder = procfs.listener(port)
    by = f"by {holder}" if holder else "by a process of another user"
    raise NodeProblem(f"port {port} is taken {by}", f"end that process, {other} (0: any that is free)")


def _remembered(file: Path) -> dict[str, int]:
    try:
        content = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return {str(name): int(port) for name, port in content.items()} if isinstance(content, dict) else {}


def _highest() -> int:
    """Where the kernel's range of source ports begins; the usual place where it begins too low to leave room."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    return first if first > LOWEST + TRIES else 32_768
