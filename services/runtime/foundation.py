"""What a service process stands on, laid in one order for all of them.

Telemetry, database and its migrations, NATS and the service's stream, the
outbox's relay, the list of revoked clients, and a server with the chain in
front of it. A service's `__main__` lays it, adds its servicers and consumers,
and runs the server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import nats.errors
from nats.aio.client import Client
from solmu.authorisations.v1 import tokens_pb2, tokens_pb2_grpc

from services.runtime import consumer, jetstream, start_checks, tls
from services.runtime.chain import Chain
from services.runtime.client import Peer
from services.runtime.config import Address, DatabaseSettings, ServiceSettings
from services.runtime.consumer import Consumer, Handler
from services.runtime.database import AWAY, Connection, Database
from services.runtime.identity import Authenticator, TokenVerifier
from services.runtime.jetstream import Received
from services.runtime.keys import service_keys
from services.runtime.keys.root import Root
from services.runtime.outbox import Outbox, Own
from services.runtime.revocations import Revocations
from services.runtime.sealing import Vault
from services.runtime.server import Server, Tasks
from services.runtime.telemetry import Telemetry, start

logger = logging.getLogger(__name__)

T = TypeVar("T")

SERVICES = Path(__file__).parents[1]
"""Where each service has its folder."""

STARTING: tuple[type[Exception], ...] = (*AWAY, OSError, nats.errors.Error)
"""What a starting process meets while what it stands on starts too."""

START_PATIENCE = 60.0
"""Seconds that a starting process waits for PostgreSQL and NATS before it gives up and is started afresh."""

START_INTERVAL = 0.2
"""Seconds between two tries meanwhile."""


@dataclass(frozen=True)
class Foundation:
    """What a service process stands on."""

    telemetry: Telemetry
    database: Database
    nats: Client
    outbox: Outbox
    revocations: Revocations
    server: Server
    tasks: Tasks

    def consume(self, consumer: Consumer) -> None:
        """Runs a consumer for as long as the process runs."""
        self.tasks.start(consumer.run())


async def lay(
    service: str,
    settings: ServiceSettings,
    *,
    stop: asyncio.Event,
    stack: AsyncExitStack,
    fetch_keys: Callable[[Telemetry], Callable[[], Awaitable[str]]],
    own: Own | None = None,
) -> Foundation:
    """Lays the foundation of a service; what must be closed goes on the stack. Raises ConfigError and MigrationError.

    `fetch_keys` makes, from the process's telemetry, what returns the key set
    that access tokens are verified with. `own` is what follows from the
    service's events within itself.
    """
    telemetry = start(service, settings, metrics=settings.metrics_listen)
    stack.callback(telemetry.stop)
    database = await migrated(service, settings, size=settings.pool_size, telemetry=telemetry, stack=stack)
    client = await _patiently("nats", lambda: jetstream.connect(settings.nats, service=service, files=settings.tls))
    stack.push_async_callback(client.close)
    await _patiently("jetstream", lambda: jetstream.declare(client, service, replicas=settings.stream_replicas))
    tasks = await stack.enter_async_context(Tasks(stop))
    outbox = Outbox(database=database, nats=client, node=settings.node, service=service, telemetry=telemetry, own=own)
    tasks.start(outbox.relay())
    tasks.start(consumer.sweep(database))
    revocations = Revocations(database=database)
    await revocations.load()
    tasks.start(revocations.follow())
    tasks.start(revocations.sweep())
    tasks.start(_follow_certificate(settings.tls, database))
    verifier = TokenVerifier(issuer=settings.issuer, fetch=fetch_keys(telemetry))
    authenticator = Authenticator(verifier=verifier, revoked=revocations.revoked)
    chain = Chain(
        service=service,
        node=settings.node,
        authenticator=authenticator,
        telemetry=telemetry,
    )
    server = Server(chain=chain, files=settings.tls, listen=settings.listen, ready=database.ready)
    return Foundation(telemetry, database, client, outbox, revocations, server, tasks)


async def migrated(
    service: str, settings: DatabaseSettings, *, size: int, telemetry: Telemetry, stack: AsyncExitStack
) -> Database:
    """A service's database, as this release has it. Raises ConfigError and MigrationError."""
    start_checks.check_certificate(settings, service)
    database = await _patiently(
        "postgresql", lambda: Database.connect(settings.database, files=settings.tls, size=size, telemetry=telemetry)
    )
    stack.push_async_callback(database.close)
    await start_checks.check_clock(database)
    await database.migrate(SERVICES / service / "migrations")
    await start_checks.check_node(database, settings.node)
    return database


async def vault(foundation: Foundation, root: Root) -> Vault:
    """The vault of the service, which follows its keys. Raises RootError."""
    opened = await service_keys.open_vault(foundation.database, root)
    foundation.tasks.start(service_keys.follow(opened, foundation.database, root))
    return opened


def keys_from(address: Address, settings: ServiceSettings) -> Callable[[Telemetry], Callable[[], Awaitable[str]]]:
    """Fetches the key set from the authorisations service, for every service but itself."""

    def with_telemetry(telemetry: Telemetry) -> Callable[[], Awaitable[str]]:
        peer = Peer(name="authorisations", address=address, files=settings.tls, telemetry=telemetry)

        async def fetch() -> str:
            return await key_set(peer)

        return fetch

    return with_telemetry


async def key_set(authorisations: Peer) -> str:
    """The node's JSON Web Key Set. Raises Fault where authorisations is away."""
    stub: tokens_pb2_grpc.KeyServiceAsyncStub = authorisations.stub(tokens_pb2_grpc.KeyServiceStub)
    with authorisations.faults():
        answer = await stub.GetKeySet(
            tokens_pb2.GetKeySetRequest(), timeout=5.0, wait_for_ready=True, metadata=authorisations.metadata()
        )
    return answer.jwks


def revocation_consumer(foundation: Foundation, *, service: str, also: Handler | None = None) -> Consumer:
    """Takes revocations of clients from authorisations, for every service but itself; `also` gets the same events."""

    async def handle(transaction: Connection, events: Sequence[Received]) -> None:
        await foundation.revocations.handle(transaction, events)
        if also is not None:
            await also(transaction, events)

    return Consumer(
        service=service,
        publisher="authorisations",
        database=foundation.database,
        nats=foundation.nats,
        handle=handle,
        committed=foundation.revocations.look,
        telemetry=foundation.telemetry,
    )


async def _follow_certificate(files: tls.Files, database: Database) -> None:
    """Puts a renewed certificate into the contexts that new connections of PostgreSQL use."""
    stamp = files.stamp()
    while True:
        await asyncio.sleep(5.0)
        try:
            now = files.stamp()
            if now != stamp and database.context is not None:
                tls.check(files)
                tls.refresh(database.context, files)
                stamp = now
                logger.info("certificate renewed")
        except (OSError, ValueError):
            logger.warning("the certificate's files do not fit together; the last ones stay in use")


async def _patiently(what: str, attempt: Callable[[], Awaitable[T]]) -> T:
    deadline = asyncio.get_running_loop().time() + START_PATIENCE
    while True:
        try:
            return await attempt()
        except STARTING as error:
            if asyncio.get_running_loop().time() > deadline:
                raise
            logger.info("waiting", extra={"for": what, "error": type(error).__qualname__})
            await asyncio.sleep(START_INTERVAL)
