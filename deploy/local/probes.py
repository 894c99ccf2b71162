"""Whether a process is ready, asked in its own language and over its own TLS.

A probe returns when the process is ready and raises anything else when it is
not yet; the supervisor asks again. All of them come as `operator`.
"""

from __future__ import annotations

import asyncio
import http
import http.client
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deploy.local.ports import LOOPBACK
from services.runtime import tls

Probe = Callable[[], Awaitable[None]]

WITHIN = 3.0
"""Seconds for one answer of a process that is well."""


class NotReady(Exception):
    """The process answers, and says that it is not ready."""


async def accepts(port: int) -> None:
    """Something listens on the port. Much cheaper than a failed TLS or gRPC connection, so it is asked first."""
    _, writer = await asyncio.open_connection(LOOPBACK, port)
    writer.close()


def serving(*, port: int, service: str, operator: tls.Files) -> Probe:
    """The gRPC health protocol (grpc.health.v1) over mutual TLS, against the certificate of `service`."""

    async def probe() -> None:
        await accepts(port)
        options = [("grpc.ssl_target_name_override", service), ("grpc.enable_http_proxy", 0)]
        async with grpc.aio.secure_channel(
            f"{LOOPBACK}:{port}", tls.channel_credentials(operator), options=options
        ) as channel:
            health = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
            answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=WITHIN)
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise NotReady(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    return probe


def healthy(*, port: int, service: str, path: str, operator: tls.Files) -> Probe:
    """GET `path` over mutual TLS answers 200, against the certificate of `service`."""

    def connect() -> socket.socket:
        connection = socket.create_connection((LOOPBACK, port), timeout=WITHIN)
        return tls.client_context(operator).wrap_socket(connection, server_hostname=service)

    async def probe() -> None:
        await accepts(port)
        await asyncio.to_thread(_ask, connect, "GET", path)

    return probe


def listening_nats(*, port: int, operator: tls.Files) -> Probe:
    """NATS takes `operator` in by its certificate, has JetStream, and answers a PING."""

    async def probe() -> None:
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        try:
            information = json.loads((await reader.readline()).removeprefix(b"INFO "))
            if not information.get("jetstream"):
                raise NotReady("NATS runs without JetStream")
            await writer.start_tls(tls.client_context(operator), server_hostname="nats")
            writer.write(b'CONNECT {"verbose":false,"pedantic":false,"lang":"python","version":"0"}\r\nPING\r\n')
            async for line in reader:
                if line.startswith(b"PONG"):
                    return
                if line.startswith(b"-ERR"):
                    raise NotReady(line.decode(errors="replace").strip())
            raise NotReady("NATS closed the connection")
        finally:
            writer.close()

    return probe


async def administer(path_of_socket: Path, method: str, path: str) -> str:
    """Asks Envoy's administration, which listens on a unix socket; the body of the answer. Raises as a probe does."""

    def connect() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(WITHIN)
        try:
            connection.connect(str(path_of_socket))
        except OSError:
            connection.close()
            raise
        return connection

    return await asyncio.to_thread(_ask, connect, method, path)


class _Connection(http.client.HTTPConnection):
    """An HTTP connection over a socket that somebody else opens."""

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        super().__init__("localhost")
        self._connect = connect

    def connect(self) -> None:
        self.sock = self._connect()


def _ask(connect: Callable[[], socket.socket], method: str, path: str) -> str:
    connection = _Connection(connect)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read().decode(errors="replace")
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        raise NotReady(f"{method} {path} answers {response.status}: {body[:200].strip()}")
    return body
