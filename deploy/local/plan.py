"""What a node consists of: the engines and the services, in the order in which they need each other.

    postgres  nats                            the engines
    trust                                     certificates, their status and time stamps, for trying out
    authorisations                            issues the tokens that all others check
    messages  exchange  gateway               side by side; of messages as many processes as are set
    identity-provider                         of invented people, for trying log-ins
    envoy                                     opens the public port when all else is ready

`gateway` is the Python process that renders Envoy's configuration and serves
the foreign protocols.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy import pki
from deploy.local import envoy, nats, postgres, probes
from deploy.local.child import Process
from deploy.local.engines import Engine
from deploy.local.ports import LOOPBACK
from deploy.local.postgres import BUFFERS
from deploy.local.privileges import Account
from deploy.local.state import State
from services.runtime import mesh
from services.runtime.config import Address

POSTGRES = "postgres"
NATS = "nats"
ENVOY = "envoy"
TRUST = "trust"
"""The engines' names as processes; of the first two as identities, too."""

IDENTITY_PROVIDER = "identity-provider"
"""The test identity provider, as a process."""

EDGE_PORT = "edge"
BROWSER_PORT = "browsers"
PUBLIC_PORTS = (EDGE_PORT, BROWSER_PORT)
"""The names of the public ports: for information systems, and for browsers without a certificate."""

PEER_PORT = "exchange.peer"
"""The name of the port on which the exchange serves other nodes."""

INTERNAL_IDENTITIES = (*mesh.SERVICES, mesh.GATEWAY, mesh.EDGE, mesh.OPERATOR, POSTGRES, NATS)
"""Who holds a certificate of the internal authority."""

SOURCE = Path(__file__).resolve().parents[2]
"""The folder that holds the packages `services`, `gateway` and `deploy`."""

POSTGRES_READY_WITHIN = 600.0
"""Seconds: after a crash it first replays its journal, and must not be killed for that."""

POSTGRES_GRACE = 60.0
"""Seconds: at a fast shutdown it writes its memory to disk."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that is settled about a node before its first process starts."""

    state: State
    node: str
    ports: Mapping[str, int]
    postgres: Address
    nats: Address
    postgres_engine: Engine | None
    """None: PostgreSQL is somebody else's, at that address. Likewise for NATS."""
    nats_engine: Engine | None
    envoy_engine: Engine
    account: Account
    """As whom PostgreSQL runs."""
    admin_socket: Path
    messages_processes: int = 1
    postgres_buffers: int = BUFFERS
    """Megabytes of PostgreSQL's own cache."""

    @property
    def origin(self) -> str:
        """The edge's public origin: where clients call, and issuer and audience of their tokens."""
        return f"https://localhost:{self.ports[EDGE_PORT]}"

    @property
    def browser_origin(self) -> str:
        """Where people come with their browsers."""
        return f"https://localhost:{self.ports[BROWSER_PORT]}"


def port_names(*, messages_processes: int = 1) -> list[str]:
    """The ports on the loopback interface that a node needs, the edge's public ones not counted."""
    counted = (instances(name, messages_processes) for name in mesh.SERVICES)
    served = (*itertools.chain.from_iterable(counted), mesh.GATEWAY)
    return [POSTGRES, NATS, TRUST, IDENTITY_PROVIDER, PEER_PORT, *served, *(metrics(name) for name in served)]


def metrics(process: str) -> str:
    """The name of the port on which a process tells its metrics."""
    return f"{process}.metrics"


def instances(service: str, messages_processes: int) -> list[str]:
    """The names of a service's processes, and of their ports: "messages", and "messages.2" where it has two."""
    count = messages_processes if service == "messages" else 1
    return [service, *(f"{service}.{number}" for number in range(2, count + 1))]


def processes(plan: Plan) -> list[Process]:
    """Every process of the node, each after those that it needs."""
    engines = [process for process in (_postgres(plan), _nats(plan)) if process is not None]
    ready = tuple(engine.name for engine in engines)
    issuer = "authorisations"
    others = [
        _service(plan, name, process, after=(*ready, issuer))
        for name in mesh.SERVICES
        if name != issuer
        for process in instances(name, plan.messages_processes)
    ]
    return [
        *engines,
        _trust(plan),
        _service(plan, issuer, issuer, after=ready),
        *others,
        _gateway(plan, after=(issuer,)),
        _identity_provider(plan),
        _envoy(plan, after=(*(process.name for process in others), mesh.GATEWAY)),
    ]


