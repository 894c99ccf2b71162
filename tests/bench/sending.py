"""Messages accepted per second, through the edge and straight to the service, in the same run.

Both ways carry the same request with the same token over mTLS, one call at a
time per connection; a message without attachments, 1 KiB of text. The straight
way shows the service the edge's certificate and what the edge would forward.
The rounds alternate, so that whatever else the machine does meets both alike.
The load comes from one process on the same cores. Beside them: one stream of
many messages, both ways, and as many streams as the service has processes, on
a node that has more than one; the same rows written by PostgreSQL alone, in
batches; and how long after its acceptance a message is told of in the feed.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import statistics
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import grpc
from solmu.messages.v1 import feed_pb2, mailboxes_pb2, messages_pb2, messages_pb2_grpc

from deploy.local import demo_clients
from deploy.local.node import Node, NodeSettings, running
from gateway.client import Client, Profile, batches
from services.runtime import mesh, tls
from services.runtime.database import Database, Row
from services.runtime.ids import new_id, new_ids
from services.runtime.telemetry import Telemetry
from tests.bench.report import percentile

CONNECTIONS = (1, 16, 64)
ROUNDS = 3
SECONDS = 4.0
WARM_UP = 1.0
TEXT = "Päätös on liitteenä. " * 50
STREAMED = 20_000
"""Messages of one stream."""
PROCESSES = 2
"""Of the service messages, where several streams share a node."""
BATCH = 250
"""Messages that one statement writes where PostgreSQL is alone."""
LAGS = 200
"""Messages whose way to the feed is timed, one every PAUSE seconds."""
PAUSE = 0.02

COLUMNS = """
    select column_name from information_schema.columns
    where table_schema = 'public' and table_name = $1 and is_identity = 'NO' and is_generated = 'NEVER'
    order by ordinal_position
