"""What a node tells its operators: metrics for Prometheus, logs as JSON lines."""

from __future__ import annotations

import json
import re

import aiohttp
import pytest
from solmu.messages.v1.units_pb2 import GetUnitRequest

from deploy.local import demo_clients, plan
from deploy.local.node import Node
from gateway.client import Client
from services.runtime import mesh
from tests.integration.node.callers import profile


async def metrics(node: Node, service: str) -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{node.ports[plan.metrics(service)]}/metrics") as answer,
    ):
        assert answer.status == 200
        return await answer.text()


async def test_calls_are_counted_by_method_and_outcome(node: Node):
    async with Client(profile(node, "permits")) as client:
        await client.call(client.units.GetUnit, GetUnitRequest(name=f"units/{demo_clients.UNIT}"))
    told = await metrics(node, "messages")
    counted = re.search(
        r'solmu_calls_total\{code="OK",method="solmu.messages.v1.UnitService.GetUnit"\} ([0-9.]+)', told
    )
    assert counted
    assert float(counted[1]) >= 1
    assert "solmu_call_seconds_bucket" in told
    assert "solmu_outbox_waiting" in told


@pytest.mark.parametrize("process", [*mesh.SERVICES, mesh.GATEWAY])
def test_every_line_of_a_log_is_json(node: Node, process: str):
    lines = (node.state.log / f"{process}.log").read_text().splitlines()
    assert lines
    for line in lines:
        entry = json.loads(line)
        assert {"time", "level", "service", "logger", "message"} <= entry.keys()
