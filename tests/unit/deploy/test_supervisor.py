"""The supervisor, with real child processes that are small."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deploy.local import child, supervisor
from deploy.local.child import Process
from deploy.local.problems import NodeProblem
from deploy.local.procfs import Birth
from deploy.local.supervisor import Condition, Supervisor

WITHIN = 10.0
"""Seconds for anything here to happen on a busy machine."""

# A child tells by files: it writes its number to <name> when it is ready, and what it does to the journal.
SCRIPT = """
import os, signal, sys, time
name = sys.argv[1]
def tell(what):
    with open("journal", "a") as journal:
        journal.write(f"{name} {what}\\n")
def stop(number, frame):
    tell("down")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
tell("start")
def ready():
    with open(name + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(name + ".new", name)
"""
STAYS = SCRIPT + "ready()\nwhile True: time.sleep(60)\n"


class Stage:
    """A folder in which children play."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "log").mkdir()

    def process(self, name: str, script: str = STAYS, **options: Any) -> Process:
        options = {"ready_within": WITHIN, "grace": 2.0} | options
        return Process(
            name=name,
            command=[sys.executable, "-I", "-S", "-c", script, name],
            environment=dict(os.environ),
            folder=self.folder,
            probe=lambda: self.probe(name),
            **options,
        )

    async def probe(self, name: str) -> None:
        if Birth.of(int((self.folder / name).read_text())) is None:
            raise RuntimeError("that was the one before")

    def supervisor(self, *processes: Process) -> Supervisor:
        return Supervisor(processes, logs=self.folder / "log")

    @asynccontextmanager
    async def running(self, *processes: Process) -> AsyncIterator[Supervisor]:
        started = self.supervisor(*processes)
        await started.start()
        try:
            yield started
        finally:
            await started.stop()

    @property
    def journal(self) -> list[str]:
        return (self.folder / "journal").read_text().splitlines()


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses, early health checks, and less patience."""
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(supervisor, "HEALTH_EVERY", 0.05)
    monkeypatch.setattr(supervisor, "FAILURES", 4)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN):
        while not holds():
            await asyncio.sleep(0.01)


async def test_processes_start_after_what_they_need_and_stop_before_it(stage: Stage) -> None:
    below = stage.process("below")
    middle = stage.process("middle", after=("below",))
    async with stage.running(below, middle, stage.process("top", after=("middle",))) as running:
        assert all(keeper.condition is Condition.READY for keeper in running.processes.values())
    assert stage.journal == ["below start", "middle start", "top start", "top down", "middle down", "below down"]
    assert all(keeper.condition is Condition.STOPPED for keeper in running.processes.values())


async def test_what_needs_nothing_of_each_other_starts_side_by_side(stage: Stage) -> None:
    waits = 'while not os.path.exists("start-" + sys.argv[1][::-1]): time.sleep(0.01)\n'
    script = SCRIPT + 'open("start-" + name, "w").close()\n' + waits + "ready()\nwhile True: time.sleep(60)\n"
    async with stage.running(stage.process("ab", script), stage.process("ba", script)):
        assert sorted(stage.journal) == ["ab start", "ba start"]


async def test_a_killed_process_comes_back_however_often(stage: Stage) -> None:
    async with stage.running(stage.process("one"), stage.process("other")) as running:
        one, other = running.processes["one"], running.processes["other"]
        untouched = other.pid
        for kills in range(1, supervisor.FAILURES_AT_START + 3):
            killed = one.pid
            assert killed is not None
            os.kill(killed, signal.SIGKILL)
            await until(lambda killed=killed: one.ready.is_set() and one.pid not in (None, killed))  # type: ignore[misc]
            assert one.restarts == kills
        assert (other.pid, other.restarts) == (untouched, 0)


@pytest.mark.usefixtures("quick")
async def test_a_start_that_fails_shows_why_and_leaves_nothing(stage: Stage) -> None:
    fails = stage.process("fails", 'raise SystemExit("the cupboard is bare")', after=("fine",))
    starting = stage.supervisor(stage.process("fine"), fails)
    with pytest.raises(NodeProblem, match="fails failed 3 times in a row: ended with status 1") as caught:
        await starting.start()
    assert caught.value.log == "the cupboard is bare"
    assert [keeper.condition for keeper in starting.processes.values()] == [Condition.STOPPED, Condition.FAILED]
    assert stage.journal == ["fine start", "fine down"]


async def test_a_start_does_not_wait_for_ever(stage: Stage) -> None:
    sleeper = stage.process("sleeper", "import time; time.sleep(60)", ready_within=0.3)
    with pytest.raises(NodeProblem, match=r"sleeper was not ready within 0 s: FileNotFoundError"):
        await stage.supervisor(sleeper).start()


async def test_what_cannot_be_prepared_is_not_started(stage: Stage) -> None:
    async def prepare() -> None:
        raise NodeProblem("the data is of another version", "move it")

    with pytest.raises(NodeProblem, match="another version"):
        await stage.supervisor(stage.process("one", prepare=prepare)).start()
    assert not (stage.folder / "journal").exists()


async def test_a_full_disk_is_called_by_its_name(stage: Stage) -> None:
    full = stage.process("full", 'raise SystemExit("could not write: No space left on device")')
    with pytest.raises(NodeProblem, match="full ended because the disk is full") as caught:
        await stage.supervisor(full).start()
    assert "free some space" in caught.value.remedy


async def test_others_wait_until_a_process_has_settled(stage: Stage) -> None:
    async def settle() -> None:
        with (stage.folder / "journal").open("a") as journal:
            journal.write("below settled\n")

    async with stage.running(stage.process("below", settle=settle), stage.process("top", after=("below",))):
        assert stage.journal == ["below start", "below settled", "top start"]


@pytest.mark.usefixtures("quick")
async def test_one_that_keeps_failing_later_is_given_up_and_the_others_go_on(stage: Stage) -> None:
    fickle = SCRIPT + 'if os.path.exists("fail"): sys.exit("no more")\nready()\nwhile True: time.sleep(60)\n'
    async with stage.running(stage.process("fickle", fickle), stage.process("steady")) as running:
        (stage.folder / "fail").touch()
        keeper = running.processes["fickle"]
        assert keeper.pid is not None
        os.kill(keeper.pid, signal.SIGKILL)
        await until(lambda: keeper.condition is Condition.FAILED)
        assert keeper.error == "fickle failed 4 times in a row: ended with status 1"
        assert running.processes["steady"].condition is Condition.READY


@pytest.mark.usefixtures("quick")
async def test_one_that_recovers_is_not_given_up(stage: Stage) -> None:
    fickle = SCRIPT + 'if os.path.exists("fail"): os.remove("fail"); sys.exit(1)\nready()\nwhile True: time.sleep(60)\n'
    async with stage.running(stage.process("fickle", fickle)) as running:
        keeper = running.processes["fickle"]
        (stage.folder / "fail").touch()
        assert keeper.pid is not None
        os.kill(keeper.pid, signal.SIGKILL)
        await until(lambda: keeper.restarts == 2 and keeper.condition is Condition.READY)
        assert keeper.error is None


@pytest.mark.usefixtures("quick")
async def test_one_that_does_not_answer_any_more_is_shown_and_left_alone(stage: Stage) -> None:
    async with stage.running(stage.process("one")) as running:
        keeper = running.processes["one"]
        pid = keeper.pid
        content = (stage.folder / "one").read_text()
        (stage.folder / "one").unlink()
        await until(lambda: keeper.condition is Condition.UNREADY)
        assert keeper.error is not None
        assert keeper.error.startswith("does not answer: FileNotFoundError")
        (stage.folder / "one").write_text(content)
        await until(lambda: keeper.condition is Condition.READY)
        assert (keeper.pid, keeper.restarts) == (pid, 0)
        assert not keeper.error


async def test_a_process_is_halted_and_resumed(stage: Stage) -> None:
    async with stage.running(stage.process("one")) as running:
        await running.halt("one")
        keeper = running.processes["one"]
        assert (keeper.condition, keeper.pid) == (Condition.HALTED, None)
        assert stage.journal == ["one start", "one down"]
        await running.resume("one")
        assert keeper.condition is Condition.READY
        assert keeper.restarts == 0


async def test_one_that_will_not_stop_is_killed_with_all_that_it_started(stage: Stage) -> None:
    deaf = (
        SCRIPT
        + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        + 'child = os.fork()\nif not child:\n    while True: time.sleep(60)\nopen("child", "w").write(str(child))\n'
        + "ready()\nwhile True: time.sleep(60)\n"
    )
    async with stage.running(stage.process("deaf", deaf, grace=0.2)):
        grandchild = Birth.of(int((stage.folder / "child").read_text()))
    assert grandchild is not None
    await until(lambda: not grandchild.is_alive())


async def test_it_drains_before_it_is_told_to_stop(stage: Stage) -> None:
    async def drain() -> None:
        with (stage.folder / "journal").open("a") as journal:
            journal.write("one drained\n")

    async with stage.running(stage.process("one", drain=drain)):
        pass
    assert stage.journal == ["one start", "one drained", "one down"]


async def test_a_start_that_is_called_off_leaves_nothing(stage: Stage) -> None:
    never = stage.process("never", SCRIPT + "while True: time.sleep(60)\n", after=("one",))
    starting = stage.supervisor(stage.process("one"), never)
    task = asyncio.create_task(starting.start())
    await until(lambda: starting.processes["never"].pid is not None)
    births = [Birth.of(keeper.pid) for keeper in starting.processes.values() if keeper.pid is not None]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(births) == 2
    assert not [birth for birth in births if birth and birth.is_alive()]


async def test_children_do_not_outlive_a_supervisor_that_is_killed(stage: Stage) -> None:
    script = """
import asyncio, sys
from pathlib import Path
from tests.unit.deploy.test_supervisor import Stage
async def main():
    stage = Stage(Path(sys.argv[1]))
    async with stage.running(stage.process("one"), stage.process("two", after=("one",))):
        (stage.folder / "up").touch()
        await asyncio.sleep(60)
asyncio.run(main())
"""
    folder = stage.folder / "other"
    folder.mkdir()
    source = Path(__file__).parents[3]
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(folder), cwd=source)
    try:
        await until((folder / "up").exists)
        births = [Birth.of(int((folder / name).read_text())) for name in ("one", "two")]
        assert all(births)
    finally:
        parent.kill()
        await parent.wait()
    await until(lambda: not any(birth and birth.is_alive() for birth in births))


class TestLogs:
    """What children write."""

    async def test_output_is_appended_and_kept_private(self, stage: Stage) -> None:
        talks = SCRIPT + 'print("hello", flush=True)\nprint("there", file=sys.stderr)\n' + STAYS.removeprefix(SCRIPT)
        for _ in range(2):
            async with stage.running(stage.process("talks", talks)):
                pass
        log = stage.folder / "log" / "talks.log"
        assert log.read_text() == "hello\nthere\n" * 2
        assert log.stat().st_mode & 0o777 == 0o600

    def test_a_log_that_has_grown_is_turned_over_under_its_writer(self, tmp_path: Path) -> None:
        log = tmp_path / "a.log"
        with child.appending(log) as writer:
            writer.write(b"old\n" * 10)
            writer.flush()
            child.turn_over(log, limit=100)
            assert not log.with_name("a.log.1").exists()
            child.turn_over(log, limit=39)
            writer.write(b"new\n")
        assert log.read_text() == "new\n"
        assert log.with_name("a.log.1").read_text() == "old\n" * 10

    def test_the_tail_begins_where_it_is_asked_to(self, tmp_path: Path) -> None:
        log = tmp_path / "a.log"
        log.write_text("".join(f"line {number}\n" for number in range(100)))
        assert child.tail(log, lines=2) == "line 98\nline 99"
        assert child.tail(log, start=log.stat().st_size - 8) == "line 99"
        assert child.tail(tmp_path / "none.log") == ""
