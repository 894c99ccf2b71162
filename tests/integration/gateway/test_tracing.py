"""The edge takes part in a caller's trace, where traces are wanted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.gateway.rig import Rig
from tests.otlp import Collector, collecting

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
async def collector() -> AsyncIterator[tuple[Collector, str]]:
    async with collecting() as started:
        yield started


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
