"""Two organisations' nodes on one machine: joined in a mesh, one calls a service of the other, both hold the proof."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from solmu.exchange.v1 import calls_pb2, calls_pb2_grpc, exchanges_pb2, exchanges_pb2_grpc, services_pb2

from gateway.client import Client, Profile
from services.exchange import names
from tests.integration.exchange import backend as backends
from tests.integration.exchange import calls, grpc_backend, mesh
from tests.integration.exchange.backend import plain
from tests.journeys import pair
from tests.journeys.pair import CONSUMER, PROVIDER


async def test_one_organisation_calls_another_and_both_hold_the_proof(tmp_path: Path) -> None:
    async with pair.joined(tmp_path) as (city_node, city, _, company), backends.running() as backend:
        # The company offers a service and lets the city read; the city names its case system as a consumer.
        service = await calls.service(company, backend.uri, subsystem=PROVIDER, code="persons")
        await calls.allow(company, service, ("GET", "/persons/**"), consumer=CONSUMER)
        profile = await pair.consumer(city_node, city)
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
        async with grpc_backend.running() as parcels:
            await _grpc(profile, company, parcels)


async def _grpc(profile: Profile, company: mesh.Member, parcels: grpc_backend.Backend) -> None:
    """A stub of a contract that neither node knows: through the edge, both nodes, and to the company's server."""
    service = await calls.service(
        company, parcels.uri, subsystem=PROVIDER, code="parcels", protocol=services_pb2.Service.PROTOCOL_GRPC
    )
    await calls.allow(company, service, ("POST", "/parcels.v1.Parcels/**"), consumer=CONSUMER)
    files = profile.files
    credentials = grpc.ssl_channel_credentials(
        files.authorities.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes()
    )
    async with Client(profile) as client:
        token = await client.metadata()
    named = (*token, ("solmu-service", names.service_resource(service)))
    async with grpc.aio.secure_channel(profile.edge.partition("://")[2], credentials) as opened:
        channel: Any = opened  # its methods take bytes where they are given nothing else
        join = channel.unary_unary(f"{grpc_backend.PACKAGE}/Join")
        assert await join(b"a", metadata=named, timeout=60) == b"<a>"
        assert "authorization" not in parcels.metadata
        echo = channel.stream_stream(f"{grpc_backend.PACKAGE}/Echo")
        assert [message async for message in echo(iter([b"1", b"2"]), metadata=named)] == [b"1", b"2"]
        for metadata, path, code in (
            (named[-1:], "Join", grpc.StatusCode.UNAUTHENTICATED),
            (named, "../Join", grpc.StatusCode.PERMISSION_DENIED),  # the edge has put the path straight
            (named[:-1], "Join", grpc.StatusCode.UNIMPLEMENTED),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await channel.unary_unary(f"{grpc_backend.PACKAGE}/{path}")(b"a", metadata=metadata, timeout=60)
            assert error.value.code() == code, path


async def _call(client: Client, head: calls_pb2.CallRequestHead) -> calls_pb2.CallResponseHead:
    """A call whose answer fits into one frame."""
    head.body = b""
    stub: Any = client.stub(calls_pb2_grpc.CallServiceStub)
    async for frame in stub.Call(iter([calls_pb2.CallRequest(head=head)]), metadata=await client.metadata()):
        answered: calls_pb2.CallResponseHead = frame.head
        return answered
    raise AssertionError("no answer came")


@asynccontextmanager
async def _https(profile: Profile) -> AsyncIterator[aiohttp.ClientSession]:
    """A consumer that knows nothing but HTTPS."""
    context = ssl.create_default_context(cafile=str(profile.files.authorities))
    context.load_cert_chain(str(profile.files.certificate), str(profile.files.key))
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(profile.edge, connector=connector) as session:
        yield session
    await asyncio.sleep(0)
