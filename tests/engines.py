"""PostgreSQL and NATS for tests of one service: real, and configured as a node's.

Where a Docker engine answers and has the images (or can pull them) they run in
containers, by testcontainers; elsewhere the embedded node's own engines run.
Either way certificates, roles, databases and accounts are those that the node
would have, so a test cannot tell.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from docker import errors as docker_errors
from docker.client import DockerClient
from testcontainers.core.container import DockerContainer

from deploy.local import engines as binaries
from deploy.local import envoy, nats, plan, ports, postgres, privileges, probes
from deploy.local.state import State
from deploy.local.supervisor import Supervisor
from services.runtime import mesh, tls
from services.runtime.config import Address

NODE = "solmu"
POSTGRES_IMAGE = os.environ.get("SOLMU_TEST_POSTGRES_IMAGE", "postgres:17-alpine")
NATS_IMAGE = os.environ.get("SOLMU_TEST_NATS_IMAGE", "nats:2.12-alpine")
ENGINES = (plan.POSTGRES, plan.NATS)
READY_WITHIN = 60.0
"""Seconds for an engine in a container: making a cluster on a busy machine takes ten."""


@dataclass(frozen=True)
class Engines:
    """Where the engines are, and how a service proves itself to them."""

    kind: str
    state: State
    postgres: Address
    nats: Address

    def identity(self, service: str) -> tls.Files:
        """The certificate of a service."""
        return self.state.identity(service)

    def database(self, service: str) -> str:
        """The address of a service's database."""
        return f"postgresql://{service}@{self.postgres}/{service}"


def docker_serves() -> bool:
    """Whether a Docker engine answers, and has both images or can get them."""
    if os.environ.get("SOLMU_TEST_ENGINES", "") == "wheels":
        return False
    if "DOCKER_HOST" not in os.environ and not Path("/var/run/docker.sock").is_socket():
        return False
    client = None
    try:
        client = DockerClient(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"), version="1.40")
        client.ping()
        for image in (POSTGRES_IMAGE, NATS_IMAGE):
            try:
                client.images.get(image)
            except docker_errors.ImageNotFound:
                client.images.pull(image)
    except (docker_errors.DockerException, OSError):
        return False
    finally:
        if client is not None:
            client.close()
    return True


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Engines]:
    """The engines, for as long as the block lasts."""
    state = State(folder)
    state.prepare()
    state.prepare_secrets()
    state.prepare_identities(NODE, plan.INTERNAL_IDENTITIES)
    provider = _containers if await asyncio.to_thread(docker_serves) else _embedded
    async with provider(state) as engines:
        yield engines


@asynccontextmanager
async def _embedded(state: State) -> AsyncIterator[Engines]:
    postgres_engine, nats_engine, envoy_engine = await asyncio.gather(
        binaries.postgres(None), binaries.nats(None), binaries.envoy(None)
    )
    chosen = ports.choose(state.ports_file, [*plan.PUBLIC_PORTS, *plan.port_names()])
    prepared = plan.Plan(
        state=state,
        node=NODE,
        ports=chosen,
        postgres=Address(ports.LOOPBACK, chosen[plan.POSTGRES]),
        nats=Address(ports.LOOPBACK, chosen[plan.NATS]),
        postgres_engine=postgres_engine,
        nats_engine=nats_engine,
        envoy_engine=envoy_engine,
        account=privileges.for_postgres(
            postgres_engine.program,
            state.postgres,
            death_signal=postgres.DEATH_SIGNAL.name.removeprefix("SIG"),
        ),
        admin_socket=envoy.admin_socket(state.run),
    )
    configuration = nats.render(
        node=NODE, port=prepared.nats.port, store=state.nats, identity=state.identity(plan.NATS)
    )
    (state.nats / nats.CONFIGURATION).write_text(configuration)
    supervisor = Supervisor([one for one in plan.processes(prepared) if one.name in ENGINES], logs=state.log)
    await supervisor.start()
    try:
        yield Engines("wheels", state, prepared.postgres, prepared.nats)
    finally:
        await supervisor.stop()


