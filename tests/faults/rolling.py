"""Two releases of the node side by side: another tree of code, processes of it beside the old ones, and load meanwhile."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import shutil
import subprocess
import sys
import tarfile
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from solmu.exchange.v1 import directory_service_pb2, directory_service_pb2_grpc
from solmu.messages.v1 import messages_pb2

from deploy import migrations
from deploy.local import demo_clients
from deploy.local.child import Process
from deploy.local.node import Node
from deploy.local.plan import SOURCE
from deploy.local.supervisor import Keeper, Supervisor
from gateway.client import Client, Profile
from services.runtime import mesh
from tests.faults.sending import UNIT
from tests.journeys.pair import ADMINISTRATION

UPDATED = (*mesh.SERVICES, mesh.GATEWAY)
"""In the order in which they are updated: each finds what it calls at its own release or the one before."""

PACKAGES = ("services", "gateway", "deploy", "proto")
PATIENCE = 60.0


@dataclass(frozen=True)
class Release:
    """A tree of the node's code."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        """What has Python take the packages from this tree."""
        return {"PYTHONPATH": f"{self.root}:{self.root / 'proto'}"}

    @property
    def goes_back(self) -> bool:
        """Whether it runs on databases that a later release has migrated."""
        return (self.root / "deploy/migrations.py").exists()

    def of(self, process: Process) -> Process:
        """The same process with the code of this release."""
        return dataclasses.replace(process, folder=self.root, environment={**process.environment, **self.environment})

    def check(self) -> None:
        """Fails where Python takes the packages from elsewhere."""
        asked = "import services; from solmu.types.v1 import types_pb2; print(services.__file__, types_pb2.__file__)"
        command = [sys.executable, "-c", asked]
        told = subprocess.check_output(command, cwd=self.root, env=self.environment, text=True).split()
        assert all(path.startswith(str(self.root)) for path in told), told


THIS = Release(SOURCE)


