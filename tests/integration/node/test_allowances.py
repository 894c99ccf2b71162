"""A client that calls too often is told so at both doors, and how long to wait; others notice nothing."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator

import aiohttp
import grpc
import pytest
from solmu.messages.v1 import units_pb2, units_pb2_grpc

from deploy.local import demo_clients
from deploy.local.node import Node, NodeSettings, running
from gateway.client import Client, Profile
from services.runtime import status, tls

BURST = 6
PATH = f"/v1/units/{demo_clients.UNIT}"


@pytest.fixture(scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    settings = NodeSettings(state=tmp_path_factory.mktemp("limited") / "state", edge_port=0)
    async with running(settings) as node:  # the clients are made without limits, and the node starts again with them
        await demo_clients.provision(node.state, node=settings.node, edge=node.edge)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SOLMU_CLIENT_RATE", "1")
        environment.setenv("SOLMU_CLIENT_BURST", str(BURST))
        async with running(settings) as node:
            yield node


def profile(node: Node, client: demo_clients.DemoClient) -> Profile:
    return Profile.load(node.state.clients / client.client_id)


async def test_the_allowance_is_told_and_ends_with_a_time_to_wait(node: Node):
    permits = profile(node, demo_clients.PERMITS)
    async with Client(permits) as client:
        metadata = await client.metadata()  # the first call, for a token
    async with grpc.aio.secure_channel(permits.target, tls.channel_credentials(permits.files)) as channel:
        stub = units_pb2_grpc.UnitServiceStub(channel)
        left: list[int] = []

        async def call_until_refused() -> None:
            for _ in range(3 * BURST):
                call = stub.GetUnit(units_pb2.GetUnitRequest(name=f"units/{demo_clients.UNIT}"), metadata=metadata)
                await call
                told = {str(name): str(value) for name, value in await call.initial_metadata()}
                assert told["x-ratelimit-limit"].startswith(f"{BURST}")
                left.append(int(told["x-ratelimit-remaining"]))

        with pytest.raises(grpc.RpcError) as refused:
            await call_until_refused()
    assert left[0] <= BURST - 2
    assert left[-1] == 0
    fault = status.fault_of(refused.value)
    assert (fault.code, fault.reason, fault.retry_after) == ("RESOURCE_EXHAUSTED", "RATE_LIMITED", 1)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=_context(permits))) as session:
        seen: dict[int, tuple] = {}
        while len(seen) < 2:
            headers = {name: value for name, value in metadata if name == "authorization"}
            async with session.get(node.edge + PATH, headers=headers) as answer:
                seen[answer.status] = answer.headers, await answer.json(content_type=None)
            if answer.status == 429:
                await asyncio.sleep(0.3)
    told, problem = seen[429]
    assert (problem["reason"], told["retry-after"], told["x-ratelimit-remaining"]) == ("RATE_LIMITED", "1", "0")
    assert seen[200][0]["x-ratelimit-remaining"] == "0"


async def test_each_client_has_an_allowance_of_its_own_which_holds_for_tokens_too(node: Node):
    resident = profile(node, demo_clients.RESIDENT)
    connector = aiohttp.TCPConnector(ssl=_context(resident))
    async with aiohttp.ClientSession(connector=connector) as session:
        statuses = []
        for _ in range(3 * BURST):
            form = {"grant_type": "client_credentials", "client_id": demo_clients.RESIDENT.client_id}
            async with session.post(f"{node.edge}/oauth2/token", data=form) as answer:
                statuses.append(answer.status)
    assert statuses[:BURST] == [200] * BURST
    assert 429 in statuses


def _context(profile: Profile) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(profile.files.authorities))
    context.load_cert_chain(str(profile.files.certificate), str(profile.files.key))
    return context
