"""Signed exchanges per second between two nodes, beside the same backend called directly, in the same run.

Callers, both nodes with their edges and engines, and the backend share the
machine. CPU time is that of all of them together, per call. Evidence is what a
call has left in the databases of both nodes, their indexes included.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from solmu.exchange.v1 import calls_pb2

from deploy.local.node import Node
from gateway.client import Client
from services.runtime import tls
from services.runtime.database import Database
from services.runtime.telemetry import Telemetry
from tests.bench.report import percentile
from tests.integration.exchange import backend as backends
from tests.integration.exchange import calls
from tests.integration.exchange.backend import plain
from tests.journeys import pair

SIZES = (0, 1_000, 100_000, 10_000_000)
CALLERS = (1, 16, 64)
SECONDS = 5.0

EVIDENCE = (
    "select sum(pg_total_relation_size(name::regclass)) from unnest(array['statement', 'evidence', 'log_node',"
    " 'stamp_batch', 'certificate_status', 'signing_certificate', 'content', 'exchange']) as name"
)


async def measure(folder: Path) -> None:
    """Prints a table."""
    async with pair.joined(folder) as (node, city, provider, company):
        files = node.state.identity("exchange")
        async with backends.running(_context(files, ssl.Purpose.CLIENT_AUTH)) as backend:
            backend.keep = False
            service = await calls.service(company, backend.uri, subsystem=pair.PROVIDER)
            await calls.allow(company, service, consumer=pair.CONSUMER)
            profile = await pair.consumer(node, city)
            print("signed exchanges between two nodes; answers of the size given")
            print(
                f"  {'bytes':>9} {'callers':>7} {'way':<10} {'calls/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'CPU ms':>8}"
                f" {'evidence':>9}"
            )
            secured = _context(files, ssl.Purpose.SERVER_AUTH)
            async with (
                Client(profile) as client,
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, ssl=secured)) as session,
            ):
                channel: Any = client.channel
                call = channel.unary_stream(  # its only frame, in one piece
                    "/solmu.exchange.v1.CallService/Call",
                    request_serializer=calls_pb2.CallRequest.SerializeToString,
                    response_deserializer=calls_pb2.CallResponse.FromString,
                )
                head = calls.head(service)
                head.body = b""

                async def exchange() -> None:
                    async for _ in call(calls_pb2.CallRequest(head=head), metadata=await client.metadata()):
                        pass

                async def direct() -> None:
                    async with session.get(backend.uri) as answer:
                        await answer.read()

                async def mutual_tls() -> None:
                    async with session.get(backend.secure_uri) as answer:
                        await answer.read()

                for size in SIZES:
                    backend.answer = plain(os.urandom(size))
                    for callers in CALLERS:
                        await _print(size, callers, "direct", direct)
                        await _print(size, callers, "mutual TLS", mutual_tls)
                        await _print(size, callers, "exchange", exchange, kept_by=(node, provider))
        print()


def _context(files: tls.Files, purpose: ssl.Purpose) -> ssl.SSLContext:
    """One side of mutual TLS, with a certificate that is good for both."""
    context = ssl.create_default_context(purpose, cafile=str(files.authorities))
    context.load_cert_chain(files.certificate, files.key)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    return context


async def _print(
    size: int, callers: int, way: str, call: Callable[[], Awaitable[None]], *, kept_by: tuple[Node, ...] = ()
) -> None:
    await call()
    held, before, begin = await _held(kept_by), _cpu(), time.monotonic()
    latencies: list[float] = []

    async def again() -> None:
        while time.monotonic() < begin + SECONDS:
            start = time.monotonic()
            await call()
            latencies.append(time.monotonic() - start)

    await asyncio.gather(*(again() for _ in range(callers)))
    seconds = time.monotonic() - begin
    cpu = (_cpu() - before) / len(latencies) * 1000
    evidence = f"{(await _held(kept_by) - held) / len(latencies):>9.0f}" if kept_by else ""
    print(
        f"  {size:>9} {callers:>7} {way:<10} {len(latencies) / seconds:>8.0f} {percentile(latencies, 0.5) * 1000:>8.1f}"
        f" {percentile(latencies, 0.99) * 1000:>8.1f} {cpu:>8.2f} {evidence}",
        flush=True,
    )


async def _held(nodes: tuple[Node, ...]) -> int:
    """Bytes of evidence in the databases of nodes."""
    return sum([await _held_by(node) for node in nodes])


async def _held_by(node: Node) -> int:
    database = await Database.connect(
        f"postgresql://exchange@127.0.0.1:{node.ports['postgres']}/exchange",
        files=node.state.identity("exchange"),
        size=1,
        telemetry=Telemetry(),
    )
    try:
        return int(await database.fetchval(EVIDENCE))
    finally:
        await database.close()


def _cpu() -> float:
    """Seconds of CPU time of this process and of all that it has started: callers, backend, nodes."""
    total = 0.0
    own = psutil.Process()
    for process in (own, *own.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="solmu-bench-") as path:
        asyncio.run(measure(Path(path)))
