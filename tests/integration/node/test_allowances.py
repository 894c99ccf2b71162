"""A client that calls too often is told so at both doors, and how long to wait."""

from __future__ import annotations

import asyncio
import ssl

import aiohttp
import grpc
import pytest
from solmu.messages.v1 import units_pb2, units_pb2_grpc

from deploy.local import demo_clients
from deploy.local.node import NodeSettings, running
from gateway.client import Client, Profile
from services.runtime import status, tls


async def test_the_allowance_is_told_and_ends_with_a_time_to_wait(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
    settings = NodeSettings(state=tmp_path_factory.mktemp("limited") / "state", edge_port=0)
    async with running(settings) as node:  # the clients are made without limits, and the node starts again with them
        await demo_clients.provision(node.state, node=settings.node, edge=node.edge)
    monkeypatch.setenv("SOLMU_CLIENT_RATE", "1")
    monkeypatch.setenv("SOLMU_CLIENT_BURST", "6")
    async with running(settings) as node:
        profile = Profile.load(node.state.clients / demo_clients.PERMITS.client_id)
        async with Client(profile) as client:
            metadata = await client.metadata()
        left, refused = await _by_grpc(profile, metadata)
        assert left[:3] == [None, None, None]
        assert {"2", "1", "0"} <= set(left[3:])
        assert (refused.code, refused.reason) == ("RESOURCE_EXHAUSTED", "RATE_LIMITED")
        assert refused.retry_after is not None
        assert 0 < refused.retry_after <= 1

        context = ssl.create_default_context(cafile=str(profile.files.authorities))
        context.load_cert_chain(str(profile.files.certificate), str(profile.files.key))
        headers = {name: value for name, value in metadata if name == "authorization"}
        path = f"{node.edge}/v1/units/{demo_clients.UNIT}"
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
            seen: dict[int, tuple] = {}
            while len(seen) < 2:
                async with session.get(path, headers=headers) as answer:
                    seen[answer.status] = answer.headers, await answer.json(content_type=None)
                if answer.status == 429:
                    await asyncio.sleep(0.2)
        told, problem = seen[429]
        assert (problem["reason"], told["retry-after"]) == ("RATE_LIMITED", "1")
        told, _ = seen[200]
        assert (told["ratelimit-limit"], told["ratelimit-remaining"]) == ("6", "0")


async def _by_grpc(profile: Profile, metadata):
    """What each answer says is left, until one is refused."""
    left: list[str | None] = []
    async with grpc.aio.secure_channel(profile.target, tls.channel_credentials(profile.files)) as channel:
        stub = units_pb2_grpc.UnitServiceStub(channel)
        for _ in range(30):
            call = stub.GetUnit(units_pb2.GetUnitRequest(name=f"units/{demo_clients.UNIT}"), metadata=metadata)
            try:
                await call
            except grpc.RpcError as error:
                return left, status.fault_of(error)
            told = {str(name): str(value) for name, value in await call.initial_metadata()}
            left.append(told.get("ratelimit-remaining"))
    raise AssertionError("nothing was refused")
