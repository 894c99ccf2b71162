"""What the supervisor leaves for others to read, and the lock that says whether it is there."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deploy.local import lock, procfs, table
from deploy.local.lock import Held, Lock
from deploy.local.problems import NodeProblem
from deploy.local.procfs import Birth
from deploy.local.report import Phase, ProcessReport, Report
from deploy.local.supervisor import Condition

SLEEPER = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"]


def report(process: ProcessReport) -> Report:
    return Report(
        phase=Phase.READY,
        supervisor=Birth.current(),
        began=datetime.now(UTC),
        edge="https://localhost:8443",
        ready_after=1.5,
        ports={"nats": 4222},
        processes={"sleeper": process},
    )


def process(birth: Birth | None, *, command: tuple[str, ...] = tuple(SLEEPER)) -> ProcessReport:
    return ProcessReport(
        condition=Condition.READY,
        birth=birth,
        command=command,
        since=datetime.now(UTC),
        restarts=2,
        ready_after=0.5,
        error=None,
        log="/log",
    )


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(SLEEPER)
    yield child
    child.kill()
    child.wait()


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = report(process(Birth.current()))
    written.write(tmp_path / "node.json")
    assert Report.read(tmp_path / "node.json") == written


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"phase": "dancing"}'])
def test_what_cannot_be_read_is_no_report(tmp_path: Path, content: str) -> None:
    (tmp_path / "node.json").write_text(content)
    assert Report.read(tmp_path / "node.json") is None
    assert Report.read(tmp_path / "none.json") is None


def test_it_carries_the_problem_that_ended_the_node() -> None:
    failed = Report(
        phase=Phase.FAILED,
        supervisor=Birth.current(),
        began=datetime.now(UTC),
        problem={"message": "it broke", "remedy": "mend it", "log": "crack"},
    )
    with pytest.raises(NodeProblem, match="it broke\n    crack\nWhat to do: mend it"):
        failed.raise_problem()


def test_a_survivor_is_known_by_its_birth_and_its_command(sleeper: subprocess.Popen[bytes]) -> None:
    birth = Birth.of(sleeper.pid)
    assert birth is not None
    assert process(birth).survivor() == birth
    assert process(Birth(birth.pid, birth.ticks + 1)).survivor() is None
    assert process(birth, command=("postgres",)).survivor() is None
    assert process(None).survivor() is None


def test_a_survivor_is_ended_even_if_it_stands_still(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.send_signal(signal.SIGSTOP)
    birth = Birth.of(sleeper.pid)
    assert birth is not None
    procfs.end(birth, first=signal.SIGTERM, grace=0.2)
    assert not birth.is_alive()


def test_the_table_shows_each_process_and_the_whole(sleeper: subprocess.Popen[bytes]) -> None:
    lines = table.of(report(process(Birth.of(sleeper.pid)))).splitlines()
    assert lines[0].split() == ["process", "state", "pid", "uptime", "restarts", "memory"]
    assert lines[1].split()[:5] == ["sleeper", "ready", str(sleeper.pid), "0:00:00", "2"]
    assert lines[2].split()[0] == "supervisor"


def test_a_process_that_has_gone_unseen_is_not_well(sleeper: subprocess.Popen[bytes]) -> None:
    birth = Birth.of(sleeper.pid)
    sleeper.kill()
    sleeper.wait()
    assert not table.is_well(process(birth))
    assert table.of(report(process(birth))).splitlines()[1].split()[1] == "gone"


class TestLock:
    """One supervisor per state folder."""

    def test_it_is_held_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lock, "ACQUIRE_WITHIN", 0.05)
        first, second = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
        assert not second.is_held()
        first.acquire()
        assert second.is_held()
        assert second.holder() == Birth.current()
        with pytest.raises(Held):
            second.acquire()
        first.release()
        second.acquire()
        second.release()

    def test_a_killed_holder_leaves_it_free(self, tmp_path: Path) -> None:
        script = (
            "import sys, time; from pathlib import Path; from deploy.local.lock import Lock\n"
            "held = Lock(Path(sys.argv[1])); held.acquire(); print('held', flush=True); time.sleep(60)"
        )
        holder = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "lock")],
            cwd=Path(__file__).parents[3],
            stdout=subprocess.PIPE,
        )
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        held = Lock(tmp_path / "lock")
        assert held.is_held()
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate()
        assert not held.is_held()
        assert held.holder() is None
