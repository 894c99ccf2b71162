"""The table of `status`: one line per process of the node."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from deploy.local import procfs
from deploy.local.report import ProcessReport, Report
from deploy.local.supervisor import Condition

HEAD = ("process", "state", "pid", "uptime", "restarts", "memory")


def of(report: Report) -> str:
    """The table, with the memory of each process measured now (PSS: shared pages counted in part)."""
    now = datetime.now(UTC)
    memory = {
        name: procfs.family_memory_bytes(process.birth.pid) if process.birth else None
        for name, process in report.processes.items()
    }
    own = procfs.memory_bytes(report.supervisor.pid)
    rows = [
        HEAD,
        *(_row(name, process, memory[name], now) for name, process in report.processes.items()),
        ("supervisor", "", str(report.supervisor.pid), _duration(now - report.began), "", _megabytes(own)),
        ("", "", "", "", "", _megabytes(sum(filter(None, (own, *memory.values()))))),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    errors = [f"{name}: {process.error}" for name, process in report.processes.items() if process.error]
    return "\n".join([*lines, *errors])


def is_well(process: ProcessReport) -> bool:
    """Whether the supervisor found it ready, and it is still there (on a full disk the report may be old)."""
    return process.condition is Condition.READY and process.birth is not None and process.birth.is_alive()


def _row(name: str, process: ProcessReport, memory: int | None, now: datetime) -> tuple[str, ...]:
    pid = str(process.birth.pid) if process.birth else "-"
    uptime = _duration(now - process.since) if process.birth else "-"
    state = process.condition if is_well(process) or process.condition is not Condition.READY else "gone"
    return name, state, pid, uptime, str(process.restarts), _megabytes(memory)


def _duration(time: timedelta) -> str:
    hours, seconds = divmod(int(time.total_seconds()), 3600)
    return f"{hours}:{seconds // 60:02}:{seconds % 60:02}"


def _megabytes(memory: int | None) -> str:
    return "-" if memory is None else f"{memory / 1_000_000:.0f} MB"
