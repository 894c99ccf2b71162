"""What the node's processes hold while 2 GiB go up and down through the edge, beside an eighth of it in the same run.

By gRPC, and by the form of the Suomi.fi Messages REST API, whose adapter stands
between edge and service. Seconds are for orientation: the client is in them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from deploy.local import demo_clients
from deploy.local.node import Node, NodeSettings, running
from gateway.client import Client, Profile
from gateway.client.connector import Connector
from tests.bench.memory import Watch

SIZES = (256 << 20, 2 << 30)
"""Bytes of the attachments; the larger is the most that one may have."""

WATCHED = ("messages", "gateway", "envoy")
PIECE = 1 << 20


async def measure(state: Path) -> None:
    """Prints the memory of each process before, and the most that it held meanwhile."""
    async with running(NodeSettings(state=state, edge_port=0)) as node:
        await demo_clients.provision(node.state, node=node.settings.node, edge=node.edge)
        profile = Profile.load(node.state.clients / demo_clients.PERMITS.client_id)
        print("memory while an attachment goes up and down through the edge (resident), MB")
        print(f"  {'':32}" + "".join(f"{name:>17}" for name in WATCHED))
        async with (
            Client(profile) as permits,
            Connector(profile) as connector,
            aiohttp.ClientSession(connector.address, timeout=_LONG) as http,
        ):
            await permits.rest("GET", f"/v1/units/{demo_clients.UNIT}")
            for size in SIZES:
                await _there_and_back(node, permits, http, state.parent, size)
        print()


async def _there_and_back(node: Node, permits: Client, http: aiohttp.ClientSession, folder: Path, size: int) -> None:
    file, copy = folder / "large.pdf", folder / "copy.pdf"
    with file.open("wb") as content:  # a file with a hole: zeros that take no room
        content.write(b"%PDF-1.7\n")
        content.truncate(size)
    label = f"{size >> 20:5} MiB"
    async with _watched(node, f"{label} up, gRPC"):
        attachment = await permits.upload_file(file)
    async with _watched(node, f"{label} down, gRPC"):
        await permits.download_file(attachment.name, copy, sha256=attachment.sha256)
    copy.unlink()
    async with _watched(node, f"{label} up, Suomi.fi"):
        await _upload(http, file)
    file.unlink()


_LONG = aiohttp.ClientTimeout(total=3600)


async def _upload(http: aiohttp.ClientSession, file: Path) -> None:
    credentials = {"username": demo_clients.PERMITS.client_id, "password": "of no matter"}
    async with http.post("/v1/token", json=credentials) as answer:
        token = (await answer.json())["access_token"]
    form = aiohttp.MultipartWriter("form-data")
    form.append(_pieces(file)).set_content_disposition("form-data", name="file", filename=file.name)
    async with http.post("/v2/attachments", data=form, headers={"authorization": token}) as answer:
        assert answer.status == 200, await answer.text()


async def _pieces(file: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(file.open, "rb") as content:
        while piece := await asyncio.to_thread(content.read, PIECE):
            yield piece


@asynccontextmanager
async def _watched(node: Node, label: str) -> AsyncIterator[None]:
    async with Watch([(node, name) for name in WATCHED]) as watch:
        began = time.perf_counter()
        yield
        seconds = time.perf_counter() - began
    held = "".join(f"{before:8.0f} -> {most:5.0f}" for before, most in watch.held())
    print(f"  {label:24}{seconds:6.1f} s {held}", flush=True)
