"""One node of one state folder, run by this process.

    async with running(NodeSettings(state=folder, edge_port=0)) as node:
        node.edge, node.process("messages").pid

`python -m deploy.local run` does the same for a node in the background.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploy import files
from deploy.local import demo_clients, engines, envoy, nats, plan, ports, postgres, privileges, procfs
from deploy.local.identity_provider import terms
from deploy.local.lock import Lock
from deploy.local.plan import Plan
from deploy.local.problems import NodeProblem, of_os_error
from deploy.local.procfs import Birth
from deploy.local.report import Phase, ProcessReport, Report
from deploy.local.state import FREE_BYTES_TO_WARN, State
from deploy.local.supervisor import Keeper, Supervisor
from services.runtime.config import Address, address, file, folder, natural, setting, text

logger = logging.getLogger(__name__)

RENEW_EVERY = 24 * 3600.0
"""Seconds between two looks at the certificates and issues of the revocation list."""

LOOK_EVERY = 60.0
"""Seconds between two looks at the free space of the disk."""

SURVIVOR_GRACE = 5.0
"""Seconds for a process that a killed node left, before it is killed."""

REACH_WITHIN = 5.0
"""Seconds for an engine of one's own to accept a connection."""


def _port(value: str) -> int:
    if not value.isdigit() or int(value) > 65535:
        raise ValueError(f"{value!r} is not a port (0 to 65535)")
    return int(value)


def _state_folder(value: str) -> Path:
    return Path(value).expanduser().resolve()


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """What can be chosen about an embedded node."""

    state: Path = setting(
        "SOLMU_STATE", _state_folder, default=plan.SOURCE / ".solmu", doc="folder of all that the node keeps"
    )
    node: str = setting("SOLMU_NODE", text, default="solmu", doc="name of the node, its SPIFFE trust domain")
    edge_port: int = setting(
        "SOLMU_EDGE_PORT", _port, default=8443, doc="public port, the next one being for browsers; 0 for any two"
    )
    messages_processes: int = setting(
        "SOLMU_MESSAGES_PROCESSES", natural, default=1, doc="processes of messages: one for each core it may use"
    )
    postgres_bin: Path | None = setting(
        "SOLMU_POSTGRES_BIN", folder, default=None, doc="folder of one's own PostgreSQL programs"
    )
    postgres_buffers: int | None = setting(
        "SOLMU_POSTGRES_BUFFERS",
        natural,
        default=None,
        doc="megabytes of PostgreSQL's own cache; without it an eighth of the memory, from 64 to 1024",
    )
    nats_server: Path | None = setting("SOLMU_NATS_SERVER", file, default=None, doc="one's own nats-server")
    envoy: Path | None = setting("SOLMU_ENVOY", file, default=None, doc="one's own Envoy")
    postgres_address: Address | None = setting(
        "SOLMU_POSTGRES_ADDRESS", address, default=None, doc="host:port of a PostgreSQL that is run elsewhere"
    )
    nats_address: Address | None = setting(
        "SOLMU_NATS_ADDRESS", address, default=None, doc="host:port of a NATS that is run elsewhere"
    )


