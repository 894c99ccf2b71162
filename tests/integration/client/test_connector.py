"""The connector before a node: systems without a certificate of their own, by HTTP/1.1 and gRPC."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import sys

import aiohttp
import grpc
import pytest
from google.api import httpbody_pb2
from solmu.messages.v1 import attachments_pb2, attachments_pb2_grpc, units_pb2, units_pb2_grpc

from deploy.local.node import Node
from gateway.client import Client, Profile
from gateway.client.connector import Connector


def profile(node: Node) -> Profile:
    return Profile.load(node.state.clients / "permits")


async def token(http: aiohttp.ClientSession) -> str:
    form = {"grant_type": "client_credentials", "client_id": "permits"}
    async with http.post("/oauth2/token", data=form) as answer:
        return str((await answer.json())["access_token"])


async def test_a_system_without_a_certificate_gets_a_token_and_calls_by_rest(node: Node):
    async with Connector(profile(node)) as connector, aiohttp.ClientSession(connector.address) as http:
        headers = {"authorization": f"Bearer {await token(http)}"}
        for _ in range(3):  # on one connection
            async with http.get("/v1/units/permits", headers=headers) as answer:
                assert (answer.status, (await answer.json())["name"]) == (200, "units/permits")
        async with http.get("/v1/units/permits") as answer:
            assert (answer.status, (await answer.json())["reason"]) == (401, "TOKEN_MISSING")


async def test_a_system_without_a_certificate_calls_and_streams_by_grpc(node: Node):
    content = os.urandom(3 << 19).hex().encode()
    async with Client(profile(node)) as office:
        attachment = await office.upload(content, file_name="a.txt", media_type="text/plain")
    async with Connector(profile(node)) as connector, aiohttp.ClientSession(connector.address) as http:
        metadata = [("authorization", f"Bearer {await token(http)}")]
        async with grpc.aio.insecure_channel(connector.address.removeprefix("http://")) as channel:
            units = units_pb2_grpc.UnitServiceStub(channel)
            unit = await units.GetUnit(units_pb2.GetUnitRequest(name="units/permits"), metadata=metadata)
            assert unit.name == "units/permits"
            with pytest.raises(grpc.RpcError) as refused:
                await units.GetUnit(units_pb2.GetUnitRequest(name="units/permits"))
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            attachments = attachments_pb2_grpc.AttachmentServiceStub(channel)
            asked = attachments_pb2.DownloadAttachmentRequest(name=attachment.name)
            pieces: list[httpbody_pb2.HttpBody] = [
                piece async for piece in attachments.DownloadAttachment(asked, metadata=metadata)
            ]
            assert b"".join(piece.data for piece in pieces) == content


async def test_an_edge_that_is_away_is_a_problem_document(node: Node):
    away = dataclasses.replace(profile(node), edge="https://localhost:1")
    async with (
        Connector(away) as connector,
        aiohttp.ClientSession(connector.address) as http,
        http.get("/v1/units") as answer,
    ):
        assert (answer.status, (await answer.json(content_type=None))["reason"]) == (503, "UNAVAILABLE")


async def test_a_page_of_another_site_does_not_reach_the_edge(node: Node):
    async with Connector(profile(node)) as connector, aiohttp.ClientSession(connector.address) as http:
        for headers in ({"origin": "https://evil.example"}, {"host": "evil.example"}):
            async with http.post("/oauth2/token", data={"grant_type": "x"}, headers=headers) as answer:
                assert (answer.status, (await answer.json(content_type=None))["reason"]) == (403, "CALLER_NOT_ALLOWED")


async def test_the_command_forwards_until_it_is_told_to_end(node: Node):
    command = ["-m", "gateway.client.command", "--json", "--profile", str(node.state.clients / "permits")]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, "connect", "--listen", "127.0.0.1:0", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    said = json.loads(await process.stdout.readline())
    async with aiohttp.ClientSession(said["listen"]) as http:
        assert await token(http)
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0
