"""The command line: up, down, status, and run, which the background process of `up` executes."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from deploy.local import child as children
from deploy.local import demo_clients, plan, procfs, table
from deploy.local.lock import Held, Lock
from deploy.local.node import Node, NodeSettings, end_survivors
from deploy.local.problems import NodeProblem, of_os_error
from deploy.local.report import Phase, Report
from deploy.local.state import FREE_BYTES_TO_WARN, State
from deploy.local.supervisor import Condition
from services.runtime import config

EXIT_FAILED = 1
EXIT_NOT_RUNNING = 3
"""As LSB init scripts say it of a service that is not running."""
EXIT_DEGRADED = 4
EXIT_HELD = 75
"""EX_TEMPFAIL: another supervisor runs this state folder."""

LOOK_EVERY = 0.05
"""Seconds between two looks at what the supervisor tells."""

DOWN_WITHIN = 120.0
"""Seconds for the supervisor to stop everything, more than all graces in a row, before it is killed."""

SUPERVISOR_LOG_BYTES = 1_000_000
"""Where the supervisor's own log is turned over, at its start."""

SUMMARY = """\
  edge         {edge}  (HTTPS and gRPC; client certificates required)
  browsers     {browsers}/docs  (its documentation; people log in at this port)
  demo client  {clients}/permits  (certificate.pem, key.pem, ca.pem, profile.json)
  try          {first_command}
"""

FIRST_COMMAND = ".venv/bin/solmu{profile} call GET /v1/units/permits"
"""What `up` suggests to try first; it works when pasted in the folder of the clone."""