def cluster(plan: Plan) -> postgres.Cluster | None:
    """The node's own PostgreSQL, if it has one."""
    if plan.postgres_engine is None:
        return None
    return postgres.Cluster(
        engine=plan.postgres_engine,
        account=plan.account,
        folder=plan.state.postgres,
        port=plan.postgres.port,
        identity=plan.state.identity(POSTGRES),
        operator=plan.state.identity(mesh.OPERATOR),
        services=tuple(mesh.SERVICES),
        buffers=plan.postgres_buffers,
        processes=max(sum(len(instances(name, plan.messages_processes)) for name in mesh.SERVICES), postgres.PROCESSES),
    )


def _postgres(plan: Plan) -> Process | None:
    server = cluster(plan)
    if server is None:
        return None
    return Process(
        name=POSTGRES,
        command=server.command,
        environment=server.environment,
        folder=Path("/"),
        account=plan.account,
        prepare=server.prepare,
        probe=server.probe,
        settle=server.settle,
        # Fast shutdown. SIGTERM would wait for every client to leave by itself.
        stop_signal=signal.SIGINT,
        death_signal=postgres.DEATH_SIGNAL,
        grace=POSTGRES_GRACE,
        ready_within=POSTGRES_READY_WITHIN,
    )


def _nats(plan: Plan) -> Process | None:
    if plan.nats_engine is None:
        return None
    return Process(
        name=NATS,
        command=[str(plan.nats_engine.program), "--config", str(plan.state.nats / nats.CONFIGURATION)],
        environment=_inherited(),
        folder=plan.state.nats,
        probe=probes.listening_nats(port=plan.nats.port, operator=plan.state.identity(mesh.OPERATOR)),
    )


def _trust(plan: Plan) -> Process:
    port = plan.ports[TRUST]
    return Process(
        name=TRUST,
        command=[sys.executable, "-m", "deploy.local.trust", str(plan.state.trust), "--port", str(port)],
        environment=_inherited(),
        folder=SOURCE,
        probe=lambda: probes.accepts(port),
    )


def _service(plan: Plan, name: str, process: str, *, after: tuple[str, ...]) -> Process:
    return Process(
        name=process,
        command=[sys.executable, "-m", f"services.{name}"],
        environment=service_environment(plan, name, process),
        folder=SOURCE,
        after=after,
        probe=probes.serving(port=plan.ports[process], service=name, operator=plan.state.identity(mesh.OPERATOR)),
    )


def _gateway(plan: Plan, *, after: tuple[str, ...]) -> Process:
    return Process(
        name=mesh.GATEWAY,
        command=[sys.executable, "-m", "gateway"],
        environment=gateway_environment(plan),
        folder=SOURCE,
        after=after,
        probe=probes.healthy(
            port=plan.ports[mesh.GATEWAY],
            service=mesh.GATEWAY,
            path="/healthz",
            operator=plan.state.identity(mesh.OPERATOR),
        ),
    )


def _identity_provider(plan: Plan) -> Process:
    port = plan.ports[IDENTITY_PROVIDER]
    return Process(
        name=IDENTITY_PROVIDER,
        command=[sys.executable, "-m", "deploy.local.identity_provider"],
        environment=_inherited()
        | {
            "SOLMU_STATE": str(plan.state.root),
            "SOLMU_LISTEN": _local(plan, IDENTITY_PROVIDER),
            "SOLMU_BROWSER_ORIGIN": plan.browser_origin,
        },
        folder=SOURCE,
        probe=lambda: probes.accepts(port),
    )


def _envoy(plan: Plan, *, after: tuple[str, ...]) -> Process:
    socket = plan.admin_socket
    return Process(
        name=ENVOY,
        command=envoy.command(engine=plan.envoy_engine, edge=plan.state.edge, socket=socket),
        environment=_inherited(),
        folder=plan.state.edge,
        after=after,
        prepare=lambda: envoy.prepare(socket),
        probe=envoy.live(socket, port=plan.ports[EDGE_PORT]),
        drain=lambda: envoy.drain(socket),
    )


