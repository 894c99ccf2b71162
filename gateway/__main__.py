"""The gateway process: renders the edge's files and follows up on them, and serves the adapters."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any

from google.protobuf.message import Message
from solmu.authorisations.v1 import (
    certificates_pb2,
    certificates_pb2_grpc,
    checks_pb2_grpc,
    log_in_pb2_grpc,
    tokens_pb2,
    tokens_pb2_grpc,
)

from gateway import contracts
from gateway.adapters import documentation, server
from gateway.adapters.authzen import AuthZen
from gateway.adapters.log_in import LogIn
from gateway.adapters.oauth import OAuth
from gateway.adapters.suomifi import SuomiFi
from gateway.adapters.xroad import XRoad
from gateway.edge import Edge
from gateway.revoked import Reports
from gateway.routes import scopes
from gateway.settings import GatewaySettings
from services.runtime import config, mesh, start_checks, telemetry
from services.runtime.client import Peer
from services.runtime.server import Tasks, run

CALL_SECONDS = 10.0
"""Time for a call to the authorisations service; the edge gives an adapter 15."""


async def main(stop: asyncio.Event, stack: AsyncExitStack) -> None:
    """Runs until `stop` is set."""
    settings = config.read(GatewaySettings)
    start_checks.check_certificate(settings, mesh.GATEWAY)
    traces = telemetry.start(mesh.GATEWAY, settings, metrics=settings.metrics_listen)
    stack.callback(traces.stop)
    authorisations = Peer(name="authorisations", address=settings.authorisations, files=settings.tls, telemetry=traces)
    stack.push_async_callback(authorisations.close)
    messages = Peer(name="messages", address=settings.messages, files=settings.tls, telemetry=traces)
    stack.push_async_callback(messages.close)

    exchange = Peer(name="exchange", address=settings.exchange, files=settings.tls, telemetry=traces)
    stack.push_async_callback(exchange.close)

    async def fetch_keys() -> str:
        with authorisations.faults():
            stub = authorisations.stub(tokens_pb2_grpc.KeyServiceStub)
            key_set = await stub.GetKeySet(tokens_pb2.GetKeySetRequest(), timeout=CALL_SECONDS)
        return str(key_set.jwks)

    async def call(
        kind: Callable[[Any], Any], method: str, request: Message, *, metadata: Sequence[tuple[str, str]] = ()
    ) -> Any:
        with authorisations.faults():
            stub = authorisations.stub(kind)
            carried = [*authorisations.metadata(), *metadata]
            return await getattr(stub, method)(request, timeout=CALL_SECONDS, metadata=carried)

    call_tokens = functools.partial(call, tokens_pb2_grpc.TokenServiceStub)
    call_log_in = functools.partial(call, log_in_pb2_grpc.LogInServiceStub)

    async def report_revoked(serial_numbers: Sequence[str]) -> None:
        report = certificates_pb2.ReportRevokedCertificatesRequest(serial_numbers=serial_numbers)
        await call(certificates_pb2_grpc.CertificateServiceStub, "ReportRevokedCertificates", report)

    edge = Edge(settings=settings, descriptors=contracts.load(mesh.SERVICES), fetch_keys=fetch_keys)
    if not await _done_before(stop, edge.start()):
        return
    oauth = OAuth(
        issuer=settings.issuer,
        browser_origin=settings.browser_origin,
        scopes=scopes(edge.plan.routes),
        call=call_tokens,
        log_in=call_log_in,
        keys=lambda: edge.jwks,
    )
    log_in = LogIn(call=call_log_in)
    authzen = AuthZen(origin=settings.issuer, call=functools.partial(call, checks_pb2_grpc.CheckServiceStub))
    suomifi = SuomiFi(messages=messages, issue=call_tokens)
    xroad = XRoad(exchange=exchange, style=settings.xroad_errors)
    adapters = (oauth, log_in, authzen, documentation, suomifi, xroad)
    routes = [route for adapter in adapters for route in adapter.routes()]
    application = server.application(routes, node=settings.node, traces=traces)
    async with Tasks(stop) as tasks:
        tasks.start(edge.follow_files())
        tasks.start(edge.follow_keys())
        tasks.start(Reports(listed=lambda: edge.revoked_certificates, report=report_revoked).run())
        await server.serve(application, listen=settings.listen, files=settings.tls, stop=stop)


async def _done_before(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Does the work, or cancels it when `stop` is set first. Returns whether it was done; raises what it raises."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not working.done():
        working.cancel()
        return False
    await working
    return True


if __name__ == "__main__":
    run(main)