DEFAULT_STATE = plan.SOURCE / ".solmu"
"""Where the command line looks for the demo client's profile by itself."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; answers the exit status. What an operator can mend is said without a traceback."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description="The node on this machine.")
    actions: dict[str, tuple[Callable[[NodeSettings], int], str]] = {
        "up": (up, "start the node in the background; return when it is ready"),
        "down": (down, "stop the node"),
        "status": (status, "show its processes; exit 0 if all are ready, 3 if none runs, 4 in between"),
        "run": (run, "run the node in the foreground, until SIGTERM or SIGINT"),
    }
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, (_, help_text) in actions.items():
        commands.add_parser(name, help=help_text)
    action, _ = actions[parser.parse_args(arguments).command]
    try:
        return action(config.read(NodeSettings))
    except (NodeProblem, config.ConfigError) as problem:
        print(problem, file=sys.stderr)
    except BrokenPipeError:  # whoever read our output has left; keep the interpreter from saying so at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(of_os_error(error, "the node's state folder"), file=sys.stderr)
    return EXIT_FAILED


def up(settings: NodeSettings) -> int:
    """Starts the node unless it runs, waits until it is ready, and says how to reach it."""
    state = State(settings.state)
    state.prepare()
    lock = Lock(state.lock)
    _wait_for_the_end_of_a_stop(state, lock)
    was_running = lock.is_held()
    began = time.monotonic()
    if not was_running:
        print(f"Starting the node; its state is in {state.root}", flush=True)
    try:
        report = _await_ready(state, lock, None if was_running else _spawn(settings, state), began)
    except KeyboardInterrupt:
        print("\nIt goes on starting in the background; `make status` tells how far it is.", file=sys.stderr)
        return EXIT_FAILED
    asyncio.run(demo_clients.provision(state, node=settings.node, edge=report.edge))
    done = "The node runs already." if was_running else f"The node is ready after {time.monotonic() - began:.1f} s."
    print(done)
    if was_running and not _is_whole(report):
        print("Not all of it is well: `make status` tells more.")
    profile = "" if state.root == DEFAULT_STATE else f" --profile {state.clients / demo_clients.PERMITS.client_id}"
    browsers = f"https://localhost:{report.ports[plan.BROWSER_PORT]}"
    command = FIRST_COMMAND.format(profile=profile)
    print(SUMMARY.format(edge=report.edge, browsers=browsers, clients=state.clients, first_command=command), end="")
    return 0


def down(settings: NodeSettings) -> int:
    """Stops the node and waits until all of it is gone."""
    state = State(settings.state)
    lock = Lock(state.lock)
    if not lock.is_held():
        left = _end_survivors(state, lock)
        print(f"The node was not running; ended what was left of it: {', '.join(left)}." if left else "Nothing runs.")
        return 0
    began = time.monotonic()
    supervisor = _holder(lock)
    print("Stopping the node", flush=True)
    os.kill(supervisor.pid, signal.SIGTERM)
    stopped: set[str] = set()
    while lock.is_held() and time.monotonic() - began < DOWN_WITHIN:
        _tell(state, Condition.STOPPED, stopped, began, supervisor=supervisor.pid)
        time.sleep(LOOK_EVERY)
    _tell(state, Condition.STOPPED, stopped, began, supervisor=supervisor.pid)
    if lock.is_held():
        procfs.end(supervisor, first=signal.SIGKILL, grace=5.0)
        print(f"It did not stop within {DOWN_WITHIN:.0f} s and was killed.")
    print(f"The node is down after {time.monotonic() - began:.1f} s.")
    return 0


def status(settings: NodeSettings) -> int:
    """Shows every process; the exit status tells whether all is well."""
    state = State(settings.state)
    report = Report.read(state.node_file)
    if not Lock(state.lock).is_held():
        print(f"The node is not running (its state: {state.root}).")
        if report is not None and report.phase is Phase.FAILED and report.problem is not None:
            print(f"Its last start failed: {report.problem['message']}")
        return EXIT_NOT_RUNNING
    if report is None:
        print("The node is just starting.")
        return EXIT_DEGRADED
    print(f"The node is {report.phase}; edge {report.edge or 'not settled yet'}")
    print(table.of(report))
    if (free := state.free_bytes()) < FREE_BYTES_TO_WARN:
        print(f"The disk has only {free // 1_000_000} MB left: free some space.")
    return 0 if _is_whole(report) else EXIT_DEGRADED


def run(settings: NodeSettings) -> int:
    """Runs the node in the foreground. Logs to standard error."""
    os.umask(0o077)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
        stream=sys.stderr,
    )
    logging.Formatter.converter = time.gmtime
    try:
        asyncio.run(_run(settings))
    except Held:
        print("another supervisor runs this state folder", file=sys.stderr)
        return EXIT_HELD
    return 0


async def _run(settings: NodeSettings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    node = Node(settings)
    starting = asyncio.create_task(node.start())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        return
    await starting
    await stop.wait()
    await node.stop()


def _spawn(settings: NodeSettings, state: State) -> subprocess.Popen[bytes]:
    """The supervisor, in a session of its own, so that it outlives this command and its terminal."""
    children.turn_over(state.supervisor_log, limit=SUPERVISOR_LOG_BYTES)
    with children.appending(state.supervisor_log) as log:
        return subprocess.Popen(
            [sys.executable, "-m", "deploy.local", "run"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=plan.SOURCE,
            env=os.environ | {"SOLMU_STATE": str(settings.state)},
            start_new_session=True,
        )


def _await_ready(state: State, lock: Lock, supervisor: subprocess.Popen[bytes] | None, began: float) -> Report:
    """Follows a start to its end: of `supervisor`, or of whoever holds the lock. Raises NodeProblem where it fails."""
    told: set[str] = set()
    log_start = state.supervisor_log.stat().st_size if state.supervisor_log.exists() else 0
    while True:
        if supervisor and supervisor.poll() == EXIT_HELD:
            supervisor = None  # somebody else was quicker: follow theirs
        ended = supervisor.poll() is not None if supervisor else not lock.is_held()
        holder = supervisor or lock.holder()
        report = Report.read(state.node_file)
        if report is not None and holder is not None and report.supervisor.pid == holder.pid:
            if report.phase is Phase.READY and supervisor is None and not told:
                return report  # there was nothing to follow
            _tell(state, Condition.READY, told, began, supervisor=holder.pid)
            report.raise_problem()
            if report.phase is Phase.READY:
                return report
        if ended and report is not None and report.phase is Phase.STOPPED:
            raise NodeProblem("the node was stopped before it was ready", "run the same command again")
        if ended:
            raise NodeProblem(
                "the supervisor ended before the node was ready",
                f"look into {state.supervisor_log}",
                log=children.tail(state.supervisor_log, start=log_start),
            )
        time.sleep(LOOK_EVERY)


def _tell(state: State, condition: Condition, told: set[str], began: float, *, supervisor: int) -> None:
    """Prints a line for each process that has come to `condition` since the last call."""
    report = Report.read(state.node_file)
    if report is None or report.supervisor.pid != supervisor:
        return
    for name, process in report.processes.items():
        if process.condition is condition and name not in told:
            told.add(name)
            print(f"  {time.monotonic() - began:5.1f} s  {name} {condition}", flush=True)


def _wait_for_the_end_of_a_stop(state: State, lock: Lock) -> None:
    while (
        lock.is_held()
        and (report := Report.read(state.node_file)) is not None
        and report.phase in (Phase.STOPPING, Phase.STOPPED, Phase.FAILED)
        and report.supervisor == lock.holder()
    ):
        time.sleep(LOOK_EVERY)


def _is_whole(report: Report) -> bool:
    return report.phase is Phase.READY and all(table.is_well(process) for process in report.processes.values())


def _end_survivors(state: State, lock: Lock) -> list[str]:
    if not state.lock.exists():
        return []
    lock.acquire()
    try:
        return end_survivors(state)
    finally:
        lock.release()


def _holder(lock: Lock) -> procfs.Birth:
    holder = lock.holder()
    if holder is None or not holder.is_alive():
        raise NodeProblem("the node is just starting or stopping", "try again in a moment")
    return holder
