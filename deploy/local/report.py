"""run/node.json: what the supervisor tells about the node, for `up`, `down`, `status` and tests to read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from deploy import files
from deploy.local import procfs
from deploy.local.problems import NodeProblem
from deploy.local.procfs import Birth
from deploy.local.supervisor import Condition, Keeper


class Phase(StrEnum):
    """Where a node is between up and down."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class ProcessReport:
    """One process."""

    condition: Condition
    birth: Birth | None
    """Which process it is; None while none runs."""
    command: tuple[str, ...]
    since: datetime
    restarts: int
    ready_after: float | None
    """Seconds from its latest start to ready."""
    error: str | None
    log: str

    @classmethod
    def of(cls, keeper: Keeper) -> Self:
        """What is known of a process now."""
        return cls(
            condition=keeper.condition,
            birth=Birth.of(keeper.pid) if keeper.pid is not None else None,
            command=tuple(keeper.process.command),
            since=keeper.since,
            restarts=keeper.restarts,
            ready_after=keeper.ready_after,
            error=keeper.error,
            log=str(keeper.log),
        )

    def survivor(self) -> Birth | None:
        """The process, if it still runs: the same number, time of start and command line."""
        if self.birth is None or not self.birth.is_alive():
            return None
        return self.birth if procfs.command_line(self.birth.pid) == list(self.command) else None


@dataclass(frozen=True, kw_only=True)
class Report:
    """The node."""

    phase: Phase
    supervisor: Birth
    began: datetime
    edge: str = ""
    """The public origin; empty until it is known."""
    ready_after: float | None = None
    """Seconds from the supervisor's start to the last process ready."""
    problem: Mapping[str, str] | None = None
    """What ended it: message, remedy and log of a NodeProblem."""
    warning: str | None = None
    ports: Mapping[str, int] = field(default_factory=dict)
    processes: Mapping[str, ProcessReport] = field(default_factory=dict)

    def raise_problem(self) -> None:
        """Raises the NodeProblem that ended the node, if one did."""
        if self.problem is not None:
            raise NodeProblem(self.problem["message"], self.problem["remedy"], log=self.problem["log"])

    def write(self, path: Path) -> None:
        """Writes it, unsynced: after a crash of the machine nothing of it is true any more. Raises OSError."""
        files.write(path, json.dumps(asdict(self), indent=2, default=_plain) + "\n", synced=False)

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The latest report; None where there is none, or one of another release that cannot be read."""
        try:
            content = json.loads(path.read_text())
            content["phase"] = Phase(content["phase"])
            content["supervisor"] = Birth(**content["supervisor"])
            content["began"] = datetime.fromisoformat(content["began"])
            content["processes"] = {name: _process(entry) for name, entry in content["processes"].items()}
            return cls(**content)
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None


def _process(entry: dict[str, Any]) -> ProcessReport:
    entry["condition"] = Condition(entry["condition"])
    entry["birth"] = Birth(**entry["birth"]) if entry["birth"] else None
    entry["command"] = tuple(entry["command"])
    entry["since"] = datetime.fromisoformat(entry["since"])
    return ProcessReport(**entry)


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no form in JSON")
