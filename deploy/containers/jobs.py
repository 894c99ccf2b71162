"""The jobs of a node in containers: prepare, provision, renew, client, health.

prepare    makes what is missing of authorities, keys and certificates, and lays each process's share
provision  waits for PostgreSQL and NATS, and makes a role and a database per service
renew      does `prepare` once a day and has the engines read what changed; runs on
client     gives a client of the edge its certificate and profile
health     asks the process of this container whether it serves
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import asyncpg
import nats.errors
from nats.aio.client import Client

from deploy import pki
from deploy.containers import shares
from deploy.local import demo_clients, plan, postgres
from deploy.local.problems import NodeProblem
from deploy.local.state import State
from services.runtime import config, jetstream, mesh, tls
from services.runtime.config import Address, address, file, folder, setting, text

logger = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE = 120.0
"""Seconds that the engines may take to serve: PostgreSQL makes its cluster first, or replays its journal."""

INTERVAL = 0.5
"""Seconds between two tries meanwhile."""

RENEW_EVERY = 24 * 3600.0
"""Seconds between two looks at the certificates and issues of the revocation list, as in the embedded node."""

RELOAD_WITHIN = 5.0
"""Seconds for NATS to answer."""

AWAY = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, nats.errors.Error)


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """What the jobs read that keep the node's state."""

    node: str = setting("SOLMU_NODE", text, default="solmu", doc="name of the node, its SPIFFE trust domain")
    state: Path = setting("SOLMU_STATE", folder, doc="folder of the authorities, keys and clients")
    shares: Path = setting("SOLMU_SHARES", folder, doc="folder with a folder for the share of each process")
    data: Path | None = setting(
        "SOLMU_DATA", folder, default=None, doc="folder with the data folders that are to be the services' own"
    )
    issuer: str = setting("SOLMU_ISSUER", text, doc="origin of the edge: issuer and audience of its tokens")


@dataclass(frozen=True, kw_only=True)
class OperatorSettings:
    """What the jobs read that speak to the engines as `operator`."""

    postgres: Address = setting("SOLMU_POSTGRES_ADDRESS", address, doc="host:port of PostgreSQL")
    nats: str = setting("SOLMU_NATS", text, doc="tls://host:port of NATS")
    certificate: Path = setting("SOLMU_TLS_CERTIFICATE", file, doc="certificate of the identity `operator`, PEM")
    key: Path = setting("SOLMU_TLS_KEY", file, doc="its private key, PEM")
    authorities: Path = setting("SOLMU_TLS_AUTHORITIES", file, doc="certificates of the node's internal authority, PEM")

    @property
    def tls(self) -> tls.Files:
        """The files that prove the operator."""
        return tls.Files(certificate=self.certificate, key=self.key, authorities=self.authorities)


def prepare(settings: PrepareSettings) -> set[str]:
    """Brings state and shares up to date; answers the processes whose share changed. Raises NodeProblem."""
    state = State(settings.state)
    state.prepare()
    state.prepare_secrets()
    state.prepare_identities(settings.node, plan.INTERNAL_IDENTITIES, edge=edge_identity(settings.issuer))
    if not state.declared_clients.exists():
        demo_clients.declare(state)
    demo_clients.equip(state, demo_clients.OPERATOR, node=settings.node, edge=settings.issuer)
    privileged = os.geteuid() == 0
    changed = set()
    for process in shares.PROCESSES:
        user = shares.owner(process) if privileged else None
        share = shares.contents(process, node=settings.node, state=state)
        if shares.lay(share, settings.shares / process, user=user):
            changed.add(process)
    if settings.data is not None:
        shares.own(settings.data.iterdir(), user=shares.USER if privileged else None)
    return changed


def edge_identity(issuer: str) -> pki.Identity:
    """The edge under the name in its origin, and under `localhost` for whoever looks on its own machine."""
    name = issuer.removeprefix("https://").partition(":")[0]
    return pki.Identity.edge(tuple(dict.fromkeys((name, "localhost"))))


def client(settings: PrepareSettings, client_id: str, scopes: Sequence[str] = ()) -> Path:
    """Issues the certificate of a client of the edge; answers the folder with its profile, which asks for the scopes.

    The client is registered through the edge (`ClientService.CreateClient`);
    until then its certificate opens nothing.
    """
    known = {client.client_id: client for client in demo_clients.CLIENTS}
    asked = known.get(client_id) or demo_clients.DemoClient(
        client_id=client_id, display_name=client_id, owner=demo_clients.CITY, scopes=tuple(scopes)
    )
    return demo_clients.equip(State(settings.state), asked, node=settings.node, edge=settings.issuer)


