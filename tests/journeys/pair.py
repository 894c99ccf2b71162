"""Two whole nodes of one mesh, administered through their edges."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from solmu.exchange.v1 import (
    access_rights_pb2,
    access_rights_pb2_grpc,
    directory_service_pb2_grpc,
    hosting_pb2,
    hosting_pb2_grpc,
    keys_pb2_grpc,
    mesh_pb2_grpc,
    policies_pb2_grpc,
    publishing_pb2_grpc,
    services_pb2_grpc,
)

from deploy.local import demo_clients, plan
from deploy.local.demo_clients import DemoClient
from deploy.local.node import Node, NodeSettings, running
from gateway.client import Client, Profile
from services.exchange import names
from services.exchange.assembly import Exchange
from tests.integration.exchange import calls, mesh

CITY, COMPANY = "FI/MUN/1/node", "FI/COM/2/node"
CONSUMER, PROVIDER = "FI/MUN/1/letters", "FI/COM/2/register"

ADMINISTRATION = DemoClient(
    client_id="exchange-administration",
    display_name="Administration of the exchange",
    owner=demo_clients.CITY,
    scopes=(
        "exchange.directory.read",
        "exchange.keys.manage",
        "exchange.mesh.manage",
        "exchange.mesh.publish",
        "exchange.monitoring.operate",
        "exchange.policies.manage",
        "exchange.services.manage",
        "exchange.services.read",
    ),
)
CASES = DemoClient(
    client_id="case-system",
    display_name="Case system",
    owner=demo_clients.CITY,
    scopes=("exchange.call", "exchange.evidence.read", "exchange.read", "exchange.receive", "exchange.send"),
)


class _Service:
    """A service of a node, called through its edge."""

    def __init__(self, client: Client, kind: Callable[[grpc.aio.Channel], Any]) -> None:
        self._client = client
        self._stub: Any = client.stub(kind)

    def __getattr__(self, method: str) -> Callable[[Any], Any]:
        behaviour = getattr(self._stub, method)
        if method == "ExportDirectory":
            return lambda request: self._client.stream(behaviour, request)
        return lambda request: self._client.call(behaviour, request, attempts=3)


class _Exchange:
    """The services of a node by the short names that the nodes of tests have."""

    def __init__(self, client: Client) -> None:
        self.directories = _Service(client, directory_service_pb2_grpc.DirectoryServiceStub)
        self.mesh = _Service(client, mesh_pb2_grpc.MeshServiceStub)
        self.publishing = _Service(client, publishing_pb2_grpc.PublisherServiceStub)
        self.keys = _Service(client, keys_pb2_grpc.OrganisationKeyServiceStub)
        self.hosting = _Service(client, hosting_pb2_grpc.HostingServiceStub)
        self.catalogue = _Service(client, services_pb2_grpc.CatalogueServiceStub)
        self.rights = _Service(client, access_rights_pb2_grpc.AccessRightServiceStub)
        self.policies = _Service(client, policies_pb2_grpc.PolicyServiceStub)


def exchange(administration: Client) -> Exchange:
    """The same services as of a node in this process, over the wire."""
    return cast("Exchange", _Exchange(administration))


@asynccontextmanager
async def _member(node: Node, identifier: str) -> AsyncIterator[mesh.Member]:
    """A node through its edge, with the clients that this story needs."""
    await demo_clients.provision(node.state, node=node.settings.node, edge=node.edge)
    async with Client(Profile.load(node.state.clients / demo_clients.OPERATOR.client_id)) as operator:
        for client in (ADMINISTRATION, CASES):
            demo_clients.equip(node.state, client, node=node.settings.node, edge=node.edge)
            await demo_clients.register(operator, client)
    async with Client(Profile.load(node.state.clients / ADMINISTRATION.client_id)) as administration:
        yield mesh.Member(
            identifier,
            node.ports[plan.PEER_PORT],
            exchange(administration),
            mesh.Authority(f"Authority of {identifier}"),
        )


@asynccontextmanager
async def joined(folder: Path) -> AsyncIterator[tuple[Node, mesh.Member, Node, mesh.Member]]:
    """The city, which founded the mesh, and the company, which joined with an anchor; each serves a subsystem."""
    async with (
        running(NodeSettings(state=folder / "city", edge_port=0)) as city_node,
        running(NodeSettings(state=folder / "company", edge_port=0)) as company_node,
        met(city_node, company_node) as (city, company),
    ):
        yield city_node, city, company_node, company


@asynccontextmanager
async def met(city_node: Node, company_node: Node) -> AsyncIterator[tuple[mesh.Member, mesh.Member]]:
    """Two nodes that run already, joined as `joined` tells."""
    async with _member(city_node, CITY) as city, _member(company_node, COMPANY) as company:
        description = await mesh.found(city)
        await mesh.join(company, city, description.fingerprint)
        await mesh.serve(city, city, CONSUMER)
        await mesh.serve(company, city, PROVIDER)
        await city.refresh()
        yield city, company


async def consumer(node: Node, member: mesh.Member) -> Profile:
    """The city's case system, which now calls in the name of its subsystem: with a token, and with its certificate."""
    profile = Profile.load(node.state.clients / CASES.client_id)
    loaded = x509.load_pem_x509_certificate(profile.files.certificate.read_bytes())
    certificate = hosting_pb2.Hosting.ConsumerCertificate(sha256=loaded.fingerprint(hashes.SHA256()).hex())
    await calls.host(member, CONSUMER, clients=[f"clients/{CASES.client_id}"], certificates=[certificate])
    return profile


async def inbox(member: mesh.Member, own: str, sender: str) -> None:
    """Lets a member's case system receive envelopes of another subsystem."""
    await calls.host(member, own, clients=[f"clients/{CASES.client_id}"])
    right = access_rights_pb2.AccessRight(subsystem=names.resource("subsystems", sender))
    asked = access_rights_pb2.CreateAccessRightRequest(
        parent=f"{names.resource('subsystems', own)}/inbox", access_right=right
    )
    await member.exchange.rights.CreateAccessRight(asked)
