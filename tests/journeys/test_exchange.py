"""Two organisations' nodes on one machine: joined in a mesh, one calls a service of the other, both hold the proof."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import aiohttp
import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from solmu.exchange.v1 import (
    access_rights_pb2_grpc,
    calls_pb2,
    calls_pb2_grpc,
    directory_service_pb2_grpc,
    exchanges_pb2,
    exchanges_pb2_grpc,
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
from services.exchange.assembly import Exchange
from tests.integration.exchange import backend as backends
from tests.integration.exchange import calls, mesh
from tests.integration.exchange.backend import plain

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
        "exchange.policies.manage",
        "exchange.services.manage",
        "exchange.services.read",
    ),
)
CASES = DemoClient(
    client_id="case-system",
    display_name="Case system",
    owner=demo_clients.CITY,
    scopes=("exchange.call", "exchange.read"),
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
            cast("Exchange", _Exchange(administration)),  # the same services, over the wire
            mesh.Authority(f"Authority of {identifier}"),
        )


@pytest.fixture(scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Node, Node]]:
    """Two whole nodes, each with its own engines and authorities."""
    folder = tmp_path_factory.mktemp("pair")
    async with (
        running(NodeSettings(state=folder / "city", edge_port=0)) as city,
        running(NodeSettings(state=folder / "company", edge_port=0)) as company,
    ):
        yield city, company


async def test_one_organisation_calls_another_and_both_hold_the_proof(pair: tuple[Node, Node]) -> None:
    city_node, company_node = pair
    async with (
        _member(city_node, CITY) as city,
        _member(company_node, COMPANY) as company,
        backends.running() as backend,
    ):
        # The city founds the mesh; the company joins with the anchor, whose fingerprint came by another way.
        description = await mesh.found(city)
        await mesh.join(company, city, description.fingerprint)
        await mesh.serve(city, city, CONSUMER)
        await mesh.serve(company, city, PROVIDER)
        await city.refresh()

        # The company offers a service and lets the city read; the city names its case system as a consumer.
        service = await calls.service(company, backend.uri, subsystem=PROVIDER, code="persons")
        await calls.allow(company, service, ("GET", "/persons/**"), consumer=CONSUMER)
        profile = Profile.load(city_node.state.clients / CASES.client_id)
        certificate = hosting_pb2.Hosting.ConsumerCertificate(sha256=_fingerprint(profile.files.certificate))
        await calls.host(city, CONSUMER, clients=[f"clients/{CASES.client_id}"], certificates=[certificate])
        backend.answer = plain(b'{"name":"somebody"}', headers=b"Content-Type: application/json\r\n")

        # It calls by gRPC with its token, and as an X-Road consumer with its certificate.
        async with Client(profile) as cases:
            answer = await _call(cases, calls.head(service, target=b"/persons/7?full=1"))
            assert (answer.status, answer.body) == (200, b'{"name":"somebody"}')
            assert backend.requests[-1].line == b"GET /base/persons/7?full=1 HTTP/1.1"
            found = await cases.call(
                cases.stub(exchanges_pb2_grpc.ExchangeServiceStub).GetExchange,
                exchanges_pb2.GetExchangeRequest(name=answer.exchange),
            )
            assert found.outcome == exchanges_pb2.Exchange.OUTCOME_ANSWERED
            assert (found.request_statement, found.response_statement) == (
                answer.end.request_statement,
                answer.end.response_statement,
            )
        async with _https(profile) as consumer:
            headers = {"X-Road-Client": CONSUMER, "X-Road-Id": "case-7"}
            async with consumer.get(f"/r1/{service}/persons/8?a=b", headers=headers) as response:
                assert (response.status, await response.json()) == (200, {"name": "somebody"})
                assert response.headers["X-Road-Id"] == "case-7"
                assert response.headers["X-Road-Service"] == service
            request = backend.requests[-1]
            assert request.line == b"GET /base/persons/8?a=b HTTP/1.1"
            assert request.header(b"x-road-client") == CONSUMER.encode()
            async with consumer.delete(f"/r1/{service}/persons/8", headers=headers) as response:
                assert response.headers["X-Road-Error"] == "Server.ServerProxy.AccessDenied"
            content = bytes(range(256)) * 20_000
            backend.answer = plain(content)
            async with consumer.get(f"/r1/{service}/persons/large", headers=headers) as response:
                assert await response.read() == content


async def _call(client: Client, head: calls_pb2.CallRequestHead) -> calls_pb2.CallResponseHead:
    """A call whose answer fits into one frame."""
    head.body = b""
    stub: Any = client.stub(calls_pb2_grpc.CallServiceStub)
    async for frame in stub.Call(iter([calls_pb2.CallRequest(head=head)]), metadata=await client.metadata()):
        answered: calls_pb2.CallResponseHead = frame.head
        return answered
    raise AssertionError("no answer came")


def _fingerprint(certificate: Path) -> str:
    return x509.load_pem_x509_certificate(certificate.read_bytes()).fingerprint(hashes.SHA256()).hex()


@asynccontextmanager
async def _https(profile: Profile) -> AsyncIterator[aiohttp.ClientSession]:
    """A consumer that knows nothing but HTTPS."""
    context = ssl.create_default_context(cafile=str(profile.files.authorities))
    context.load_cert_chain(str(profile.files.certificate), str(profile.files.key))
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(profile.edge, connector=connector) as session:
        yield session
    await asyncio.sleep(0)