def following(folder: Path) -> Release:
    """A release after this one, which changes every table of every service, as far as the rule lets it."""
    for package in PACKAGES:
        shutil.copytree(SOURCE / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    present = migrations.migrations()
    fresh = {}
    for service in (*mesh.SERVICES, "runtime"):
        own = {name: statements for name, statements in present.items() if name.startswith(f"{service}/")}
        for number, table in enumerate(sorted(set(migrations.created(own)))):
            statement = f"alter table if exists {table} add column in_the_next_release int not null default 1"
            fresh[f"{service}/9{number:03}_{table}.sql"] = statement
    sums = {name: migrations.digest(statements) for name, statements in present.items()}
    assert migrations.faults(sums, present | fresh) == []
    for name, statement in fresh.items():
        service, file = name.split("/")
        (folder / "services" / service / "migrations" / file).write_text(f"{statement};\n")
    return Release(folder)


def of_commit(commit: str, folder: Path) -> Release:
    """The tree of a commit or tag."""
    packed = subprocess.check_output(["git", "archive", commit, "--", *PACKAGES], cwd=SOURCE)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return Release(folder)


class Update:
    """A node whose processes are replaced one by one, each started beside the one that it takes the place of."""

    def __init__(self, node: Node, stack: AsyncExitStack) -> None:
        self._node = node
        self._stack = stack
        self._current: dict[str, Supervisor] = {}
        self._number = 0

    def keeper(self, name: str) -> Keeper:
        """What serves under a name now."""
        return self._current[name].processes[name] if name in self._current else self._node.process(name)

    async def to(self, release: Release, *names: str) -> None:
        """Brings processes to a release: starts the new one, which migrates; then has the old one drain and end."""
        for name in names:
            self._number += 1
            logs = self._node.state.log / f"{self._number}"
            logs.mkdir()
            started = Supervisor([beside(release.of(self._node.process(name).process))], logs=logs)
            await started.start()
            self._stack.push_async_callback(started.stop)
            await serving(logs / f"{name}.log")
            former = self._current.pop(name, None)
            await (former.stop() if former else self._node.halt(name))
            self._current[name] = started


def beside(process: Process) -> Process:
    """The same process, to run beside itself: they share a port."""
    environment = {**process.environment, "SOLMU_METRICS_LISTEN": "127.0.0.1:0"}
    return dataclasses.replace(process, after=(), environment=environment)


async def serving(log: Path) -> None:
    """Waits until a process says that it serves: on a port that two share, an answer may be the other's."""
    async with asyncio.timeout(PATIENCE):
        while '"serving"' not in log.read_text():  # noqa: ASYNC240  # a few lines
            await asyncio.sleep(0.05)


@dataclass
class Load:
    """Requests one after the other through the edge, none of them repeated by the client; what failed is kept."""

    done: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    acknowledged: dict[str, str] = field(default_factory=dict)
    """The name of the message by its idempotency key."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, what: str, request: Callable[[], Awaitable[object]]) -> None:
        """Makes a request again and again until it is told to stop."""
        while not self.stop.is_set():
            try:
                await request()
            except Exception as error:  # noqa: BLE001 - every failure counts
                self.failures.append(f"{what}: {type(error).__name__} {error}")
            self.done[what] += 1

    async def more(self, count: int) -> None:
        """Waits until each kind of request was made so many times more."""
        before = Counter(self.done)
        async with asyncio.timeout(PATIENCE):
            while any(self.done[what] - before[what] < count for what in self.done):
                await asyncio.sleep(0.05)


@asynccontextmanager
async def load(node: Node) -> AsyncIterator[Load]:
    """Load on every service for the time of the block: written and read, by gRPC and REST, and fresh tokens."""
    made = Load()
    profiles = {name: Profile.load(node.state.clients / name) for name in ("permits", "resident", "operator")}
    async with AsyncExitStack() as stack:
        clients = {name: await stack.enter_async_context(Client(profile)) for name, profile in profiles.items()}
        permits, resident, operator = clients.values()
        mailbox = (await resident.rest("POST", "/v1/mailboxes:open", {}))["name"]
        demo_clients.equip(node.state, ADMINISTRATION, node=node.settings.node, edge=node.edge)
        await demo_clients.register(operator, ADMINISTRATION)
        profile = Profile.load(node.state.clients / ADMINISTRATION.client_id)
        administration = await stack.enter_async_context(Client(profile))
        directories = administration.stub(directory_service_pb2_grpc.DirectoryServiceStub)

        async def sent() -> None:
            key = str(uuid.uuid4())
            message = messages_pb2.Message(
                recipient=messages_pb2.Recipient(mailbox=mailbox),
                title="Decision",
                bodies=[messages_pb2.Body(language="en", text="Granted.")],
            )
            request = messages_pb2.SendMessageRequest(parent=UNIT, idempotency_key=key, message=message)
            made.acknowledged[key] = (await permits.call(permits.messages.SendMessage, request, attempts=1)).name

        async def opened() -> None:
            listed = await resident.rest("GET", f"/v1/{mailbox}/messages?pageSize=1")
            for message in listed.get("messages", ()):
                await resident.rest("POST", f"/v1/{message['name']}:open", {})

        async def token() -> None:
            operator.forget_token()
            await operator.token()
            await asyncio.sleep(0.05)

        async def listed() -> None:
            asked = directory_service_pb2.ListDirectoriesRequest()
            await administration.call(directories.ListDirectories, asked, attempts=1)
            await asyncio.sleep(0.02)

        async def clients_listed() -> None:
            await operator.rest("GET", "/v1/clients?pageSize=5")
            await asyncio.sleep(0.02)

        requests = {
            "send by gRPC": sent,
            "list and open by REST": opened,
            "new token": token,
            "directories by gRPC": listed,
            "clients by REST": clients_listed,
        }
        async with asyncio.TaskGroup() as group:
            for what, request in requests.items():
                group.create_task(made.run(what, request))
            try:
                yield made
            finally:
                made.stop.set()


def told(made: Load) -> str:
    """What was done, in a line."""
    return f"{sum(made.done.values())} requests, {len(made.failures)} failed: {json.dumps(dict(made.done))}"
