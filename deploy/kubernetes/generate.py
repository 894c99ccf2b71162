"""What of the manifests follows from the code: network policies, and the engines' configuration.

    python -m deploy.kubernetes.generate     writes them anew; a test compares them

A policy allows an arrow of the design and nothing else: from the edge to each
service, from a service to those that name it in `callers`, from all of these
to PostgreSQL and NATS. What no arrow leads to cannot be reached.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from solmu.options.v1 import access_pb2

from deploy.containers import shares
from deploy.local import nats, plan, postgres
from gateway import contracts
from services.runtime import mesh

FOLDER = Path(__file__).parent
BASE = FOLDER / "base"
SMALL = FOLDER / "overlays" / "small"
HIGH_AVAILABILITY = FOLDER / "overlays" / "high-availability"

SERVICE_PORT, METRICS_PORT, EDGE_PORT, BROWSER_PORT, ROUTES_PORT = 7443, 9464, 8443, 8444, 6222
PEER_PORT = 5500
EXCHANGE = "exchange"
PROVISION, MIGRATE = "provision", "migrate"
CONFIGURATION = Path("/etc/solmu")
SERVERS = 3
"""Of NATS where it is a cluster: one may be away, and a majority still decides."""

POD_OF = {mesh.EDGE: mesh.EDGE, mesh.GATEWAY: mesh.EDGE}
"""Envoy and the gateway's process are one pod."""

WRITTEN = "# Written by `python -m deploy.kubernetes.generate`.\n"


@dataclass(frozen=True, order=True)
class Arrow:
    """One pod may open connections to another's port."""

    source: str
    target: str
    port: int


def arrows(descriptors: FileDescriptorSet | None = None) -> frozenset[Arrow]:
    """Every arrow inside a node."""
    found = set()
    for file in (descriptors or contracts.load(mesh.SERVICES)).file:
        target = _service(file.package)
        if target is None:
            continue
        for method in (method for service in file.service for method in service.method):
            access = method.options.Extensions[access_pb2.access]
            sources = {*access.callers} & {*mesh.SERVICES, mesh.GATEWAY} | ({mesh.EDGE} if access.scopes else set())
            found |= {Arrow(POD_OF.get(source, source), target, SERVICE_PORT) for source in sources if source != target}
    for source in (*mesh.SERVICES, PROVISION):
        found |= {Arrow(source, plan.POSTGRES, shares.POSTGRES_PORT), Arrow(source, plan.NATS, shares.NATS_PORT)}
    found.add(Arrow(MIGRATE, plan.POSTGRES, shares.POSTGRES_PORT))
    return frozenset(found | {Arrow(plan.NATS, plan.NATS, ROUTES_PORT)})


def network_policies(allowed: Iterable[Arrow]) -> str:
    """The policies, YAML: nothing by default, then what each pod takes and what it reaches."""
    table = sorted(allowed)
    pods = sorted({arrow.source for arrow in table} | {arrow.target for arrow in table})
    return WRITTEN + "---\n".join([_DEFAULT, *(_policy(pod, table) for pod in pods)])


def nats_configuration(*, servers: int) -> str:
    """The configuration of NATS, of one server or of a cluster."""
    configuration: dict[str, Any] = json.loads(shares.nats_configuration("solmu"))
    del configuration["server_name"]  # --name, after the pod
    if servers > 1:
        routes = [f"tls://nats-{number}.nats:{ROUTES_PORT}" for number in range(servers)]
        authentication = {name: configuration["tls"][name] for name in ("cert_file", "key_file", "ca_file")}
        configuration["cluster"] = {
            "name": "solmu",
            "listen": f"0.0.0.0:{ROUTES_PORT}",
            "routes": routes,
            "tls": authentication | {"verify": True, "min_version": "1.3"},
        }
    return json.dumps(configuration, indent=2) + "\n"


def files() -> Mapping[Path, str]:
    """Every generated file and what it holds."""
    configuration = shares.postgres_configuration()
    for name in ("pg_hba.conf", "pg_ident.conf"):
        configuration = configuration.replace(str(shares.INSIDE / name), str(CONFIGURATION / name))
    rules = postgres.host_based_authentication(mesh.SERVICES, source="all")
    return {
        BASE / "network-policies.yaml": network_policies(arrows()),
        SMALL / nats.CONFIGURATION: nats_configuration(servers=1),
        HIGH_AVAILABILITY / nats.CONFIGURATION: nats_configuration(servers=SERVERS),
        SMALL / "postgresql.conf": configuration,
        SMALL / "pg_hba.conf": f"local all {postgres.SUPERUSER} peer\n{rules}",
        SMALL / "pg_ident.conf": postgres.identity_map(mesh.SERVICES),
    }


def _service(package: str) -> str | None:
    parts = package.split(".")
    return parts[1] if parts[0] == "solmu" and len(parts) == 3 and parts[1] in mesh.SERVICES else None


_DEFAULT = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: nothing-by-default
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
"""

_FROM_CLIENTS = f"""\
    # Clients, from anywhere: they show a certificate. Browsers need none, and reach no service.
    - ports: [{{port: {EDGE_PORT}}}, {{port: {BROWSER_PORT}}}]
"""

_FROM_PEERS = f"""\
    # Other organisations' nodes, from anywhere: they show a certificate.
    - ports: [{{port: {PEER_PORT}}}]
"""

_TO_PEERS = f"""\
    # Their addresses are in the directory; one that listens on another port takes a policy of one's own.
    - to:
        - ipBlock: {{cidr: 0.0.0.0/0, except: [169.254.0.0/16]}}
        - ipBlock: {{cidr: "::/0", except: ["fe80::/10"]}}
      ports: [{{port: {PEER_PORT}}}]
"""

_FROM_PROMETHEUS = f"""\
    - from:
        - namespaceSelector: {{matchLabels: {{solmu/monitoring: "yes"}}}}
      ports: [{{port: {METRICS_PORT}}}]
"""

_TO_NAMES = """\
    - to:
        - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}
          podSelector: {matchLabels: {k8s-app: kube-dns}}
      ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
"""


def _policy(pod: str, table: list[Arrow]) -> str:
    ingress = "".join(
        _rule("from", [arrow.source for arrow in table if (arrow.target, arrow.port) == (pod, port)], port)
        for port in sorted({arrow.port for arrow in table if arrow.target == pod})
    )
    egress = "".join(_rule("to", [arrow.target], arrow.port) for arrow in table if arrow.source == pod)
    if pod == mesh.EDGE:
        ingress += _FROM_CLIENTS
    if pod == EXCHANGE:
        ingress += _FROM_PEERS
        egress += _TO_PEERS
    if pod == mesh.EDGE or pod in mesh.SERVICES:
        ingress += _FROM_PROMETHEUS
    if egress:
        egress += _TO_NAMES
    return (
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
        f"metadata:\n  name: {pod}\n"
        f"spec:\n  podSelector: {{matchLabels: {{app.kubernetes.io/name: {pod}}}}}\n"
        "  policyTypes: [Ingress, Egress]\n"
        + (f"  ingress:\n{ingress}" if ingress else "  ingress: []\n")
        + (f"  egress:\n{egress}" if egress else "  egress: []\n")
    )


def _rule(direction: str, pods: list[str], port: int) -> str:
    peers = "".join(f"        - podSelector: {{matchLabels: {{app.kubernetes.io/name: {pod}}}}}\n" for pod in pods)
    return f"    - {direction}:\n{peers}      ports: [{{port: {port}}}]\n"


if __name__ == "__main__":
    for path, content in files().items():
        path.write_text(content)
