"""The edge takes part in a caller's trace, where traces are wanted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from tests.integration.gateway.rig import Rig

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans by OTLP."""

    def __init__(self) -> None:
        self.spans: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

    async def Export(self, request: Any, _: Any) -> Any:
        for resource in request.resource_spans:
            service = next(
                each.value.string_value for each in resource.resource.attributes if each.key == "service.name"
            )
            for scope in resource.scope_spans:
                for span in scope.spans:
                    await self.spans.put((service, span))
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
async def collector() -> AsyncIterator[tuple[Collector, str]]:
    server, taker = grpc.aio.server(), Collector()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(taker, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield taker, f"127.0.0.1:{port}"
    await server.stop(0)


async def test_a_traced_call_is_traced_on(tmp_path: Path, collector: tuple[Collector, str]) -> None:
    taker, address = collector
    async with Rig(tmp_path, traces=address) as rig:
        sampled = f"00-{TRACE}-b7ad6b7169203331-01"
        for _ in range(3):  # Envoy sends spans in groups of five, or later
            answer = await rig.rest("GET", "/v1/parcels/1?offset=4711", headers={"traceparent": sampled})
        seen = answer.json["headers"]["traceparent"]
        assert seen.startswith(f"00-{TRACE}-")
        assert seen != sampled

        spans = [await asyncio.wait_for(taker.spans.get(), 10) for _ in range(2)]
        assert {service for service, _ in spans} == {"edge"}
        assert {span.trace_id.hex() for _, span in spans} == {TRACE}
        ingress = {
            each.key: each.value.string_value for _, span in spans if span.name == "ingress" for each in span.attributes
        }
        assert ingress["http.route"] == "solmu.parcels.v1.ParcelService/GetParcel"
        assert not [text for text in ingress.values() if "4711" in text or "127.0.0.1" in text]
