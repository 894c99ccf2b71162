"""`up`, `down`, `status`, `demo`, `keys`, `config` and `logs`: the node on this machine.

The node is run by `deploy`, of which this package knows nothing but that it
can be started: `python -m deploy.local`, with the same environment.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.client.command.output import Output, UsageError

SOURCE = Path(__file__).parents[3]
"""The clone, in which the node's programs are found."""

LINES = 20
"""Lines of a log that are shown, as `tail` shows 10."""

TAIL_BYTES = 1 << 20
"""How much of the end of a log is read for them."""

LOOK_SECONDS = 0.2

_PROGRAMS = {
    "up": (["deploy.local", "up"], "start the node on this machine; return when it is ready"),
    "down": (["deploy.local", "down"], "stop it; its state stays"),
    "status": (["deploy.local", "status"], "show its processes; exit 0 if all are ready, 3 if none runs"),
    "demo": (["deploy.local.demo"], "send a decision to a resident, on a node that is started if need be"),
}


def add(commands: Any) -> None:
    """Adds the commands."""
    for name, (_, help_text) in _PROGRAMS.items():
        commands.add_parser(name, help=help_text).set_defaults(local=_program)
    keys = commands.add_parser("keys", help="show what wraps the node's keys, and move them to another root")
    keys.add_argument("arguments", nargs="*", default=["show"], metavar="show | make | wrap | drop | renew | wrap-file")
    keys.set_defaults(local=lambda given, _: start(["deploy.local.keys", *given.arguments]))
    settings = commands.add_parser("config", help="check the settings: all faults at once; exit 78 where there are any")
    settings.add_argument("action", choices=["check"])
    settings.add_argument(
        "processes", nargs="*", metavar="PROCESS", help="such as messages (default: this machine's node)"
    )
    settings.set_defaults(local=lambda given, _: start(["deploy.config", given.action, *given.processes]))
    logs = commands.add_parser("logs", help="show what the node's processes said")
    logs.add_argument("processes", nargs="*", metavar="PROCESS", help="such as messages, envoy (default: all)")
    logs.add_argument("-n", "--lines", type=int, default=LINES, help=f"lines of each (default: {LINES})")
    logs.add_argument("-f", "--follow", action="store_true", help="go on as they say more")
    logs.set_defaults(local=_logs)


def start(module: list[str], *, into: Path | None = None) -> int:
    """Runs a program of the node's to its end, in the clone, on this terminal; what it prints may go into a file."""
    environment = os.environ | {"SOLMU_STATE": str(state_folder())}
    command = [sys.executable, "-m", *module]
    done = subprocess.run(  # noqa: S603 - a program of this clone, and no shell
        command, cwd=SOURCE, env=environment, stdout=subprocess.PIPE if into else None, check=False
    )
    if into and done.returncode == 0:
        into.write_bytes(done.stdout)
    return done.returncode


def state_folder() -> Path:
    """Where the node keeps all that it has."""
    return Path(os.environ.get("SOLMU_STATE", SOURCE / ".solmu")).absolute()


def _program(given: argparse.Namespace, _: Output) -> int:
    return start(_PROGRAMS[given.command][0])


def _logs(given: argparse.Namespace, _: Output) -> int:
    folder = state_folder() / "log"
    there = {path.stem: path for path in sorted(folder.glob("*.log"))}
    if unknown := set(given.processes) - there.keys():
        raise UsageError(f"no log of {', '.join(sorted(unknown))} in {folder}; there are: {', '.join(there) or 'none'}")
    chosen = {name: there[name] for name in given.processes or there}
    width = max(map(len, chosen), default=0)
    places = {}
    for name, path in chosen.items():
        lines, places[name] = _last(path, given.lines)
        for line in lines:
            print(f"{name.ljust(width)}  {line}")
    while given.follow:
        time.sleep(LOOK_SECONDS)
        for name, path in chosen.items():
            for line, place in _after(path, places[name]):
                places[name] = place
                print(f"{name.ljust(width)}  {line}", flush=True)
    return 0


def _last(path: Path, count: int) -> tuple[list[str], int]:
    """The last lines, and where the file ended."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - TAIL_BYTES))
        lines = file.read(TAIL_BYTES).decode(errors="replace").splitlines()
    return lines[-count:] if count else [], end


def _after(path: Path, place: int) -> Iterator[tuple[str, int]]:
    """Whole lines behind a place, each with the place behind it; from the start where the file was turned over."""
    if path.stat().st_size < place:
        place = 0
    with path.open("rb") as file:
        file.seek(place)
        for line in file:
            if line.endswith(b"\n"):
                place += len(line)
                yield line.decode(errors="replace").rstrip("\n"), place
