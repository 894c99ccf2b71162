"""A member's own gRPC service, of any contract: a grpcio server that knows nothing of Solmu."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

PACKAGE = "/parcels.v1.Parcels"
MOST = 8 << 20


@dataclass
class Backend:
    """The server, while it runs."""

    port: int = 0
    called: list[str] = field(default_factory=list)
    """Paths of calls whose method began."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Of the last call."""
    messages: list[bytes] = field(default_factory=list)
    """Of the last call."""
    remaining: float | None = None
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def begin(self, path: str, context: Any) -> None:
        self.called.append(path)
        self.metadata = dict(context.invocation_metadata())
        self.messages = []
        self.remaining = context.time_remaining()

    async def join(self, message: bytes, context: Any) -> bytes:
        self.begin("Join", context)
        self.messages.append(message)
        forged = (("solmu-exchange", "exchanges/forged"), ("solmu-request-statement", "statements/forged"))
        await context.send_initial_metadata((("began", "yes"), ("raw-bin", b"\x00\xff"), *forged))
        context.set_trailing_metadata((("ended", "yes"), ("tail-bin", b"\xfe"), *forged))
        return b"<" + message + b">"

    async def collect(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        self.begin("Collect", context)
        async for message in requests:
            self.messages.append(message)
        return b"+".join(self.messages)

    async def count(self, message: bytes, context: Any) -> AsyncIterator[bytes]:
        self.begin("Count", context)
        for number in range(int(message)):
            yield b"%d" % number

    async def echo(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        self.begin("Echo", context)
        async for message in requests:
            self.messages.append(message)
            yield message

    async def swallow(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        """Takes all, keeps nothing, and says how much it was."""
        self.begin("Swallow", context)
        size = 0
        async for message in requests:
            size += len(message)
        return b"%d" % size

    async def pour(self, message: bytes, context: Any) -> AsyncIterator[bytes]:
        """As many bytes as it is asked for, in messages of a mebibyte."""
        self.begin("Pour", context)
        piece, size = bytes(1 << 20), int(message)
        for at in range(0, size, len(piece)):
            yield piece[: size - at]

    async def enough(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        self.begin("Enough", context)
        async for message in requests:
            yield message
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "that will do")

    async def fail(self, message: bytes, context: Any) -> bytes:
        self.begin("Fail", context)
        packed = any_pb2.Any()
        packed.Pack(error_details_pb2.ErrorInfo(reason="PARCEL_LOST", domain="parcels.example"))
        status = status_pb2.Status(code=grpc.StatusCode.NOT_FOUND.value[0], message="ä parcel 100 %", details=[packed])
        await context.abort_with_status(rpc_status.to_status(status))
        return message

    async def hang(self, message: bytes, context: Any) -> bytes:
        self.begin("Hang", context)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return message


@asynccontextmanager
async def running() -> AsyncIterator[Backend]:
    """A backend on loopback."""
    backend = Backend()
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Join": grpc.unary_unary_rpc_method_handler(backend.join),
        "Collect": grpc.stream_unary_rpc_method_handler(backend.collect),
        "Count": grpc.unary_stream_rpc_method_handler(backend.count),
        "Echo": grpc.stream_stream_rpc_method_handler(backend.echo),
        "Swallow": grpc.stream_unary_rpc_method_handler(backend.swallow),
        "Pour": grpc.unary_stream_rpc_method_handler(backend.pour),
        "Enough": grpc.stream_stream_rpc_method_handler(backend.enough),
        "Fail": grpc.unary_unary_rpc_method_handler(backend.fail),
        "Hang": grpc.unary_unary_rpc_method_handler(backend.hang),
    }
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", MOST)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(PACKAGE[1:], handlers),))
    servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    await servicer.set("parcels", health_pb2.HealthCheckResponse.SERVING)
    backend.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield backend
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await server.stop(0)
