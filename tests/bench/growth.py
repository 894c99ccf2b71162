"""What a message costs while the store grows: empty, a tenth of `--messages`, all of it, in the same run.

The store is filled with rows such as the node writes, by PostgreSQL itself;
ids and keys are random, so that indexes grow as they do in life. Then messages
to mailboxes at random are sent through the edge, streamed and one by one, and
the pages are read that senders and residents read. Streams are measured cold,
when most messages are the first to touch a page of an index since it was
filled, and warm, when a share of the store (WARMING) has been sent since.
Processor time is that of the whole process and its children: PostgreSQL's is in
it with all that it does by itself, such as checkpoints. The journal is what
PostgreSQL wrote to its write-ahead log.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import psutil
from google.protobuf.message import Message
from solmu.messages.v1 import feed_pb2, inbox_pb2, mailboxes_pb2, messages_pb2

from deploy.local import demo_clients
from deploy.local.node import Node, NodeSettings, running
from deploy.local.postgres import SUPERUSER
from gateway.client import Client, Profile
from services.messages.feed import cursor
from services.runtime import mesh, tls
from services.runtime.database import Database
from services.runtime.ids import new_id
from services.runtime.keys import service_keys
from services.runtime.keys.root import FileRoot
from services.runtime.telemetry import Telemetry
from tests.bench.sending import TEXT

MESSAGES = 200_000
"""By default: some two minutes. Ten millions take 20 GB and an hour."""

PER_MAILBOX = 50
"""Messages that lie in a mailbox in the end."""

STREAMED, SINGLE, CALLERS, PAGES = 20_000, 2_000, 16, 100
WARMING = 25
"""One message for so many in the store is sent between a cold stream and a warm one."""

CHUNK = 20_000
"""Messages that one statement fills in."""

PARTS = ("messages", "postgres", "envoy")
RANDOM_KEY_INDEXES = ("message_by_idempotency_key", "message_released")
"""Dropped for the filling, and built again: page by page they would be written as often as messages."""

UNIT = demo_clients.UNIT

FILL = """
with old as materialized (
    select m.message_id, m.mailbox_id, m.idempotency_key, $1::bigint + number as number, now() - interval '30 days'
        + ($1::bigint + number) * interval '0.1 s' as time
    from (
        select number, h as idempotency_key,
            (lpad(to_hex(1700000000000 + $1::bigint + number), 12, '0') || '7' || substr(h, 1, 3) || '8' || substr(h, 4, 15))
                ::uuid as message_id,
            ($3::uuid[])[1 + (hashint8($1::bigint + number) & 2147483647) % cardinality($3::uuid[])] as mailbox_id
        from generate_series(1, $2::bigint) as number, md5(($1::bigint + number)::text) as h
    ) as m
), sent as (
    insert into message (message_id, unit_id, mailbox_id, direction, kind, state, idempotency_key, content_digest,
        content, correlation_id, case_id, thread, sender_party, sender_client, create_time, release_time,
        recipient_only, legal_profile, legal_state, legal_time, legal_basis)
    select message_id, $4, mailbox_id, 1, 1, 4, idempotency_key, decode(md5(idempotency_key) || idempotency_key, 'hex'),
        $5, '', '', message_id, $6, 'clients/permits', time, time, false, 'fi-2010', 2, time, 3 from old
), delivered as (
    insert into delivery (message_id, delivery_id, channel, state, update_time, available_time)
    select message_id, gen_random_uuid(), 1, 2, time, time from old
), placed as (
    update feed set last = last + 2 * $2 where unit_id = $4 returning last - 2 * $2 - 2 * $1 as before
)
insert into feed_event (unit_id, sequence, event_id, type, event, time)
select $4, before + 2 * number - nth, gen_random_uuid(), 'message.accepted', substr($5, 1, 170), time
from placed, old, generate_series(0, 1) as nth order by 2
"""


@dataclass
class Cost:
    """What a number of messages, or calls, cost."""

    count: int
    seconds: float
    cpu: dict[str, float]
    journal: int

    def __str__(self) -> str:
        per = " ".join(f"{self.cpu[part] / self.count * 1e6:9.0f}" for part in PARTS)
        together, rate = sum(self.cpu.values()) / self.count * 1e6, self.count / self.seconds
        return f"{per} {together:9.0f} {rate:9.0f} {self.journal / self.count:10.0f}"


async def measure(state: Path, *, messages: int) -> None:
    """Prints what messages and pages cost at each size of the store."""
    async with running(NodeSettings(state=state, edge_port=0)) as node:
        await demo_clients.provision(node.state, node=node.settings.node, edge=node.edge)
        connection = await asyncpg.connect(
            f"postgresql://messages@127.0.0.1:{node.ports['postgres']}/messages",
            ssl=tls.client_context(node.state.identity("messages")),
        )
        try:
            await Growth(node, connection).measure((0, messages // 10, messages))
        finally:
            await connection.close()


class Growth:
    """A node whose store grows."""

    def __init__(self, node: Node, connection: asyncpg.Connection) -> None:
        self._node = node
        self._connection = connection
        self._filled = 0
        self._content = random.randbytes(600)
        self._resident = Profile.load(node.state.clients / demo_clients.RESIDENT.client_id)
        self._permits = Profile.load(node.state.clients / demo_clients.PERMITS.client_id)

    async def measure(self, sizes: tuple[int, ...]) -> None:
        """Prints a table for each size."""
        self._mailboxes = await self._open(max(1000, sizes[-1] // PER_MAILBOX))
        print(f"what a message costs while the store grows; {len(self._mailboxes):,} mailboxes")
        print(
            f"  {'':14} {'processor time, us:':<19}",
            *(f"{part:>9}" for part in (*PARTS, "together", "a second")),
            " journal, B",
        )
        async with Client(self._resident) as resident, Client(self._permits) as permits:
            own = await resident.call(resident.mailboxes.OpenMailbox, mailboxes_pb2.OpenMailboxRequest())
            for size in sizes:
                took = await self._fill(size)
                await self._send(permits, [own.name] * 60)
                print(
                    f"  {size:>14,} {'streamed, cold':<19}", await self._cost(lambda: self._stream(permits)), flush=True
                )
                for _ in range(size // WARMING // STREAMED):
                    await self._stream(permits)
                for what, work in self._works(permits, resident, own.name):
                    print(f"  {size:>14,} {what:<19}", await self._cost(work), flush=True)
                gigabytes = await self._connection.fetchval("select pg_database_size(current_database())") / 1e9
                print(f"  {'':14} {gigabytes:.1f} GB, filled in {took:.0f} s; free on disk {_free(self._node)} GB")
        print()

    def _works(
        self, permits: Client, resident: Client, mailbox: str
    ) -> Iterator[tuple[str, Callable[[], Awaitable[int]]]]:
        yield "streamed, warm", lambda: self._stream(permits)
        yield f"single, {CALLERS} callers", lambda: self._singly(permits)
        unit = messages_pb2.ListMessagesRequest(parent=f"units/{UNIT}", page_size=50)
        yield "unit's messages", lambda: _pages(permits, permits.messages.ListMessages, unit)
        yield "of one key", lambda: self._by_key(permits)
        post = messages_pb2.ListMessagesRequest(
            parent=f"units/{UNIT}", direction=messages_pb2.Message.DIRECTION_INBOUND
        )
        yield "unit's own post", lambda: _pages(permits, permits.messages.ListMessages, post)
        box = inbox_pb2.ListInboxMessagesRequest(parent=mailbox, page_size=50)
        yield "mailbox's messages", lambda: _pages(resident, resident.inbox.ListInboxMessages, box)
        yield "page of the feed", lambda: self._feed(permits)

    async def _open(self, count: int) -> list[str]:
        """Mailboxes with keys of their own, in which messages open."""
        database = await Database.connect(
            f"postgresql://messages@127.0.0.1:{self._node.ports['postgres']}/messages",
            files=self._node.state.identity("messages"),
            size=1,
            telemetry=Telemetry(),
        )
        vault = await service_keys.open_vault(database, FileRoot((self._node.state.secrets / "root.key").read_bytes()))
        await database.close()
        ids = [new_id() for _ in range(count)]
        await self._connection.execute(
            "insert into mailbox (mailbox_id, party, kind, state, legal_basis, legal_basis_reference, create_time,"
            " data_key) select id, 'persons/' || id, 1, 1, 1, '', $3, key from unnest($1::uuid[], $2::bytea[]) as t"
            " (id, key)",
            ids,
            [vault.new_key(owner=f"mailboxes/{one}") for one in ids],
            datetime.now(UTC),
        )
        return [f"mailboxes/{one}" for one in ids]

    async def _fill(self, size: int) -> float:
        """Brings the store to a size; seconds."""
        began = time.perf_counter()
        if size <= self._filled:
            return 0.0
        built = {
            name: await self._connection.fetchval("select pg_get_indexdef($1::regclass)", name)
            for name in RANDOM_KEY_INDEXES
        }
        boxes = [name.split("/")[1] for name in self._mailboxes]
        party = await self._connection.fetchval("select organisation from unit where unit_id = $1", UNIT)
        await self._connection.execute("set synchronous_commit = off; set maintenance_work_mem = '512MB'")
        await self._connection.execute(f"drop index {', '.join(built)}")
        while self._filled < size:
            count = min(CHUNK, size - self._filled)
            await self._connection.execute(FILL, self._filled, count, boxes, UNIT, self._content, party)
            self._filled += count
        for definition in built.values():
            await self._connection.execute(definition)
        for table in ("message", "delivery", "feed_event"):
            await self._connection.execute(f"vacuum analyze {table}")
        await self._checkpoint()
        return time.perf_counter() - began

    async def _checkpoint(self) -> None:
        """Has PostgreSQL write out what was filled in, lest it does so while messages are measured."""
        administrator = await asyncpg.connect(
            f"postgresql://{SUPERUSER}@127.0.0.1:{self._node.ports['postgres']}/messages",
            ssl=tls.client_context(self._node.state.identity(mesh.OPERATOR)),
        )
        await administrator.execute("checkpoint")
        await administrator.close()

    def _chosen(self, count: int) -> list[str]:
        return random.choices(self._mailboxes, k=count)

    async def _stream(self, permits: Client) -> int:
        return await self._send(permits, self._chosen(STREAMED))

    async def _send(self, permits: Client, mailboxes: list[str]) -> int:
        results = [result async for result in permits.send_all(_request(mailbox) for mailbox in mailboxes)]
        assert all(result.HasField("message") for result in results)
        return len(results)

    async def _singly(self, permits: Client) -> int:
        async def some() -> None:
            for mailbox in self._chosen(SINGLE // CALLERS):
                await permits.call(permits.messages.SendMessage, _request(mailbox))

        await asyncio.gather(*(some() for _ in range(CALLERS)))
        return SINGLE // CALLERS * CALLERS

    async def _by_key(self, permits: Client) -> int:
        (last,) = [result async for result in permits.send_all([_request(self._mailboxes[0])])]
        request = messages_pb2.ListMessagesRequest(parent=f"units/{UNIT}", idempotency_key=last.idempotency_key)
        return await _pages(permits, permits.messages.ListMessages, request)

    async def _feed(self, permits: Client) -> int:
        last = await self._connection.fetchval("select last from feed where unit_id = $1", UNIT)
        request = feed_pb2.ListEventsRequest(parent=f"units/{UNIT}", cursor=cursor(UNIT, last - 100), page_size=100)
        return await _pages(permits, permits.feed.ListEvents, request)

    async def _cost(self, work: Callable[[], Awaitable[int]]) -> Cost:
        written = await self._connection.fetchval("select pg_current_wal_insert_lsn()")
        before, began = self._cpu(), time.perf_counter()
        count = await work()
        seconds, after = time.perf_counter() - began, self._cpu()
        journal = await self._connection.fetchval("select (pg_current_wal_insert_lsn() - $1::pg_lsn)::bigint", written)
        return Cost(count, seconds, {part: after[part] - before[part] for part in PARTS}, journal)

    def _cpu(self) -> dict[str, float]:
        """Seconds of processor time that each part has used so far, by processes that have ended too."""
        used = {}
        for part in PARTS:
            pid = self._node.processes[part].pid
            assert pid is not None, f"{part} does not run"
            tree = psutil.Process(pid)
            times = [one.cpu_times() for one in (tree, *tree.children(recursive=True))]
            used[part] = sum(sum(one[:4]) for one in times)  # user, system, and those of children that were waited for
        return used


async def _pages(client: Client, method: Callable[..., Awaitable[Message]], request: Message) -> int:
    for _ in range(PAGES):
        await client.call(method, request)
    return PAGES


def _request(mailbox: str) -> messages_pb2.SendMessageRequest:
    message = messages_pb2.Message(
        recipient=messages_pb2.Recipient(mailbox=mailbox),
        title="Decision",
        bodies=[messages_pb2.Body(language="fi", text=TEXT)],
    )
    return messages_pb2.SendMessageRequest(parent=f"units/{UNIT}", idempotency_key=str(uuid.uuid4()), message=message)


def _free(node: Node) -> int:
    return shutil.disk_usage(node.state.root).free // 10**9
