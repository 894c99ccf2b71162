"""gRPC services of another member, attacked by a consumer of this node through both nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from google.protobuf.duration_pb2 import Duration
from solmu.exchange.v1 import exchanges_pb2, exchanges_pb2_grpc, policies_pb2, services_pb2

from deploy.local.node import Node
from gateway.client import Client, Profile
from services.exchange import names
from services.runtime import status
from tests.attack.conftest import GROWTH, told
from tests.attack.wire import NOTHING, Http2, context
from tests.integration.exchange import calls, grpc_backend
from tests.integration.exchange.grpc_backend import PACKAGE
from tests.journeys import pair

pytestmark = pytest.mark.timeout(900)

LIMIT = 8 << 20
"""Bytes of a request that the provider takes."""

WATCHED = ("envoy", "exchange")


@dataclass
class Mesh:
    """Two nodes, a service behind the second, and a consumer of the first that means harm."""

    nodes: tuple[Node, Node]
    backend: grpc_backend.Backend
    service: str
    profile: Profile
    client: Client
    administration: Client

    @property
    def channel(self) -> Any:
        """Its methods take bytes where they are given nothing else."""
        return self.client.channel

    async def named(self, *more: tuple[str, Any], service: str = "") -> list[tuple[str, Any]]:
        service = service or names.service_resource(self.service)
        return [*await self.client.metadata(), ("solmu-service", service), *more]

    async def refusal(self, call: Any) -> tuple[str, str]:
        """Status and reason with which a call ends."""
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        return error.value.code().name, status.fault_of(error.value).reason

    async def on_record(self, outcome: Any, reason: str, count: int) -> None:
        """Waits until the consumer's node remembers so many calls that ended so."""
        stub: Any = self.client.stub(exchanges_pb2_grpc.ExchangeServiceStub)
        asked = exchanges_pb2.ListExchangesRequest(outcomes=[outcome], page_size=1000)
        found: list[str] = []
        async with asyncio.timeout(60):
            while found.count(reason) < count:
                await asyncio.sleep(0.2)
                found = [each.reason for each in (await self.client.call(stub.ListExchanges, asked)).exchanges]

    def memory(self) -> list[int]:
        """Resident bytes of the processes that the traffic goes through."""
        return [psutil.Process(node.processes[name].pid).memory_info().rss for node in self.nodes for name in WATCHED]


@pytest.fixture(scope="module")
async def _mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    folder: Path = tmp_path_factory.mktemp("grpc")
    async with pair.joined(folder) as (node, city, other, company), grpc_backend.running() as backend:
        limits = policies_pb2.ExchangePolicy.Limits(max_request_bytes=LIMIT, response_timeout=Duration(seconds=60))
        streamed = policies_pb2.ExchangePolicy.BODY_RELEASE_STREAMED
        policy = await calls.policy(company, body_release=streamed, limits=limits)
        service = await calls.service(
            company,
            backend.uri,
            subsystem=pair.PROVIDER,
            protocol=services_pb2.Service.PROTOCOL_GRPC,
            policy=policy,
        )
        await calls.allow(company, service, ("POST", f"{PACKAGE}/**"), consumer=pair.CONSUMER)
        profile = await pair.consumer(node, city)
        limits = policies_pb2.ExchangePolicy.Limits(idle_timeout=Duration(seconds=5))
        await calls.host(city, pair.CONSUMER, policy=await calls.policy(city, body_release=streamed, limits=limits))
        administration = Profile.load(node.state.clients / pair.ADMINISTRATION.client_id)
        async with Client(profile) as client, Client(administration) as other_client:
            yield Mesh((node, other), backend, service, profile, client, other_client)


@pytest.fixture
async def mesh(_mesh: Mesh) -> AsyncIterator[Mesh]:
    """Afterwards an honest call is answered, nothing died, and no memory has run away."""
    join = _mesh.channel.unary_unary(f"{PACKAGE}/Join")
    assert await join(b"a", metadata=await _mesh.named(), timeout=60) == b"<a>"
    pids = [node.processes[name].pid for node in _mesh.nodes for name in WATCHED]
    before = _mesh.memory()
    _mesh.backend.called.clear()
    yield _mesh
    assert await join(b"a", metadata=await _mesh.named(), timeout=60) == b"<a>"
    assert [node.processes[name].pid for node in _mesh.nodes for name in WATCHED] == pids
    growth = [now - then for now, then in zip(_mesh.memory(), before, strict=True)]
    print(f"  after     serves at once; {', '.join(f'{each / 1e6:+.1f} MB' for each in growth)}")
    assert max(growth) < GROWTH, growth


async def test_a_service_that_is_not_there_or_not_one_is_refused(mesh: Mesh) -> None:
    unknown = names.service_resource(f"{pair.PROVIDER}/nothing")
    wrong = ("subsystems/../services/x", "services/x", "subsystems/FI~COM~9~x/services/y", unknown, "x" * 4000)
    outcomes = []
    for service in wrong:
        call = mesh.channel.unary_unary(f"{PACKAGE}/Join")(b"a", metadata=await mesh.named(service=service))
        outcomes.append(await mesh.refusal(call))
    told("services that are not there, and names of none", outcomes)
    reasons = [reason for _, reason in outcomes]
    assert reasons == ["NAME_INVALID", "FIELD_INVALID", "MEMBER_UNKNOWN", "SERVICE_UNKNOWN", "FIELD_INVALID"]
    assert mesh.backend.called == []


