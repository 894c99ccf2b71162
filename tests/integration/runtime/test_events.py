"""From a transaction through JetStream into another service's: each event has effect once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import nats.errors
import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from nats.aio.client import Client
from prometheus_client import REGISTRY
from solmu.authorisations.v1.events_pb2 import ClientRevoked, TokenRevoked

from services.runtime import consumer as consumer_module
from services.runtime import jetstream, mesh, outbox
from services.runtime.consumer import Consumer, Handler
from services.runtime.database import Connection, Database
from services.runtime.jetstream import Received
from services.runtime.outbox import Outbox
from services.runtime.revocations import Revocations
from services.runtime.telemetry import Telemetry
from tests.engines import NODE, Engines

PATIENCE = 20.0


@contextlib.asynccontextmanager
async def nats_of(engines: Engines, service: str) -> AsyncIterator[Client]:
    client = await jetstream.connect(f"tls://{engines.nats}", service=service, files=engines.identity(service))
    try:
        yield client
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def at_work(*work) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():
            await asyncio.sleep(0.02)


def revoked(client: str) -> ClientRevoked:
    now = Timestamp()
    now.GetCurrentTime()
    return ClientRevoked(client=f"clients/{client}", revoke_time=now)


@contextlib.asynccontextmanager
async def publishing(engines: Engines, database: Database, *, own: outbox.Own | None = None) -> AsyncIterator[Outbox]:
    """The relay of authorisations at work."""
    async with nats_of(engines, "authorisations") as client:
        await jetstream.declare(client, "authorisations", replicas=1)
        relay = Outbox(
            database=database, nats=client, node=NODE, service="authorisations", telemetry=Telemetry(), own=own
        )
        async with at_work(relay.relay()):
            yield relay


def taken_back(token_id: str, *, seconds: int) -> TokenRevoked:
    """A token that expires in so many seconds."""
    expires = Timestamp()
    expires.FromDatetime(datetime.now(UTC) + timedelta(seconds=seconds))
    return TokenRevoked(token_id=token_id, expire_time=expires)


def reader(database: Database, client: Client, handle: Handler) -> Consumer:
    """What messages reads the events of authorisations with."""
    return Consumer(
        service="messages",
        publisher="authorisations",
        database=database,
        nats=client,
        handle=handle,
        telemetry=Telemetry(),
    )


async def tell(box: Outbox, database: Database, *payloads: Message) -> list[uuid.UUID]:
    events = [outbox.event(payload) for payload in payloads]
    async with database.transaction() as transaction:
        await box.append(transaction, events)
    box.wake()
    return [event.event_id for event in events]


async def test_a_revocation_in_authorisations_reaches_messages(
    engines: Engines, authorisations_database: Database, messages_database: Database
):
    revocations = Revocations(database=messages_database)
    name = f"c-{uuid.uuid4()}"
    async with publishing(engines, authorisations_database) as box, nats_of(engines, "messages") as client:
        consumer = Consumer(
            service="messages",
            publisher="authorisations",
            database=messages_database,
            nats=client,
            handle=revocations.handle,
            committed=revocations.look,
            telemetry=Telemetry(),
        )
        async with at_work(consumer.run(), revocations.follow()):
            began = time.monotonic()
            token, past = uuid.uuid4().urn, uuid.uuid4().urn
            events = (revoked(name), revoked(f"{name}-2"), taken_back(past, seconds=-61), taken_back(token, seconds=9))
            await tell(box, authorisations_database, *events)

            async def known() -> bool:
                return all(gone in revocations for gone in (name, f"{name}-2", token))

            await until(known)
            assert time.monotonic() - began < 3
            assert past not in revocations, "what has expired anyway is not remembered"


async def test_an_event_delivered_again_has_no_second_effect(
    engines: Engines, authorisations_database: Database, messages_database: Database
):
    seen: list[uuid.UUID] = []

    async def handle(_: Connection, events: Sequence[Received]) -> None:
        seen.extend(event.event_id for event in events)

    async with publishing(engines, authorisations_database) as box, nats_of(engines, "messages") as client:
        consumer = reader(messages_database, client, handle)
        async with at_work(consumer.run()):
            ids = await tell(box, authorisations_database, *(revoked(f"again-{n}") for n in range(20)))

            async def all_seen() -> bool:
                return set(ids) <= set(seen)

            await until(all_seen)
            # As after a crash between publication and mark, outside of JetStream's own window: under another message id.
            owner = box._nats.jetstream()
            row = await authorisations_database.fetchrow("select * from outbox where event_id = $1", ids[0])
            assert row is not None
            headers = box._headers(row) | {"Nats-Msg-Id": str(uuid.uuid4())}
            await owner.publish(box._subject(row), row["payload"], headers=headers)
            (last,) = await tell(box, authorisations_database, revoked("last"))

            async def last_seen() -> bool:
                return last in seen

            await until(last_seen)
        assert [seen.count(event_id) for event_id in ids] == [1] * len(ids)


async def test_events_are_published_in_the_order_of_their_commits(engines: Engines, authorisations_database: Database):
    async with publishing(engines, authorisations_database) as box:
        first = await tell(box, authorisations_database, *(revoked(f"order-{n}") for n in range(50)))
        second = await tell(box, authorisations_database, *(revoked(f"order-{n}") for n in range(50, 100)))

        async def published() -> bool:
            waiting = await authorisations_database.fetchval("select count(*) from outbox where publish_time is null")
            return bool(waiting == 0)

        await until(published)
        context = box._nats.jetstream()
        info = await context.stream_info("EVT_AUTHORISATIONS")
        tail = [
            await context.get_msg("EVT_AUTHORISATIONS", seq)
            for seq in range(info.state.last_seq - 99, info.state.last_seq + 1)
        ]
        assert [message.headers["ce-id"] for message in tail] == [str(one) for one in first + second]  # type: ignore[index]


async def test_one_event_that_cannot_be_handled_does_not_hold_up_the_others(
    engines: Engines,
    authorisations_database: Database,
    messages_database: Database,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(consumer_module, "MAX_DELIVERIES", 2)
    monkeypatch.setattr(jetstream, "ACK_WAIT", 0.2)
    seen: list[str] = []

    async def handle(_: Connection, events: Sequence[Received]) -> None:
        clients = [ClientRevoked.FromString(event.payload).client for event in events]
        if "clients/poison" in clients:
            raise ValueError("cannot be handled")
        seen.extend(clients)

    async with publishing(engines, authorisations_database) as box, nats_of(engines, "messages") as client:
        consumer = reader(messages_database, client, handle)
        async with at_work(consumer.run()):
            _, poison, _ = await tell(
                box, authorisations_database, revoked("before"), revoked("poison"), revoked("after")
            )

            async def others_seen() -> bool:
                return {"clients/before", "clients/after"} <= set(seen)

            await until(others_seen)

            async def buried() -> bool:
                return (
                    await messages_database.fetchval("select true from dead_letter where event_id = $1", poison) is True
                )

            await until(buried)
    row = await messages_database.fetchrow("select * from dead_letter where event_id = $1", poison)
    assert row is not None
    assert "ValueError" in row["error"]
    assert "cannot be handled" not in row["error"]


async def test_what_follows_within_the_service_commits_with_the_mark_in_the_order_told(
    engines: Engines, authorisations_database: Database
):
    seen: list[uuid.UUID] = []

    async def own(transaction: Connection, events: Sequence[Received]) -> None:
        ids = [event.event_id for event in events]
        if any(ClientRevoked.FromString(event.payload).client == "clients/poison" for event in events):
            raise ValueError("cannot be handled")
        marked = await transaction.fetch(
            "select event_id from outbox where event_id = any($1::uuid[]) and publish_time is not null", ids
        )
        assert {row["event_id"] for row in marked} == set(ids)
        seen.extend(ids)

    relayed = asyncio.Event()

    async def after() -> None:
        relayed.set()

    async with publishing(engines, authorisations_database, own=own) as box:
        box.relayed.append(after)
        told = await tell(box, authorisations_database, revoked("one"), revoked("poison"), revoked("three"))

        async def all_seen() -> bool:
            return seen[-1:] == told[-1:]

        await until(all_seen)
        await asyncio.wait_for(relayed.wait(), PATIENCE)
    assert [event_id for event_id in seen if event_id in told] == [told[0], told[2]]
    error = await authorisations_database.fetchval("select error from dead_letter where event_id = $1", told[1])
    assert "ValueError" in error
    assert "cannot be handled" not in error


async def test_a_service_reaches_nothing_of_another_but_its_durable(engines: Engines):
    async with nats_of(engines, "authorisations") as owner, nats_of(engines, "messages") as other:
        await jetstream.declare(owner, "authorisations", replicas=1)
        before = (await owner.jetstream().stream_info("EVT_AUTHORISATIONS")).state.messages
        # Directly, and by the reply subject of a request that is allowed.
        await other.publish("evt.authorisations.ClientRevoked", b"forged")
        pull = f"JS.authorisations.API.CONSUMER.MSG.NEXT.{mesh.stream('authorisations')}.messages"
        request = json.dumps({"batch": 1, "no_wait": True}).encode()
        await other.publish(pull, request, reply="evt.authorisations.forged")
        await other.publish("$JS.API.INFO", b"", reply="evt.authorisations.forged")
        await other.flush()
        await asyncio.sleep(0.3)
        assert (await owner.jetstream().stream_info("EVT_AUTHORISATIONS")).state.messages == before
        foreign = other.jetstream(prefix="JS.authorisations.API", timeout=1)
        for attempt in (
            foreign.stream_info("EVT_AUTHORISATIONS"),
            foreign.delete_consumer("EVT_AUTHORISATIONS", "messages"),
            foreign.consumer_info("EVT_AUTHORISATIONS", "exchange"),
            foreign.get_msg("EVT_AUTHORISATIONS", 1),
        ):
            with pytest.raises((nats.errors.Error, TimeoutError)):
                await attempt


async def test_nats_knows_nobody_without_a_certificate(engines: Engines):
    with pytest.raises((nats.errors.Error, OSError, TimeoutError)):
        await nats.connect(f"nats://{engines.nats}", allow_reconnect=False, connect_timeout=1)


async def test_what_a_consumer_has_not_been_given_yet_is_told(
    engines: Engines, authorisations_database: Database, messages_database: Database
):
    def pending() -> float:
        return REGISTRY.get_sample_value("solmu_events_pending", {"publisher": "authorisations"}) or 0

    waiting: list[float] = []

    async def handle(_: Connection, events: Sequence[Received]) -> None:
        waiting.append(pending())

    count = 2 * consumer_module.BATCH
    async with publishing(engines, authorisations_database) as box:
        await tell(box, authorisations_database, *(revoked(f"behind-{number}") for number in range(count)))

        async def published() -> bool:
            return not await authorisations_database.fetchval(
                "select exists (select from outbox where publish_time is null)"
            )

        await until(published)
        async with nats_of(engines, "messages") as client, at_work(reader(messages_database, client, handle).run()):

            async def read_all() -> bool:
                return len(waiting) > 1 and pending() == 0

            await until(read_all)
    assert max(waiting) > 0, waiting
