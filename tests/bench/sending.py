"""Messages accepted per second, through the edge and straight to the service, in the same run.

Both ways carry the same request with the same token over mTLS, one call at a
time per connection; a message without attachments, 1 KiB of text. The straight
way shows the service the edge's certificate and what the edge would forward.
The rounds alternate, so that whatever else the machine does meets both alike.
The load comes from one process on the same cores.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import statistics
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from solmu.messages.v1 import mailboxes_pb2, messages_pb2, messages_pb2_grpc

from deploy.local import demo_clients
from deploy.local.node import Node, NodeSettings, running
from gateway.client import Client, Profile
from services.runtime import mesh, tls
from tests.bench.report import percentile

CONNECTIONS = (1, 16, 64)
ROUNDS = 3
SECONDS = 4.0
WARM_UP = 1.0
TEXT = "Päätös on liitteenä. " * 50


@dataclass
class Result:
    """What one round measured."""

    seconds: float
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds


async def measure(state: Path) -> None:
    """Prints a table: messages per second and latencies, both ways, and the edge's share of the straight rate."""
    async with running(NodeSettings(state=state, edge_port=0)) as node:
        await demo_clients.provision(node.state, node=node.settings.node, edge=node.edge)
        async with Client(Profile.load(node.state.clients / demo_clients.RESIDENT.client_id)) as resident:
            mailbox = await resident.call(resident.mailboxes.OpenMailbox, mailboxes_pb2.OpenMailboxRequest())
        profile = Profile.load(node.state.clients / demo_clients.PERMITS.client_id)
        print("messages accepted per second, gRPC, one call at a time per connection")
        print(f"  {'connections':>11}  {'way':<8} {'msg/s':>7} {'p50 ms':>8} {'p99 ms':>8}  edge / straight")
        for connections in CONNECTIONS:
            edge, straight = [], []
            for _ in range(ROUNDS):
                straight.append(await _round(node, profile, mailbox.name, connections, straight=True))
                edge.append(await _round(node, profile, mailbox.name, connections, straight=False))
            _print(connections, "straight", straight)
            ratio = statistics.median(one.rate for one in edge) / statistics.median(one.rate for one in straight)
            _print(connections, "edge", edge, f"{ratio:.2f}")
        print()


async def _round(node: Node, profile: Profile, mailbox: str, connections: int, *, straight: bool) -> Result:
    async with Client(profile) as client:
        metadata = await client.metadata()
    if straight:
        target = f"127.0.0.1:{node.ports['messages']}"
        files, name = node.state.identity(mesh.EDGE), "messages"
        metadata.append(("x-forwarded-client-cert", f"Hash={_fingerprint(profile.files)}"))
    else:
        target, files, name = profile.target, profile.files, "localhost"
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", name)]
    channels = [
        grpc.aio.secure_channel(target, tls.channel_credentials(files), options=options) for _ in range(connections)
    ]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    result = Result(SECONDS)
    begin = time.perf_counter() + WARM_UP
    await asyncio.gather(*(_send(channel, metadata, mailbox, begin, result) for channel in channels))
    await asyncio.gather(*(channel.close() for channel in channels))
    return result


async def _send(
    channel: grpc.aio.Channel, metadata: Sequence[tuple[str, str]], mailbox: str, begin: float, result: Result
) -> None:
    stub = messages_pb2_grpc.MessageServiceStub(channel)
    message = messages_pb2.Message(
        recipient=messages_pb2.Recipient(mailbox=mailbox),
        title="Decision",
        bodies=[messages_pb2.Body(language="fi", text=TEXT)],
    )
    while (started := time.perf_counter()) < begin + SECONDS:
        request = messages_pb2.SendMessageRequest(
            parent=f"units/{demo_clients.UNIT}", idempotency_key=str(uuid.uuid4()), message=message
        )
        await stub.SendMessage(request, metadata=metadata)
        if started >= begin:
            result.latencies.append(time.perf_counter() - started)


def _print(connections: int, way: str, results: Sequence[Result], ratio: str = "") -> None:
    rate = statistics.median(result.rate for result in results)
    latencies = [latency for result in results for latency in result.latencies]
    p50, p99 = (percentile(latencies, share) * 1000 for share in (0.5, 0.99))
    print(f"  {connections:>11}  {way:<8} {rate:7.0f} {p50:8.1f} {p99:8.1f}  {ratio}", flush=True)


def _fingerprint(files: tls.Files) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(files.certificate.read_text())).hexdigest()
