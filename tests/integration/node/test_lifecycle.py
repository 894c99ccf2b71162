"""The node's commands as a person types them: up, status, down, and what they say when something is in the way."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy.local import plan, ports

COMMAND = [sys.executable, "-m", "deploy.local"]


class Terminal:
    """A terminal in the folder of the clone, with a state folder of its own."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.port = ports.free()

    def run(self, *arguments: str, port: int | None = None) -> subprocess.CompletedProcess[str]:
        """Runs a command of the node."""
        settings = {"SOLMU_STATE": str(self.state), "SOLMU_EDGE_PORT": str(port or self.port)}
        return self.paste(shlex.join([*COMMAND, *arguments]), **settings)

    def paste(self, line: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs a line as pasted."""
        return subprocess.run(
            shlex.split(line),
            cwd=plan.SOURCE,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def processes(self) -> dict[str, int]:
        """The pids that the node tells."""
        told = json.loads((self.state / "run" / "node.json").read_text())
        return {name: process["birth"]["pid"] for name, process in told["processes"].items() if process.get("birth")}

    def supervisor(self) -> int:
        """The supervisor's pid."""
        return int(json.loads((self.state / "run" / "node.json").read_text())["supervisor"]["pid"])


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal(tmp_path / "state")
    yield opened
    opened.run("down")


def first_command(told: str) -> str:
    found = re.search(r"^ +try +(.+)$", told, re.MULTILINE)
    assert found
    return found[1].replace(".venv/bin/solmu", f"{Path(sys.executable).parent}/solmu")


def test_a_node_comes_up_goes_down_and_comes_back_with_its_state(terminal: Terminal):
    assert terminal.run("status").returncode == 3
    up = terminal.run("up")
    assert up.returncode == 0, up.stderr
    assert f"https://localhost:{terminal.port}" in up.stdout
    assert str(terminal.state / "clients" / "permits") in up.stdout
    tried = terminal.paste(first_command(up.stdout))
    assert tried.returncode == 0, tried.stderr
    unit = json.loads(tried.stdout)
    assert unit["name"] == "units/permits"

    again = terminal.run("up")
    assert (again.returncode, "runs already" in again.stdout) == (0, True)
    assert f"https://localhost:{terminal.port}" in again.stdout
    status = terminal.run("status")
    assert status.returncode == 0
    assert all(name in status.stdout for name in ("postgres", "nats", "messages", "gateway", "envoy"))

    pids = terminal.processes()
    assert terminal.run("down").returncode == 0
    assert not any(psutil.pid_exists(pid) for pid in pids.values())
    assert terminal.run("status").returncode == 3

    back = terminal.run("up")
    assert back.returncode == 0, back.stderr
    assert json.loads(terminal.paste(first_command(back.stdout)).stdout) == unit


def test_a_node_whose_supervisor_was_killed_leaves_nothing_in_the_way(terminal: Terminal):
    assert terminal.run("up").returncode == 0
    os.kill(terminal.supervisor(), signal.SIGKILL)
    assert terminal.run("status").returncode == 3
    back = terminal.run("up")
    assert back.returncode == 0, back.stderr
    assert terminal.run("status").returncode == 0


def test_a_port_that_is_taken_is_named_with_what_to_do(terminal: Terminal):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused = terminal.run("up", port=taken.getsockname()[1])
    assert refused.returncode == 1
    assert "SOLMU_EDGE_PORT" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert terminal.run("status").returncode == 3


def test_settings_that_are_wrong_are_all_named(terminal: Terminal):
    environment = {"SOLMU_EDGE_PORT": "a lot", "SOLMU_ENVOY": "/nowhere/envoy", "SOLMU_STATE": str(terminal.state)}
    refused = terminal.paste(shlex.join([*COMMAND, "up"]), **environment)
    assert refused.returncode == 1
    assert "SOLMU_EDGE_PORT" in refused.stderr
    assert "SOLMU_ENVOY" in refused.stderr
    assert "Traceback" not in refused.stderr
