"""Keeps a set of processes running: in order up, in reverse order down, and up again what dies.

A process starts when those that it comes `after` are ready, so what can start
side by side does. A process that ends is started again after a pause that
doubles. A run *fails* when it ends before it was ready, or soon after by
itself; being killed from outside is no failure. The first start gives up after
few failures, because the operator waits for it; a node that was whole keeps
trying longer, and then gives up on that one process only.

A process that runs and does not answer any more is shown as `unready`, not
killed: it may be waiting for another, or for the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from deploy.local import child as children
from deploy.local.child import Process
from deploy.local.problems import DISK_FULL, NodeProblem, of_os_error

logger = logging.getLogger(__name__)

PROBE_EVERY = 0.03
"""Seconds between two probes of a starting process: ready is seen at once, and six of them cost little."""

PROBE_WITHIN = 5.0
"""Seconds for one probe."""

HEALTH_EVERY = 10.0
"""Seconds between two probes of a process that is ready, and between two looks at the size of its log."""

UNHEALTHY_AFTER = 2
"""Failed probes in a row that make a process `unready`: one may fall into a pause of the machine."""

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 30.0
"""Seconds before a new start; doubled with each failure in a row."""

SHORT_RUN = 10.0
"""Seconds: a process that ends by itself sooner than this after it was ready has failed."""

FAILURES_AT_START = 3
"""Failed runs in a row that end the first start: enough for a port that another process just leaves."""

FAILURES = 15
"""Failed runs in a row that end the trying later: between three and four minutes, by the pauses above."""


class Condition(StrEnum):
    """What a process is doing."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    UNREADY = "unready"
    RESTARTING = "restarting"
    HALTED = "halted"
    FAILED = "failed"
    STOPPED = "stopped"


class _Wish(StrEnum):
    RUN = "run"
    HALT = "halt"
    STOP = "stop"