@asynccontextmanager
async def _containers(state: State) -> AsyncIterator[Engines]:
    async with AsyncExitStack() as stack:
        postgres_port = await _started(stack, _postgres_container(state), 5432)
        nats_port = await _started(stack, _nats_container(state), 4222)
        operator = state.identity(mesh.OPERATOR)
        engines = Engines(
            "containers", state, Address(ports.LOOPBACK, postgres_port), Address(ports.LOOPBACK, nats_port)
        )

        async def provision() -> None:
            connection = await asyncpg.connect(
                f"postgresql://{postgres.SUPERUSER}@{engines.postgres}/postgres",
                ssl=tls.client_context(operator),
                timeout=postgres.CONNECT_WITHIN,
            )
            try:
                await postgres.provision(connection, mesh.SERVICES)
            finally:
                await connection.close()

        await _patiently(provision)
        await _patiently(probes.listening_nats(port=nats_port, operator=operator))
        yield engines


async def _started(stack: AsyncExitStack, container: DockerContainer, port: int) -> int:
    stack.push_async_callback(asyncio.to_thread, container.stop)
    await asyncio.to_thread(container.start)
    return int(container.get_exposed_port(port))


async def _patiently(probe: probes.Probe) -> None:
    """Probes until it succeeds.

    Neither logs nor the port tell: the official image of PostgreSQL serves twice, first for its initialisation, and
    Docker's proxy takes connections before anybody listens behind it.
    """
    async with asyncio.timeout(READY_WITHIN):
        while True:
            try:
                return await probe()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError, probes.NotReady):
                await asyncio.sleep(0.1)


def _postgres_container(state: State) -> DockerContainer:
    """The image's own server, with our certificates and log-in rules laid over it."""
    folder = state.root / "container-postgres"
    folder.mkdir(exist_ok=True)
    rules = postgres.host_based_authentication(mesh.SERVICES, source="all")
    (folder / "pg_hba.conf").write_text("local all all trust\n" + rules)
    (folder / "pg_ident.conf").write_text(postgres.identity_map(mesh.SERVICES))
    files = state.identity(plan.POSTGRES)
    for name, source in (("server.pem", files.certificate), ("server.key", files.key), ("ca.pem", files.authorities)):
        shutil.copy(source, folder / name)
    # PostgreSQL reads its key only where it alone can: the image's user gets a copy of its own.
    own = "install -d -o postgres /tls && install -o postgres -m 600 /solmu/* /tls/"
    options = (
        "-c ssl=on -c ssl_cert_file=/tls/server.pem -c ssl_key_file=/tls/server.key -c ssl_ca_file=/tls/ca.pem"
        " -c hba_file=/tls/pg_hba.conf -c ident_file=/tls/pg_ident.conf -c timezone=UTC"
    )
    return (
        DockerContainer(POSTGRES_IMAGE)
        .with_env("POSTGRES_HOST_AUTH_METHOD", "trust")
        .with_volume_mapping(str(folder), "/solmu", "ro")
        .with_kwargs(entrypoint=["sh", "-c", f"{own} && exec docker-entrypoint.sh postgres {options}"])
        .with_exposed_ports(5432)
    )


def _nats_container(state: State) -> DockerContainer:
    folder = state.root / "container-nats"
    folder.mkdir(exist_ok=True)
    files = state.identity(plan.NATS)
    for name, source in (("certificate.pem", files.certificate), ("key.pem", files.key), ("ca.pem", files.authorities)):
        shutil.copy(source, folder / name)
    inside = tls.Files(Path("/solmu/certificate.pem"), Path("/solmu/key.pem"), Path("/solmu/ca.pem"))
    configuration = nats.render(node=NODE, port=4222, store=Path("/data"), identity=inside)
    (folder / "nats.conf").write_text(configuration.replace(f"{ports.LOOPBACK}:4222", "0.0.0.0:4222"))
    return (
        DockerContainer(NATS_IMAGE)
        .with_volume_mapping(str(folder), "/solmu", "ro")
        .with_command("--config /solmu/nats.conf")
        .with_exposed_ports(4222)
    )
