"""Envoy of the embedded node: how it is started, asked and emptied before it stops.

Its configuration is the gateway's: `gateway/` renders it into the folder `edge`
before Envoy starts, and follows up there while it runs. Only the
administration interface is settled here, because the supervisor is its one
user: a unix socket that nobody else may open.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import stat
import tempfile
import time
from pathlib import Path

from deploy.local import probes
from deploy.local.engines import Engine
from deploy.local.ports import LOOPBACK
from deploy.local.problems import NodeProblem

BOOTSTRAP = "bootstrap.json"
"""The file in the folder `edge` from which Envoy starts; the gateway renders it."""

WORKERS = 1
"""One carries some thousand calls a second, more than the services behind it; each costs memory."""

SOCKET_PATH_LIMIT = 100
"""Longest path of a unix socket in bytes: the kernel takes 107 and a closing zero."""

DRAIN_WITHIN = 5.0
"""Seconds for the calls under way to end before Envoy stops. Longer streams break off, and are resumed."""

PROBE_EVERY = 0.05
"""Seconds between two looks at how many calls are under way."""


def admin_socket(run: Path) -> Path:
    """Where the administration listens: in `run`, or where that path is too long, in the folder for temporary files.

    Raises NodeProblem where another user has taken that place.
    """
    path = run / "envoy.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT:
        return path
    digest = hashlib.sha256(os.fsencode(run)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"solmu-{os.geteuid()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise NodeProblem(f"{folder} is not a private folder of this user", f"remove {folder}, or set TMPDIR")
    return folder / "envoy.sock"


def command(*, engine: Engine, edge: Path, socket: Path) -> list[str]:
    """How Envoy is started, from what the gateway rendered into `edge`."""
    administration = {"admin": {"address": {"pipe": {"path": str(socket), "mode": 0o600}}}}
    return [
        *(str(engine.program), "--config-path", str(edge / BOOTSTRAP)),
        # Laid over what the gateway rendered.
        *("--config-yaml", json.dumps(administration)),
        *("--concurrency", str(WORKERS), "--log-level", "warning"),
        # The errors of this component are refusals of single requests, with their query strings; the access log has
        # the rest of them.
        *("--component-log-level", "http:critical"),
        *("--file-flush-interval-msec", "1000"),
        # One process by itself: no memory shared with a predecessor, no clash with another node's.
        "--disable-hot-restart",
        *("--drain-strategy", "immediate", "--drain-time-s", str(int(DRAIN_WITHIN))),
    ]


async def prepare(socket: Path) -> None:
    """Takes away the socket that a killed Envoy left."""
    _remove(socket)


def forget(socket: Path, run: Path) -> None:
    """Takes away the socket of a node that is down, and the folder made for it."""
    _remove(socket)
    if socket.parent != run:
        with contextlib.suppress(OSError):
            socket.parent.rmdir()


def live(socket: Path, *, port: int) -> probes.Probe:
    """Envoy has its configuration, and listens on the public port: it says ready even where it refused a listener."""

    async def probe() -> None:
        await probes.administer(socket, "GET", "/ready")
        _, writer = await asyncio.open_connection(LOOPBACK, port)
        writer.close()
        await writer.wait_closed()

    return probe


async def drain(socket: Path) -> None:
    """Tells clients to go, takes no more connections, and returns when all calls have ended or time is over."""
    await probes.administer(socket, "POST", "/drain_listeners?graceful&skip_exit")
    await probes.administer(socket, "POST", "/drain_listeners")
    deadline = time.monotonic() + DRAIN_WITHIN
    while time.monotonic() < deadline and await _calls_under_way(socket) > 0:  # noqa: ASYNC110 - of another process
        await asyncio.sleep(PROBE_EVERY)


async def _calls_under_way(socket: Path) -> int:
    body = await probes.administer(socket, "GET", "/stats?format=json&type=Gauges&filter=downstream_rq_active$")
    statistics = json.loads(body)["stats"]
    # The administration counts the very call that asks.
    return sum(entry["value"] for entry in statistics if not entry["name"].startswith("http.admin."))


def _remove(socket: Path) -> None:
    socket.unlink(missing_ok=True)