"""
_LAST = f"select * from message where direction = 1 order by message_id desc limit {BATCH}"
SENT = {
    "message": _LAST,
    "delivery": f"select d.* from delivery d join ({_LAST}) m using (message_id)",
    "feed_event": f"select * from feed_event order by sequence desc limit {2 * BATCH}",
}
"""What is kept of messages, as the last of them left it."""
MANY = 1_000_000_000
"""More than a feed has events here."""


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
        lags = await _lags(profile, mailbox.name)  # while the feed is empty, so that the stream is at its end
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
        for way in ("straight", "edge"):
            rates = [await _streamed(node, profile, mailbox.name, straight=way == "straight") for _ in range(ROUNDS)]
            print(f"  {'one stream':>11}  {way:<8} {statistics.median(rates):7.0f}", flush=True)
        print(f"  the same rows by batches of {BATCH} in PostgreSQL alone: {await _plainly(node):.0f} messages/s")
        p50, p99 = (percentile(lags, share) * 1000 for share in (0.5, 0.99))
        print(f"  from acceptance to the feed's stream, {1 / PAUSE:.0f} messages/s: p50 {p50:.0f} ms, p99 {p99:.0f} ms")
    async with running(NodeSettings(state=state, edge_port=0, messages_processes=PROCESSES)) as node:
        profile = Profile.load(node.state.clients / demo_clients.PERMITS.client_id)  # the edge has another port
        rates = [await _streams(node, profile, mailbox.name) for _ in range(ROUNDS + 1)][1:]
        print(f"  {PROCESSES} processes, a stream each, edge {statistics.median(rates):7.0f}\n", flush=True)


async def _way(
    node: Node, profile: Profile, *, straight: bool
) -> tuple[Callable[[], grpc.aio.Channel], list[tuple[str, str]]]:
    """Makes channels of one way, and what every call on them carries."""
    async with Client(profile) as client:
        metadata = await client.metadata()
    if straight:
        target = f"127.0.0.1:{node.ports['messages']}"
        files, name = node.state.identity(mesh.EDGE), "messages"
        metadata.append(("x-forwarded-client-cert", f"Hash={_fingerprint(profile.files)}"))
    else:
        target, files, name = profile.target, profile.files, "localhost"
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", name)]
    return lambda: grpc.aio.secure_channel(target, tls.channel_credentials(files), options=options), metadata


async def _round(node: Node, profile: Profile, mailbox: str, connections: int, *, straight: bool) -> Result:
    channel, metadata = await _way(node, profile, straight=straight)
    channels = [channel() for _ in range(connections)]
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
    while (started := time.perf_counter()) < begin + SECONDS:
        await stub.SendMessage(_request(mailbox), metadata=metadata)
        if started >= begin:
            result.latencies.append(time.perf_counter() - started)


def _request(mailbox: str) -> messages_pb2.SendMessageRequest:
    request = messages_pb2.SendMessageRequest(parent=f"units/{demo_clients.UNIT}", idempotency_key=str(uuid.uuid4()))
    message = request.message  # filled in its place: the load generator works on the same cores
    message.recipient.mailbox, message.title = mailbox, "Decision"
    message.bodies.add(language="fi", text=TEXT)
    return request


async def _streamed(node: Node, profile: Profile, mailbox: str, *, straight: bool) -> float:
    """Messages per second of one stream."""
    channel, metadata = await _way(node, profile, straight=straight)

    async with channel() as open_channel:
        await open_channel.channel_ready()
        begin = time.perf_counter()
        stub = messages_pb2_grpc.MessageServiceStub(open_channel)
        asked = batches.requests(_request(mailbox) for _ in range(STREAMED))
        results = [
            result async for response in stub.SendMessages(asked, metadata=metadata) for result in response.results
        ]
        seconds = time.perf_counter() - begin
    assert len(results) == STREAMED
    assert all(result.HasField("message") for result in results)
    return len(results) / seconds


async def _streams(node: Node, profile: Profile, mailbox: str) -> float:
    """Messages per second of as many streams at once, through the edge, as the service has processes."""
    begin = time.perf_counter()
    await asyncio.gather(*(_streamed(node, profile, mailbox, straight=False) for _ in range(PROCESSES)))
    return PROCESSES * STREAMED / (time.perf_counter() - begin)


async def _plainly(node: Node) -> float:
    """Messages per second where nobody thinks: what was just sent, under new ids, with its deliveries and events.

    One connection, one transaction for each batch, prepared inserts of many rows.
    """
    database = await Database.connect(
        f"postgresql://messages@127.0.0.1:{node.ports['postgres']}/messages",
        files=node.state.identity("messages"),
        size=1,
        telemetry=Telemetry(),
    )
    columns = {table: [row["column_name"] for row in await database.fetch(COLUMNS, table)] for table in SENT}
    rows = {table: await database.fetch(query) for table, query in SENT.items()}
    written = 0
    begin = time.perf_counter()
    while time.perf_counter() < begin + SECONDS:
        messages = dict(zip((row["message_id"] for row in rows["message"]), new_ids(BATCH), strict=True))
        async with database.transaction() as transaction:
            for table, names in columns.items():
                places = ", ".join(f"${number}" for number in range(1, len(names) + 1))
                await transaction.executemany(
                    f"insert into {table} ({', '.join(names)}) values ({places})",
                    [[_renewed(name, row, messages, written) for name in names] for row in rows[table]],
                )
        written += BATCH
    seconds = time.perf_counter() - begin
    await database.close()
    return written / seconds


def _renewed(name: str, row: Row, messages: Mapping[UUID, UUID], written: int) -> object:
    """A value of a row that is kept once more, `written` messages later."""
    match name:
        case "message_id" | "thread":
            return messages[row["message_id"]]
        case "idempotency_key":
            return str(uuid.uuid4())
        case "delivery_id" | "event_id":
            return new_id()
        case "sequence":
            return row["sequence"] + MANY + 2 * written
    return row[name]


async def _lags(profile: Profile, mailbox: str) -> list[float]:
    """Seconds from each acceptance to the moment that a reader of the feed hears of it."""
    accepted: dict[str, float] = {}
    heard: dict[str, float] = {}
    async with Client(profile) as office:
        stream = office.feed.StreamEvents(
            feed_pb2.StreamEventsRequest(parent=f"units/{demo_clients.UNIT}"), metadata=await office.metadata()
        )

        async def listen() -> None:
            async for event in stream:
                if event.type == "message.accepted":
                    heard[event.message] = time.perf_counter()

        listening = asyncio.create_task(listen())
        await asyncio.sleep(0.5)
        for _ in range(LAGS):
            sent = await office.call(office.messages.SendMessage, _request(mailbox))
            accepted[sent.name] = time.perf_counter()
            await asyncio.sleep(PAUSE)
        async with asyncio.timeout(10):
            while not accepted.keys() <= heard.keys():
                await asyncio.sleep(0.05)
        listening.cancel()
    return [max(0.0, heard[name] - time_) for name, time_ in accepted.items()]


def _print(connections: int, way: str, results: Sequence[Result], ratio: str = "") -> None:
    rate = statistics.median(result.rate for result in results)
    latencies = [latency for result in results for latency in result.latencies]
    p50, p99 = (percentile(latencies, share) * 1000 for share in (0.5, 0.99))
    print(f"  {connections:>11}  {way:<8} {rate:7.0f} {p50:8.1f} {p99:8.1f}  {ratio}", flush=True)


def _fingerprint(files: tls.Files) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(files.certificate.read_text())).hexdigest()