async def test_who_lacks_the_scope_or_a_token_calls_nothing(mesh: Mesh) -> None:
    channel: Any = mesh.administration.channel
    named = [("solmu-service", names.service_resource(mesh.service))]
    call = channel.unary_unary(f"{PACKAGE}/Join")
    without = await mesh.refusal(call(b"a", metadata=[*await mesh.administration.metadata(), *named]))
    nobody = await mesh.refusal(call(b"a", metadata=named))
    stolen = await mesh.refusal(call(b"a", metadata=await mesh.named()))
    told("a token without exchange.call; none; one of another certificate", [without, nobody, stolen])
    assert without == ("PERMISSION_DENIED", "SCOPE_MISSING")
    assert [nobody[0], stolen[0]] == ["UNAUTHENTICATED", "UNAUTHENTICATED"]
    assert mesh.backend.called == []


async def test_metadata_in_the_nodes_name_reaches_no_backend(mesh: Mesh) -> None:
    forged = (
        ("x-road-client", "FI/COM/2/register"),
        ("x-road-represented-party", "FI/1"),
        ("solmu-principal", "FI_HETU 131052-308T"),
        ("solmu-mandates", "mandates/1"),
        ("x-edge-client", "operator"),
        ("x-forwarded-client-cert", "By=x;Hash=0;URI=spiffe://x"),
        ("x-forwarded-for", "127.0.0.1"),
        ("solmu-backend-authorization", "Bearer for the backend"),
    )
    join = mesh.channel.unary_unary(f"{PACKAGE}/Join")
    assert await join(b"a", metadata=await mesh.named(*forged), timeout=60) == b"<a>"
    seen = {name: value for name, value in mesh.backend.metadata.items() if name.startswith(("x-", "solmu-", "auth"))}
    told("headers by which nodes speak", seen)
    assert seen.pop("x-road-request-id")
    seen.pop("x-road-id", None)
    seen.pop("x-road-represented-party", None)  # the consumer's own to say, as X-Road has it
    assert seen == {
        "x-road-client": pair.CONSUMER,
        "x-road-service": mesh.service,
        "authorization": "Bearer for the backend",
    }
    spoofed = mesh.channel.unary_unary(f"{PACKAGE}/Join")(
        b"a", metadata=await mesh.named(("solmu-subsystem", "subsystems/FI~COM~2~register"))
    )
    outcome = await mesh.refusal(spoofed)
    told("another member's subsystem", outcome)
    assert outcome == ("PERMISSION_DENIED", "CONSUMER_NOT_REGISTERED")


async def test_an_endless_stream_ends_at_the_limit(mesh: Mesh) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1 << 20
            yield bytes(1 << 20)

    outcome = await mesh.refusal(
        mesh.channel.stream_unary(f"{PACKAGE}/Swallow")(endless(), metadata=await mesh.named(), timeout=120)
    )
    told(f"a stream without end; {sent >> 20} MiB were sent", outcome)
    assert outcome[0] in {"RESOURCE_EXHAUSTED", "INTERNAL"}  # a client of grpcio may lose a status while it writes
    assert sent < 16 * LIMIT
    await mesh.on_record(exchanges_pb2.Exchange.OUTCOME_REFUSED, "EXCHANGE_TOO_LARGE", 1)


@pytest.mark.parametrize("prefix", [b"\0\xff\xff\xff\xff", b"\0\x00\x80\x00\x00", b"\1\0\0\0\1", b"\xff"])
async def test_a_message_that_lies_about_its_length_reaches_no_backend(mesh: Mesh, prefix: bytes) -> None:
    tls = context(mesh.profile.files, str(mesh.profile.files.authorities), "h2")
    port = int(mesh.profile.edge.rpartition(":")[2])
    metadata = await mesh.named()
    async with Http2.open(port, tls) as connection:
        headers = [(":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", f"{PACKAGE}/Join")]
        stream = await connection.begin(
            [*headers, ("content-type", "application/grpc"), ("te", "trailers"), *metadata], prefix + b"a"
        )
        outcome = await connection.outcome(stream, within=90)  # it is left when it has been silent for too long
    told(f"a message that begins with {prefix!r} and holds one byte", outcome)
    assert outcome != NOTHING
    assert mesh.backend.called == []


async def test_streams_that_are_cancelled_at_once_leave_nothing_but_their_record(mesh: Mesh) -> None:
    async def cancelled() -> None:
        call = mesh.channel.stream_stream(f"{PACKAGE}/Echo")(metadata=await mesh.named())
        await call.write(bytes(1 << 10))
        await call.read()
        call.cancel()

    for _ in range(20):
        await asyncio.gather(*(cancelled() for _ in range(10)))
    await mesh.on_record(exchanges_pb2.Exchange.OUTCOME_BROKEN, "CALLER_GONE", 200)
    told("200 streams, cancelled after one message", "200 on record")