class Keeper:
    """Keeps one process running. Made and driven by the Supervisor."""

    def __init__(self, process: Process, *, log: Path, needs: Sequence[Keeper], changed: Callable[[], None]) -> None:
        self.process = process
        self.log = log
        self.condition = Condition.WAITING
        self.since = datetime.now(UTC)
        self.ready_after: float | None = None
        """Seconds from the start of the latest run to ready."""
        self.restarts = 0
        self.error: str | None = None
        """Why the latest run that failed did."""
        self.ready = asyncio.Event()
        self.at_rest = asyncio.Event()
        """Set while it does not run and nobody tries to make it."""
        self.first_start = True
        """Whether the operator waits for the whole to come up, so that it gives up early."""
        self._child: asyncio.subprocess.Process | None = None
        self._needs = needs
        self._changed = changed
        self._wish = _Wish.RUN
        self._wished = asyncio.Event()
        self._log_start = 0

    @property
    def name(self) -> str:
        """The name of the process."""
        return self.process.name

    @property
    def pid(self) -> int | None:
        """The number of the running process."""
        return self._child.pid if self._child else None

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the process, if it runs."""
        if self._child:
            with contextlib.suppress(ProcessLookupError):
                self._child.send_signal(number)

    def wish(self, wish: _Wish) -> None:
        """Says what should become of the process; `keep` follows."""
        self._wish = wish
        self._wished.set()

    async def keep(self) -> None:
        """Runs the process until it shall stop. Raises NodeProblem when it gives up."""
        try:
            await self._keep()
        except NodeProblem as problem:
            problem.log = problem.log or children.tail(self.log, start=self._log_start)
            if DISK_FULL in problem.log or DISK_FULL in problem.message:
                problem.message = f"{self.name} ended because the disk is full"
                problem.remedy = "free some space, then start the node again"
            self.error = problem.message
            self._set(Condition.FAILED)
            raise
        self._set(Condition.STOPPED)

    async def _keep(self) -> None:
        failures = 0
        while self._wish is not _Wish.STOP:
            if self._wish is _Wish.HALT:
                self._set(Condition.HALTED)
                await self._change_of_wish()
                failures = 0
                continue
            self._set(Condition.WAITING)
            if not await self._unless_wished(self._needs_ready()):
                continue
            failures = failures + 1 if await self._run() else 0
            if self._wish is not _Wish.RUN:
                continue
            if failures >= (FAILURES_AT_START if self.first_start else FAILURES):
                raise NodeProblem(
                    f"{self.name} failed {failures} times in a row: {self.error}",
                    f"mend what its last lines say (all of them: {self.log})",
                )
            pause = min(FIRST_PAUSE * 2 ** max(failures - 1, 0), LONGEST_PAUSE)
            logger.warning("%s: %s; starts again in %.1f s", self.name, self.error, pause)
            self.restarts += 1
            self._set(Condition.RESTARTING)
            await self._unless_wished(asyncio.sleep(pause))

    async def _run(self) -> bool:
        """One run, from start to end; whether it failed. Notes why in `error`."""
        began = time.monotonic()
        try:
            child = await self._start()
        except OSError as error:
            self.error = of_os_error(error, f"starting {self.name}").message
            return True
        exited = asyncio.ensure_future(child.wait())
        watching = asyncio.ensure_future(self._watch(began))
        wished = asyncio.ensure_future(self._change_of_wish())
        try:
            await asyncio.wait({exited, watching, wished}, return_when=asyncio.FIRST_COMPLETED)
            if not exited.done():
                await children.end(self.process, child)
        finally:
            watching.cancel()
            wished.cancel()
            children.kill_session(child.pid)
            code = await exited
            self._child = None
            was_ready = self.ready.is_set()
            self.ready.clear()
        if watching.done() and not watching.cancelled() and (problem := watching.exception()):
            return self._never_ready(problem)
        self.error = _ending(code)
        lasted = time.monotonic() - began - (self.ready_after or 0.0)
        return not was_ready or (code != -signal.SIGKILL and lasted < SHORT_RUN)

    async def _start(self) -> asyncio.subprocess.Process:
        self._set(Condition.STARTING)
        with contextlib.suppress(OSError):
            children.turn_over(self.log)
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        await self.process.prepare()
        self._child = await children.start(self.process, self.log)
        self._set(Condition.STARTING)
        return self._child

    def _never_ready(self, problem: BaseException) -> bool:
        """A run that had to be ended. One that took all its time is enough, while the operator waits."""
        if isinstance(problem, NodeProblem) and self.first_start:
            raise problem
        self.error = f"could not be set up: {problem}"
        return True

    async def _watch(self, began: float) -> None:
        """Probes until ready, settles, and goes on probing.

        Raises NodeProblem when it does not get ready in time, and what `settle` raises.
        """
        await self._get_ready(began)
        self.ready_after = time.monotonic() - began
        self.error = None
        self.ready.set()
        self._set(Condition.READY)
        logger.info("%s: ready after %.2f s", self.name, self.ready_after)
        missed = 0
        while True:
            await asyncio.sleep(HEALTH_EVERY)
            with contextlib.suppress(OSError):
                children.turn_over(self.log)
            reason = await _probe(self.process)
            missed = missed + 1 if reason else 0
            condition = Condition.UNREADY if missed >= UNHEALTHY_AFTER else Condition.READY
            if condition is not self.condition:
                self.error = f"does not answer: {reason}" if reason else None
                logger.warning("%s: %s %s", self.name, condition, self.error or "")
                self._set(condition)

    async def _get_ready(self, began: float) -> None:
        deadline = began + self.process.ready_within
        while reason := await _probe(self.process):
            if time.monotonic() > deadline:
                raise NodeProblem(
                    f"{self.name} was not ready within {self.process.ready_within:.0f} s: {reason}",
                    f"look into {self.log}",
                )
            await asyncio.sleep(PROBE_EVERY)
        await self.process.settle()

    async def _needs_ready(self) -> None:
        for need in self._needs:
            await need.ready.wait()

    async def _change_of_wish(self) -> None:
        await self._wished.wait()
        self._wished.clear()

    async def _unless_wished(self, doing: Coroutine[Any, Any, None]) -> bool:
        """Does something until the wish changes; whether it came to its end."""
        tasks = {asyncio.ensure_future(doing), asyncio.ensure_future(self._wished.wait())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        came_to_end = not self._wished.is_set()
        self._wished.clear()
        return came_to_end

    def _set(self, condition: Condition) -> None:
        if condition is not self.condition:
            self.condition = condition
            self.since = datetime.now(UTC)
            if condition in (Condition.HALTED, Condition.FAILED, Condition.STOPPED):
                self.at_rest.set()
            else:
                self.at_rest.clear()
        self._changed()


class Supervisor:
    """Keeps processes running, from `start` to `stop`. Belongs to one event loop, which runs in the main thread.

    (The kernel binds children to the *thread* that started them.)
    """

    def __init__(self, processes: Iterable[Process], *, logs: Path, changed: Callable[[], None] = lambda: None) -> None:
        """`processes` in an order in which each comes after those it needs; `changed` is called at every change."""
        self._keepers: dict[str, Keeper] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        for process in processes:
            needs = [self._keepers[name] for name in process.after]
            self._keepers[process.name] = Keeper(
                process, log=logs / f"{process.name}.log", needs=needs, changed=changed
            )

    @property
    def processes(self) -> Mapping[str, Keeper]:
        """What is known of each process, by name."""
        return self._keepers

    async def start(self) -> None:
        """Starts all and returns when all are ready. Raises NodeProblem, with all stopped again, if one gives up."""
        for name, keeper in self._keepers.items():
            self._tasks[name] = asyncio.create_task(keeper.keep(), name=name)
        ready = asyncio.gather(*(keeper.ready.wait() for keeper in self._keepers.values()))
        try:
            watched: list[asyncio.Future[Any]] = [ready, *self._tasks.values()]
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            for task in self._tasks.values():
                if task.done():
                    task.result()
        except BaseException:
            await self.stop()
            raise
        finally:
            ready.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ready
        for name, task in self._tasks.items():
            self._keepers[name].first_start = False
            task.add_done_callback(_note_the_end)

    async def stop(self) -> None:
        """Stops all, each when those that need it have stopped; at once side by side where nothing lies between."""
        stopped = {name: asyncio.Event() for name in self._keepers}

        async def down(keeper: Keeper) -> None:
            for other in self._keepers.values():
                if keeper.name in other.process.after:
                    await stopped[other.name].wait()
            keeper.wish(_Wish.STOP)
            if keeper.name in self._tasks:
                await asyncio.gather(self._tasks[keeper.name], return_exceptions=True)
            stopped[keeper.name].set()

        await asyncio.gather(*(down(keeper) for keeper in self._keepers.values()))

    async def halt(self, name: str) -> None:
        """Stops one process and leaves it stopped, until `resume`. One that was given up stays as it is."""
        keeper = self._keepers[name]
        keeper.wish(_Wish.HALT)
        await keeper.at_rest.wait()

    async def resume(self, name: str) -> None:
        """Starts a halted process again and returns when it is ready."""
        self._keepers[name].wish(_Wish.RUN)
        await self._keepers[name].ready.wait()


async def _probe(process: Process) -> str | None:
    """Why a process is not ready; None if it is."""
    try:
        await asyncio.wait_for(process.probe(), PROBE_WITHIN)
    except Exception as error:  # noqa: BLE001 - whatever a probe meets, it means "not ready"
        return f"{type(error).__name__}: {error}"
    return None


def _ending(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def _note_the_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (problem := task.exception()):
        logger.error("%s", problem)
