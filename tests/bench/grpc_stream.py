"""What both nodes hold while 1 GB goes through a gRPC stream each way, beside a tenth of it in the same run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from solmu.exchange.v1 import services_pb2

from gateway.client import Client
from services.exchange import names
from tests.bench.exchange_stream import columns, row, streamed
from tests.integration.exchange import calls, grpc_backend
from tests.journeys import pair

SIZES = (100_000_000, 1_000_000_000)
"""Bytes each way."""

MESSAGE = 1 << 20


async def measure(folder: Path) -> None:
    """Prints the memory of each process before, and the most that it held meanwhile."""
    async with pair.joined(folder) as (node, city, other, company), grpc_backend.running() as backend:
        service = await calls.service(
            company,
            backend.uri,
            subsystem=pair.PROVIDER,
            protocol=services_pb2.Service.PROTOCOL_GRPC,
            policy=await streamed(company),
        )
        await calls.allow(company, service, consumer=pair.CONSUMER)
        profile = await pair.consumer(node, city)
        await calls.host(city, pair.CONSUMER, policy=await streamed(city))
        columns("memory while a gRPC stream goes through both nodes (resident), MB")
        async with Client(profile) as client:
            for size in SIZES:
                await row((node, other), "up", size, _up(client, service, size))
                await row((node, other), "down", size, _down(client, service, size))
        print()


async def _metadata(client: Client, service: str) -> list[tuple[str, str]]:
    return [*await client.metadata(), ("solmu-service", names.service_resource(service))]


async def _up(client: Client, service: str, size: int) -> None:
    channel: Any = client.channel  # its methods take bytes where they are given nothing else
    swallow = channel.stream_unary(f"{grpc_backend.PACKAGE}/Swallow")
    assert await swallow(_pieces(size), metadata=await _metadata(client, service)) == b"%d" % size


async def _down(client: Client, service: str, size: int) -> None:
    channel: Any = client.channel
    received = 0
    pour = channel.unary_stream(f"{grpc_backend.PACKAGE}/Pour")
    async for message in pour(b"%d" % size, metadata=await _metadata(client, service)):
        received += len(message)
    assert received == size, f"{received} bytes came"


async def _pieces(size: int) -> AsyncIterator[bytes]:
    piece = bytes(MESSAGE)
    for at in range(0, size, MESSAGE):
        yield piece[: size - at]
