"""The highly available overlay's NATS, really run: three servers, streams in three copies, one of them killed."""

from __future__ import annotations

import asyncio
import json
import signal
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

from deploy.kubernetes import generate
from deploy.local import engines as binaries
from deploy.local import ports
from services.runtime import jetstream, mesh
from services.runtime.consumer import Consumer
from services.runtime.database import Connection, Database
from services.runtime.jetstream import Received
from services.runtime.outbox import Outbox
from services.runtime.telemetry import Telemetry
from tests.engines import NODE, Engines
from tests.integration.runtime.test_events import at_work, revoked, tell

SERVERS = 3
EVENTS = 300
PATIENCE = 120.0
"""Seconds: after a server is gone the others choose a leader for each stream; on a busy machine that takes a while."""

PLAN = generate.FOLDER / "overlays" / "high-availability" / "nats.conf"


def configuration(engines: Engines, folder: Path, number: int, chosen: dict[str, int]) -> dict[str, Any]:
    """The overlay's configuration for one of its pods, moved to this machine: nothing but places changes."""
    text = PLAN.read_text().partition("{")
    moved: dict[str, Any] = json.loads(text[1] + text[2])
    identity = engines.identity("nats")
    files = {
        "cert_file": str(identity.certificate),
        "key_file": str(identity.key),
        "ca_file": str(identity.authorities),
    }
    moved["tls"] |= files
    moved["cluster"]["tls"] |= files
    moved["listen"] = f"127.0.0.1:{chosen[f'client-{number}']}"
    moved["http"] = f"127.0.0.1:{chosen[f'http-{number}']}"
    moved["cluster"]["listen"] = f"127.0.0.1:{chosen[f'route-{number}']}"
    assert len(moved["cluster"]["routes"]) == SERVERS
    moved["cluster"]["routes"] = [f"tls://127.0.0.1:{chosen[f'route-{other}']}" for other in range(SERVERS)]
    moved["jetstream"]["store_dir"] = str(folder / "data")
    return moved


def written(engines: Engines, folder: Path, number: int, chosen: dict[str, int]) -> Path:
    folder.mkdir()
    (folder / "nats.conf").write_text(json.dumps(configuration(engines, folder, number, chosen)))
    return folder / "nats.conf"


@asynccontextmanager
async def server(engines: Engines, folder: Path, number: int, chosen: dict[str, int]) -> AsyncIterator[Any]:
    """One server of the cluster."""
    plan = written(engines, folder, number, chosen)
    program = (await binaries.nats(None)).program
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(program, "--name", f"nats-{number}", "--config", plan), stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def patiently(work: Any) -> Any:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await work()
            except Exception:  # noqa: BLE001  # a cluster that is just finding itself
                await asyncio.sleep(0.2)


async def leader(client: Client) -> int:
    """The server that leads the stream, once all copies are there and current."""
    async with asyncio.timeout(PATIENCE):
        while True:
            info = await client.jetstream().stream_info(mesh.stream("authorisations"))
            if info.cluster and info.cluster.leader:
                return int(info.cluster.leader.removeprefix("nats-"))
            await asyncio.sleep(0.2)


@pytest.mark.timeout(400)
async def test_a_server_of_three_is_killed_and_no_event_is_lost_or_taken_twice(
    engines: Engines, authorisations_database: Database, messages_database: Database, tmp_path: Path
):
    names = [f"{kind}-{number}" for kind in ("client", "route", "http") for number in range(SERVERS)]
    chosen = dict(ports.choose(tmp_path / "ports.json", names))
    taken: list[uuid.UUID] = []

    async def handle(_: Connection, events: Sequence[Received]) -> None:
        taken.extend(event.event_id for event in events)

    async def connected(service: str) -> Client:
        address = f"tls://127.0.0.1:{chosen['client-0']}"
        return await jetstream.connect(address, service=service, files=engines.identity(service))

    async with (
        server(engines, tmp_path / "0", 0, chosen) as first,
        server(engines, tmp_path / "1", 1, chosen) as second,
        server(engines, tmp_path / "2", 2, chosen) as third,
    ):
        owner = await patiently(lambda: connected("authorisations"))
        reader = await patiently(lambda: connected("messages"))
        await patiently(lambda: jetstream.declare(owner, "authorisations", replicas=SERVERS))
        info = await owner.jetstream().stream_info(mesh.stream("authorisations"))
        assert info.config.num_replicas == SERVERS
        durable = await owner.jetstream().consumer_info(mesh.stream("authorisations"), "messages")
        assert durable.config.num_replicas == SERVERS

        database = authorisations_database
        box = Outbox(database=database, nats=owner, node=NODE, service="authorisations", telemetry=Telemetry())
        consumer = Consumer(
            service="messages",
            publisher="authorisations",
            database=messages_database,
            nats=reader,
            handle=handle,
            telemetry=Telemetry(),
        )
        told: list[uuid.UUID] = []
        async with at_work(box.relay(), consumer.run()):
            for number in range(EVENTS):
                told += await tell(box, database, revoked(f"cluster-{number}"))
                if number == EVENTS // 3:
                    leads = await leader(owner)
                    killed = (first, second, third)[leads]
                    killed.send_signal(signal.SIGKILL)
                    await killed.wait()
            async with asyncio.timeout(PATIENCE):
                while not set(told) <= set(taken):
                    await asyncio.sleep(0.1)
            assert await leader(owner) != leads, "another server leads"
        ours = [event for event in taken if event in set(told)]
        assert len(ours) == len(set(ours)) == EVENTS, "each took effect once"
        await reader.close()
        await owner.close()