def service_environment(plan: Plan, name: str, process: str) -> dict[str, str]:
    """The environment of one process of the service `name`."""
    state = plan.state
    environment = _process_environment(plan, name, process) | {
        "SOLMU_DATABASE": f"postgresql://{name}@{plan.postgres}/{name}",
        "SOLMU_NATS": f"tls://{plan.nats}",
        "SOLMU_ROOT_KEY": root_key(state),
    }
    if name != "authorisations":
        environment["SOLMU_AUTHORISATIONS"] = _local(plan, "authorisations")
    environment["SOLMU_TEST_MODE"] = "yes"
    if name in ("messages", "authorisations"):
        environment["SOLMU_PARTY_KEY"] = str(state.party_key)
    if name == "messages":
        environment["SOLMU_EXCHANGE"] = _local(plan, "exchange")
        environment["SOLMU_ATTACHMENTS"] = os.environ.get("SOLMU_ATTACHMENTS") or str(state.attachments)
    if name == "exchange":
        environment["SOLMU_PEER_LISTEN"] = _local(plan, PEER_PORT)
    if name == "authorisations":
        environment["SOLMU_EXCHANGE"] = _local(plan, "exchange")
        environment["SOLMU_TOKEN_KEYS"] = str(state.token_keys)
        environment["SOLMU_LIFE"] = state.life_file.read_text()
        environment["SOLMU_CLIENTS"] = str(state.declared_clients)
        environment["SOLMU_BROWSER_ORIGIN"] = plan.browser_origin
        environment["SOLMU_IDENTITY_PROVIDERS"] = str(state.identity_providers)
    return environment


def root_key(state: State) -> str:
    """The node's root: its own file, unless another one is set."""
    return os.environ.get("SOLMU_ROOT_KEY") or str(state.root_key)


def gateway_environment(plan: Plan) -> dict[str, str]:
    """The environment of the gateway's Python process."""
    state = plan.state
    upstream = state.identity(mesh.EDGE)
    return _process_environment(plan, mesh.GATEWAY, mesh.GATEWAY) | {
        "SOLMU_EDGE_STATE": str(state.edge),
        "SOLMU_EDGE_LISTEN": _local(plan, EDGE_PORT),
        "SOLMU_BROWSER_LISTEN": _local(plan, BROWSER_PORT),
        "SOLMU_BROWSER_ORIGIN": plan.browser_origin,
        "SOLMU_EDGE_TLS_CERTIFICATE": str(state.edge_identity / pki.CERTIFICATE),
        "SOLMU_EDGE_TLS_KEY": str(state.edge_identity / pki.KEY),
        "SOLMU_CLIENT_AUTHORITIES": str(state.public / pki.AUTHORITY),
        "SOLMU_CLIENT_CRL": str(state.public / pki.REVOCATION_LIST),
        "SOLMU_EDGE_UPSTREAM_CERTIFICATE": str(upstream.certificate),
        "SOLMU_EDGE_UPSTREAM_KEY": str(upstream.key),
        **{
            f"SOLMU_{name.upper()}": ",".join(_local(plan, one) for one in instances(name, plan.messages_processes))
            for name in mesh.SERVICES
        },
    }


def _process_environment(plan: Plan, name: str, process: str) -> dict[str, str]:
    """What every Python process gets. Settings of the caller that are not settled here reach it as they are."""
    identity = plan.state.identity(name)
    return dict(os.environ) | {
        "SOLMU_NODE": plan.node,
        "SOLMU_ISSUER": plan.origin,
        "SOLMU_LISTEN": _local(plan, process),
        "SOLMU_METRICS_LISTEN": _local(plan, metrics(process)),
        "SOLMU_TLS_CERTIFICATE": str(identity.certificate),
        "SOLMU_TLS_KEY": str(identity.key),
        "SOLMU_TLS_AUTHORITIES": str(identity.authorities),
    }


def _inherited() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("SOLMU_")}


def _local(plan: Plan, name: str) -> str:
    return f"{LOOPBACK}:{plan.ports[name]}"