class Node:
    """A node, from `start` to `stop`. Belongs to one event loop, which runs in the main thread."""

    def __init__(self, settings: NodeSettings) -> None:
        self.settings = settings
        self.state = State(settings.state)
        self._lock = Lock(self.state.lock)
        self._plan: Plan | None = None
        self._supervisor: Supervisor | None = None
        self._chores: list[asyncio.Task[None]] = []
        self._report: Report | None = None
        self._told = True

    @property
    def edge(self) -> str:
        """The edge's public origin, such as https://localhost:8443."""
        return self._planned.origin

    @property
    def browsers(self) -> str:
        """Where people come with their browsers, such as https://localhost:8444."""
        return self._planned.browser_origin

    @property
    def ports(self) -> Mapping[str, int]:
        """The ports on the loopback interface, by name (`plan.port_names`)."""
        return self._planned.ports

    def process(self, name: str) -> Keeper:
        """One process: its `pid`, `condition`, `restarts`, `ready` event, `log`."""
        return self._supervised.processes[name]

    @property
    def processes(self) -> Mapping[str, Keeper]:
        """All processes, by name."""
        return self._supervised.processes

    async def halt(self, name: str) -> None:
        """Stops one process and leaves it stopped, until `resume`."""
        await self._supervised.halt(name)

    async def resume(self, name: str) -> None:
        """Starts a halted process again and returns when it is ready."""
        await self._supervised.resume(name)

    async def start(self) -> None:
        """Prepares and starts everything; returns when all of it is ready. Raises NodeProblem, and Held.

        After a NodeProblem nothing runs.
        """
        began = time.monotonic()
        self.state.prepare()
        self._lock.acquire()
        try:
            with _os_errors(f"starting the node in {self.state.root}"):
                end_survivors(self.state)
                self._report = Report(phase=Phase.STARTING, supervisor=Birth.current(), began=datetime.now(UTC))
                self._plan = await self._prepare()
                self._set(edge=self.edge, ports=self.ports)
                self._supervisor = Supervisor(
                    plan.processes(self._plan), logs=self.state.log, changed=self._write_report
                )
                await self._supervisor.start()
        except NodeProblem as problem:
            self._set(
                phase=Phase.FAILED,
                problem={"message": problem.message, "remedy": problem.remedy, "log": problem.log},
            )
            self._lock.release()
            raise
        except BaseException:
            self._set(phase=Phase.STOPPED)
            self._lock.release()
            raise
        self._chores = [
            asyncio.create_task(_every(RENEW_EVERY, self.renew)),
            asyncio.create_task(_every(LOOK_EVERY, self._look_at_disk)),
        ]
        self._set(phase=Phase.READY, ready_after=time.monotonic() - began)

    async def stop(self) -> None:
        """Stops all processes, each after those that need it, and lets the state folder go."""
        self._set(phase=Phase.STOPPING)
        for chore in self._chores:
            chore.cancel()
        await self._supervised.stop()
        envoy.forget(self._planned.admin_socket, self.state.run)
        self._set(phase=Phase.STOPPED)
        self._lock.release()

    async def renew(self) -> None:
        """Renews the certificates that are due and the revocation list, and has the engines read theirs again.

        The services and the gateway watch their files by themselves.
        """
        changed = await asyncio.to_thread(self.state.prepare_identities, self.settings.node, plan.INTERNAL_IDENTITIES)
        if not changed:
            return
        cluster = plan.cluster(self._planned)
        if cluster is not None:
            cluster.write_identity()
        for engine in (plan.POSTGRES, plan.NATS):
            if engine in self._supervised.processes:
                self._supervised.processes[engine].send(signal.SIGHUP)

    async def _prepare(self) -> Plan:
        settings, state = self.settings, self.state
        state.check_space()
        postgres_engine, nats_engine, envoy_engine = await asyncio.gather(
            _unless(settings.postgres_address, engines.postgres(settings.postgres_bin)),
            _unless(settings.nats_address, engines.nats(settings.nats_server)),
            engines.envoy(settings.envoy),
        )
        state.prepare_secrets()
        state.prepare_identities(settings.node, plan.INTERNAL_IDENTITIES)
        demo_clients.declare(state)
        chosen = self._choose_ports()
        terms.declare(state, issuer=f"https://localhost:{chosen[plan.IDENTITY_PROVIDER]}")
        prepared = Plan(
            state=state,
            node=settings.node,
            ports=chosen,
            postgres=settings.postgres_address or Address(ports.LOOPBACK, chosen[plan.POSTGRES]),
            nats=settings.nats_address or Address(ports.LOOPBACK, chosen[plan.NATS]),
            postgres_engine=postgres_engine,
            nats_engine=nats_engine,
            envoy_engine=envoy_engine,
            account=await self._account(postgres_engine),
            admin_socket=envoy.admin_socket(state.run),
            messages_processes=settings.messages_processes,
            postgres_buffers=settings.postgres_buffers or postgres.buffers_for(procfs.memory()),
        )
        if settings.postgres_address is not None:
            await _check_reachable("PostgreSQL", "SOLMU_POSTGRES_ADDRESS", settings.postgres_address)
        if settings.nats_address is not None:
            await _check_reachable("NATS", "SOLMU_NATS_ADDRESS", settings.nats_address)
        files.write(
            state.nats / nats.CONFIGURATION,
            nats.render(
                node=settings.node,
                port=prepared.nats.port,
                store=state.nats,
                identity=state.identity(plan.NATS),
            ),
        )
        return prepared

    def _choose_ports(self) -> dict[str, int]:
        names = plan.port_names(messages_processes=self.settings.messages_processes)
        if self.settings.edge_port == 0:
            return ports.choose(self.state.ports_file, [*plan.PUBLIC_PORTS, *names])
        public = {name: self.settings.edge_port + after for after, name in enumerate(plan.PUBLIC_PORTS)}
        for port in public.values():
            ports.check_public(port)
        return ports.choose(self.state.ports_file, names) | public

    async def _account(self, engine: engines.Engine | None) -> privileges.Account:
        if engine is None:
            return privileges.SELF
        death_signal = postgres.DEATH_SIGNAL.name.removeprefix("SIG")
        return await asyncio.to_thread(
            privileges.for_postgres, engine.program, self.state.postgres, death_signal=death_signal
        )

    async def _look_at_disk(self) -> None:
        free = self.state.free_bytes()
        warning = f"the disk has {free // 1_000_000} MB left" if free < FREE_BYTES_TO_WARN else None
        if warning != (self._report.warning if self._report else None):
            if warning:
                logger.warning("%s", warning)
            self._set(warning=warning)

    def _set(self, **changes: Any) -> None:
        if self._report is not None:
            self._report = dataclasses.replace(self._report, **changes)
        self._write_report()

    def _write_report(self) -> None:
        if self._report is None:
            return
        if self._supervisor is not None:
            processes = {name: ProcessReport.of(keeper) for name, keeper in self._supervisor.processes.items()}
            self._report = dataclasses.replace(self._report, processes=processes)
        try:
            self._report.write(self.state.node_file)
            self._told = True
        except OSError as error:  # a full disk: the node goes on, and tells again when it can
            if self._told:
                logger.warning("cannot write %s: %s", self.state.node_file, error.strerror)
            self._told = False

    @property
    def _planned(self) -> Plan:
        if self._plan is None:
            raise RuntimeError("the node has not been started")
        return self._plan

    @property
    def _supervised(self) -> Supervisor:
        if self._supervisor is None:
            raise RuntimeError("the node has not been started")
        return self._supervisor


