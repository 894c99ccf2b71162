"""A collector of traces, in this process: takes spans by OTLP as any does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass(frozen=True)
class Spans:
    """What a process sent at once: who it says that it is, and its spans as they came."""

    node: str
    service: str
    spans: tuple[Any, ...]


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what comes; `heard` is a queue of the same."""

    def __init__(self) -> None:
        self.taken: list[Spans] = []
        self.spans: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

    async def Export(self, request: Any, _: Any) -> Any:
        for resource in request.resource_spans:
            said = {each.key: each.value.string_value for each in resource.resource.attributes}
            spans = tuple(span for scope in resource.scope_spans for span in scope.spans)
            self.taken.append(Spans(said.get("service.namespace", ""), said["service.name"], spans))
            for span in spans:
                self.spans.put_nowait((said["service.name"], span))
        return trace_service_pb2.ExportTraceServiceResponse()

    def of_trace(self, trace: str) -> list[tuple[str, str, Any]]:
        """Node, service and span of each span of a trace."""
        return [
            (taken.node, taken.service, span)
            for taken in self.taken
            for span in taken.spans
            if span.trace_id.hex() == trace
        ]


@asynccontextmanager
async def collecting() -> AsyncIterator[tuple[Collector, str]]:
    """A collector, and its address."""
    server, collector = grpc.aio.server(), Collector()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield collector, f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
