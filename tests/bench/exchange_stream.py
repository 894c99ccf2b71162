"""What both nodes hold while 10 GB go through one signed exchange, beside a tenth of it in the same run.

Half of it goes up, and as much comes back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from solmu.exchange.v1 import calls_pb2_grpc, policies_pb2, services_pb2

from deploy.local.node import Node
from gateway.client import Client
from services.exchange import names
from services.exchange.bodies import CHUNK
from tests.bench.memory import Watch
from tests.integration.exchange import backend as backends
from tests.integration.exchange import calls
from tests.integration.exchange.backend import Request
from tests.integration.exchange.mesh import Member
from tests.journeys import pair

SIZES = (1_000_000_000, 10_000_000_000)
"""Bytes in all."""

ENDLESS = Duration(seconds=3600)
"""Until the answer begins, which is when all of the request has gone by."""

WATCHED = ("exchange", "envoy")


async def measure(folder: Path) -> None:
    """Prints the memory of each process before, and the most that it held meanwhile."""
    async with pair.joined(folder) as (node, city, other, company), backends.running() as backend:
        backend.keep = False
        service = await calls.service(company, backend.uri, subsystem=pair.PROVIDER, backend={"timeout": ENDLESS})
        await calls.allow(company, service, consumer=pair.CONSUMER)
        profile = await pair.consumer(node, city)
        await calls.host(city, pair.CONSUMER, policy=await streamed(city))
        await company.exchange.catalogue.UpdateService(
            services_pb2.UpdateServiceRequest(
                service=services_pb2.Service(name=names.service_resource(service), policy=await streamed(company)),
                update_mask=FieldMask(paths=["policy"]),
            )
        )
        columns("memory while one exchange streams up and then down (resident), MB")
        async with Client(profile) as client:
            stub: Any = client.stub(calls_pb2_grpc.CallServiceStub)
            for size in SIZES:
                backend.answer = _as_much
                await row((node, other), "", size, _exchange(client, stub, service, size // 2))
        print()


def columns(title: str) -> None:
    """Prints the head of a table of `row`s."""
    print(title)
    named = [f"{side} {name}" for side in ("consumer's", "provider's") for name in WATCHED]
    print(f"  {'':24}" + "".join(f"{column:>22}" for column in named))


async def row(nodes: Sequence[Node], what: str, size: int, streaming: Awaitable[None]) -> None:
    """Prints what the processes of nodes held before so many bytes went through them, and the most meanwhile."""
    async with Watch([(node, name) for node in nodes for name in WATCHED]) as watch:
        began = time.perf_counter()
        await streaming
        seconds = time.perf_counter() - began
    held = "".join(f"{before:>12.0f} -> {most:>6.0f}" for before, most in watch.held())
    print(f"  {what:5}{size / 1e9:5.1f} GB, {size / 1e6 / seconds:5.0f} MB/s {held}", flush=True)


async def streamed(member: Member) -> str:
    """A policy of a member by which bodies of any size here go on while they come; its name."""
    limits = policies_pb2.ExchangePolicy.Limits(
        max_request_bytes=SIZES[-1], max_response_bytes=SIZES[-1], response_timeout=ENDLESS
    )
    return await calls.policy(member, body_release=policies_pb2.ExchangePolicy.BODY_RELEASE_STREAMED, limits=limits)


async def _exchange(client: Client, stub: Any, service: str, size: int) -> None:
    head = calls.head(service, method="POST", body_bytes=size)
    stream = stub.Call(calls.flowing(head, _zeros(size)), metadata=await client.metadata())
    received = 0
    async for frame in stream:
        received += len(frame.chunk)
    assert received == size, f"{received} bytes came back"


async def _zeros(size: int) -> AsyncIterator[bytes]:
    piece = bytes(CHUNK)
    for at in range(0, size, CHUNK):
        yield piece[: size - at]


async def _as_much(request: Request, writer: asyncio.StreamWriter) -> None:
    """An answer of the size of what came."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % request.size)
    piece = bytes(CHUNK)
    for at in range(0, request.size, CHUNK):
        writer.write(piece[: request.size - at])
        await writer.drain()
