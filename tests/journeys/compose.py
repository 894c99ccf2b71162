"""Nodes in compose, as tests start them: each a project of its own, on free ports of the loopback interface."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.local import ports
from deploy.local.plan import SOURCE
from deploy.local.state import State

PORTS = ("SOLMU_EDGE_PORT", "SOLMU_BROWSER_PORT", "SOLMU_PEER_PORT", "SOLMU_GRAFANA_PORT")
NODE = SOURCE / "deploy/compose.yaml"
STAND_INS = SOURCE / "tests/images"
READY_WITHIN = 300
"""Seconds for a node to be healthy."""


@dataclass(frozen=True)
class Project:
    """A node in compose, under a name and on a port of its own."""

    name: str
    environment: Mapping[str, str]
    files: Sequence[Path] = ()
    """Compose files beside that of the node."""

    def compose(self, *arguments: str) -> str:
        """Runs docker compose; what it printed. Fails with what it said."""
        files = [option for file in (NODE, *self.files) for option in ("-f", str(file))]
        command = ["docker", "compose", "-p", self.name, *files, *arguments]
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def up(self, *services: str) -> None:
        """Starts what does not run as the files have it; returns when all is healthy."""
        self.compose("up", "--detach", "--wait", "--wait-timeout", str(READY_WITHIN), *services)

    def inspect(self, service: str) -> dict:
        """What the engine knows of the container of a service."""
        container = self.compose("ps", "--all", "--quiet", service).strip()
        found: list[dict] = json.loads(subprocess.check_output(["docker", "inspect", container]))
        return found[0]

    @property
    def edge(self) -> str:
        """The origin of the edge."""
        return f"https://localhost:{self.environment['SOLMU_EDGE_PORT']}"

    def state(self, folder: Path) -> State:
        """A copy of the node's state: authorities and clients."""
        shutil.rmtree(folder, ignore_errors=True)
        self.compose("cp", "prepare:/var/lib/solmu", str(folder))
        return State(folder)


def engine() -> bool:
    """Whether a Docker engine answers, and has compose."""
    asked = (["docker", "version"], ["docker", "compose", "version"])
    return shutil.which("docker") is not None and not any(
        subprocess.run(command, capture_output=True, check=False).returncode for command in asked
    )


def needed() -> None:
    """Skips where no Docker engine answers."""
    if not engine():
        pytest.skip("no Docker engine with compose answers on this machine")


@contextmanager
def started(name: str, *files: Path, **environment: str) -> Iterator[Project]:
    """A node for the time of the block; its volumes go with it."""
    project = Project(
        f"solmu-test-{os.getpid()}-{name}",
        {
            "SOLMU_EDGE_ADDRESS": "127.0.0.1",
            "SOLMU_TEST_MODE": "yes",
            **{port: str(ports.free()) for port in PORTS},
            **environment,
        },
        files,
    )
    try:
        project.up()
        yield project
    finally:
        project.compose("--profile", "telemetry", "down", "--volumes", "--timeout", "30")