@asynccontextmanager
async def running(settings: NodeSettings) -> AsyncIterator[Node]:
    """A node that runs inside this process, with its demo clients, for the time of the block."""
    node = Node(settings)
    await node.start()
    try:
        await demo_clients.provision(node.state, node=settings.node, edge=node.edge)
        yield node
    finally:
        await node.stop()


def end_survivors(state: State) -> list[str]:
    """Ends the processes that a killed node left; answers their names. Only for whoever holds the lock."""
    left = Report.read(state.node_file)
    survivors = {
        name: birth
        for name, process in (left.processes if left else {}).items()
        if (birth := process.survivor()) is not None
    }
    for name, birth in survivors.items():
        logger.warning("%s (pid %d) survived the node that started it; ending it", name, birth.pid)
        first = postgres.DEATH_SIGNAL if name == plan.POSTGRES else signal.SIGTERM
        procfs.end(birth, first=first, grace=SURVIVOR_GRACE)
    return list(survivors)


async def _check_reachable(name: str, variable: str, where: Address) -> None:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(where.host, where.port), REACH_WITHIN)
    except (OSError, TimeoutError) as error:
        raise NodeProblem(
            f"{name} at {where} does not accept a connection: {error or 'no answer'}",
            f"start it, or leave {variable} unset: then the node runs its own",
        ) from error
    writer.close()


async def _unless(given: object, doing: Coroutine[Any, Any, engines.Engine]) -> engines.Engine | None:
    if given is not None:
        doing.close()
        return None
    return await doing


async def _every(seconds: float, doing: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await doing()
        except Exception:
            logger.exception("a chore failed; it is tried again in %.0f s", seconds)


@contextlib.contextmanager
def _os_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise of_os_error(error, doing) from error