async def provision(settings: OperatorSettings) -> None:
    """Makes roles and databases where they are missing; returns when both engines serve. Raises NodeProblem."""

    async def databases() -> None:
        connection = await _superuser(settings)
        try:
            await postgres.provision(connection, mesh.SERVICES)
        finally:
            await connection.close()

    async def events() -> None:
        client = await jetstream.connect(settings.nats, service=mesh.OPERATOR, files=settings.tls)
        await client.close()

    await _patiently("PostgreSQL", databases)
    await _patiently("NATS", events)


async def renew(prepared: PrepareSettings, operator: OperatorSettings, stop: asyncio.Event) -> None:
    """Keeps state and shares up to date until `stop` is set. The services and the gateway follow their files."""
    while True:
        try:
            changed = await asyncio.to_thread(prepare, prepared)
            await reload(operator, changed)
            logger.info("certificates looked at; changed: %s", ", ".join(sorted(changed)) or "none")
        except (NodeProblem, *AWAY) as error:
            logger.error("a renewal failed (%s); it is tried again tomorrow", type(error).__qualname__)
        try:
            return await asyncio.wait_for(_set(stop), RENEW_EVERY)
        except TimeoutError:
            continue


async def reload(settings: OperatorSettings, changed: set[str]) -> None:
    """Has the engines whose share changed read it again. Raises what AWAY holds."""
    if plan.POSTGRES in changed:
        connection = await _superuser(settings)
        try:
            await connection.execute("SELECT pg_reload_conf()")
        finally:
            await connection.close()
    if plan.NATS in changed:
        client = await jetstream.connect(settings.nats, service=mesh.OPERATOR, files=settings.tls)
        try:
            for server in await _servers(client):
                await client.request(f"$SYS.REQ.SERVER.{server}.RELOAD", timeout=RELOAD_WITHIN)
        finally:
            await client.close()


async def _servers(client: Client) -> list[str]:
    """The ids of the servers of the cluster."""
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    await client.publish("$SYS.REQ.SERVER.PING.IDZ", reply=inbox)
    found = []
    try:
        while True:
            answer = await subscription.next_msg(timeout=1.0)
            found.append(str(json.loads(answer.data)["id"]))
    except nats.errors.TimeoutError:
        return found


async def _superuser(settings: OperatorSettings) -> asyncpg.Connection:
    return await asyncpg.connect(
        host=settings.postgres.host,
        port=settings.postgres.port,
        user=postgres.SUPERUSER,
        database="postgres",
        ssl=tls.client_context(settings.tls),
        timeout=postgres.CONNECT_WITHIN,
    )


async def _patiently(engine: str, doing: Callable[[], Awaitable[T]]) -> T:
    deadline = asyncio.get_running_loop().time() + PATIENCE
    told = False
    while True:
        try:
            return await doing()
        except AWAY as error:
            if asyncio.get_running_loop().time() > deadline:
                raise NodeProblem(
                    f"{engine} does not serve after {PATIENCE:.0f} s ({type(error).__qualname__})",
                    "look into its log, then run this job again",
                ) from error
            if not told:
                logger.info("waiting for %s", engine)
                told = True
            await asyncio.sleep(INTERVAL)


async def _set(event: asyncio.Event) -> None:
    await event.wait()


async def _until_told(prepared: PrepareSettings, operator: OperatorSettings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await renew(prepared, operator, stop)


def run_prepare() -> None:
    """The job `prepare`."""
    changed = prepare(config.read(PrepareSettings))
    sys.stdout.write(f"laid: {', '.join(sorted(changed)) or 'nothing that was not there'}\n")


def run_provision() -> None:
    """The job `provision`."""
    asyncio.run(provision(config.read(OperatorSettings)))


def run_renew() -> None:
    """The job `renew`."""
    asyncio.run(_until_told(config.read(PrepareSettings), config.read(OperatorSettings)))


def run_client(client_id: str, scopes: Sequence[str]) -> None:
    """The job `client`."""
    sys.stdout.write(f"{client(config.read(PrepareSettings), client_id, scopes)}\n")
