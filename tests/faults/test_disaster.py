"""One side of an exchange is lost, and comes back from an older backup: what is missing is known, proven and fetched."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from solmu.exchange.v1 import (
    calls_pb2,
    calls_pb2_grpc,
    deliveries_pb2,
    deliveries_pb2_grpc,
    directory_pb2,
    envelopes_pb2,
    envelopes_pb2_grpc,
    evidence_log_pb2,
    evidence_log_pb2_grpc,
    evidence_pb2,
    evidence_pb2_grpc,
    monitoring_pb2,
    monitoring_pb2_grpc,
)

from deploy.local import backup
from deploy.local.node import Node, NodeSettings, running
from deploy.local.state import State
from gateway.client import Client, Profile
from services.exchange import names
from services.runtime.errors import Fault
from tests.integration.exchange import backend as backends
from tests.integration.exchange import calls, mesh
from tests.integration.exchange.backend import plain
from tests.journeys import pair
from tests.journeys.pair import CITY, CONSUMER, PROVIDER

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

PATIENCE = 240.0
"""Seconds: nodes show each other their heads once a minute."""


async def until(true: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(Fault):
                if found := await true():
                    return found
            await asyncio.sleep(0.5)


async def keep_logs(publisher: mesh.Member, other: mesh.Member) -> None:
    """Gives both nodes a key for the heads of their logs."""
    for node in (publisher, other):
        key, entry = await node.certified_key(directory_pb2.KEY_USE_LOG)
        await mesh.register(node, publisher, node=node.entry(*node.keys, entry))
        await node.activate(key)
    for node in (publisher, other):
        await node.refresh()


async def call(cases: Client, service: str) -> calls_pb2.CallResponseHead:
    stub: Any = cases.stub(calls_pb2_grpc.CallServiceStub)
    requests = iter([calls_pb2.CallRequest(head=calls.head(service, target=b"/persons/1", body=b""))])
    async for frame in stub.Call(requests, metadata=await cases.metadata()):
        if frame.WhichOneof("frame") == "head":
            answered: calls_pb2.CallResponseHead = frame.head
    assert answered.status == 200
    return answered


async def held(client: Client, statement: str) -> bool:
    """Whether a node has a statement, with its proof."""
    stub: Any = client.stub(evidence_pb2_grpc.EvidenceServiceStub)
    try:
        found = await client.call(stub.GetStatement, evidence_pb2.GetStatementRequest(name=statement))
    except Fault as fault:
        assert fault.reason == "RESOURCE_NOT_FOUND", fault
        return False
    return bool(found.proof.signature.value)


async def head_of_city(client: Client, parent: str) -> evidence_log_pb2.TreeHead | None:
    """The latest head of the city's log that a node knows."""
    stub: Any = client.stub(evidence_log_pb2_grpc.EvidenceLogServiceStub)
    asked = evidence_log_pb2.ListTreeHeadsRequest(parent=parent, page_size=1)
    heads = (await client.call(stub.ListTreeHeads, asked)).tree_heads
    return heads[0] if heads else None


async def send(company: Client, body: bytes) -> envelopes_pb2.Envelope:
    stub: Any = company.stub(envelopes_pb2_grpc.EnvelopeServiceStub)
    asked = envelopes_pb2.Envelope(
        subsystem=names.resource("subsystems", CONSUMER), message_id=str(uuid.uuid4()), media_type="text/plain"
    )
    parent = names.resource("subsystems", PROVIDER)
    request = envelopes_pb2.SendEnvelopeRequest(parent=parent, envelope=asked, body=body)
    sent: envelopes_pb2.Envelope = await company.call(stub.SendEnvelope, request)
    return sent


async def received(cases: Client, *bodies: bytes) -> list[deliveries_pb2.Delivery]:
    """The deliveries with these bodies, taken and acknowledged."""
    stub: Any = cases.stub(deliveries_pb2_grpc.DeliveryServiceStub)
    parent = names.resource("subsystems", CONSUMER)
    found: list[deliveries_pb2.Delivery] = []
    async with asyncio.timeout(PATIENCE):
        while {one.body for one in found} != set(bodies):
            asked = deliveries_pb2.ReceiveDeliveriesRequest(parent=parent, max_deliveries=10, wait=Duration(seconds=2))
            found += (await cases.call(stub.ReceiveDeliveries, asked)).deliveries
    one = deliveries_pb2.AcknowledgeDeliveriesRequest.Acknowledgement
    given = [one(name=each.name, lease_id=each.lease_id) for each in found]
    await cases.call(
        stub.AcknowledgeDeliveries, deliveries_pb2.AcknowledgeDeliveriesRequest(parent=parent, acknowledgements=given)
    )
    return found


def client_of(node: Node, client_id: str) -> Client:
    return Client(Profile.load(node.state.clients / client_id))


async def test_a_node_restored_from_an_older_backup_goes_on_and_its_peer_proves_what_it_lost(tmp_path: Path):
    state, file = tmp_path / "city", tmp_path / "city.backup"
    settings = NodeSettings(state=state, edge_port=0)
    async with (
        AsyncExitStack() as others,
        AsyncExitStack() as first_life,
    ):
        backend = await others.enter_async_context(backends.running())
        backend.answer = plain(b"{}")
        company_node = await others.enter_async_context(running(NodeSettings(state=tmp_path / "company", edge_port=0)))
        city_node = await first_life.enter_async_context(running(settings))
        async with pair.met(city_node, company_node) as (city, company):
            service = await calls.service(company, backend.uri, subsystem=PROVIDER, code="persons")
            await calls.allow(company, service, ("GET", "/**"), consumer=CONSUMER)
            await pair.inbox(city, CONSUMER, PROVIDER)
            await keep_logs(city, company)
            await calls.host(company, PROVIDER, clients=[f"clients/{pair.CASES.client_id}"])
            await pair.consumer(city_node, city)
        watching = await others.enter_async_context(client_of(company_node, pair.ADMINISTRATION.client_id))
        sending = await others.enter_async_context(client_of(company_node, pair.CASES.client_id))
        async with client_of(city_node, pair.CASES.client_id) as cases:
            before = await call(cases, service)
            await asyncio.to_thread(backup.save, State(state), file)
            saved_at = datetime.now(UTC)
            # After the backup: a call, and two envelopes, of which one is received and one only arrives.
            lost = await call(cases, service)
            await send(sending, b"acknowledged")
            await received(cases, b"acknowledged")
            arrived = await send(sending, b"arrived")
            stub: Any = sending.stub(envelopes_pb2_grpc.EnvelopeServiceStub)

            async def is_there() -> bool:
                asked = envelopes_pb2.ListRecipientsRequest(parent=arrived.name)
                (one,) = (await sending.call(stub.ListRecipients, asked)).recipients
                return bool(one.state == envelopes_pb2.DELIVERY_STATE_ARRIVED)

            await until(is_there)
            assert await held(cases, lost.end.request_statement)

            async def countersigned() -> Any:
                own = await head_of_city(cases, "nodes/-")
                there = await head_of_city(sending, names.resource("nodes", CITY))
                return there if own and there and there.tree_size == own.tree_size else None

            last = await until(countersigned)
        shutil.copy(State(state).ports_file, tmp_path / "ports.json")
        await first_life.aclose()

        # The disaster, and the restore: at the address that the directory has.
        await asyncio.to_thread(shutil.rmtree, state)
        await asyncio.to_thread(backup.restore, file, State(state))
        State(state).prepare()
        shutil.copy(tmp_path / "ports.json", State(state).ports_file)
        city_node = await others.enter_async_context(running(settings))
        async with client_of(city_node, pair.CASES.client_id) as cases:
            assert await held(cases, before.end.request_statement)
            assert not await held(cases, lost.end.request_statement), "the backup is older"

            # Calls go on.
            after = await until(lambda: call(cases, service))
            assert await held(cases, after.end.request_statement)

            # The peer holds both statements of the call that was lost, and the head of the log that they were under:
            # by its size, how much is missing is known.
            for statement in (lost.end.request_statement, lost.end.response_statement):
                assert await held(sending, statement)
            exported: Any = sending.stub(evidence_pb2_grpc.EvidenceServiceStub)
            request = evidence_pb2.ExportEvidenceRequest(name=lost.end.request_statement, allow_pending=True)
            container = b"".join([piece.data async for piece in sending.stream(exported.ExportEvidence, request)])
            assert container.startswith(b"PK")
            assert b"application/vnd.etsi.asic-e+zip" in container[:100]
            own = await head_of_city(cases, "nodes/-")
            assert own is not None
            assert own.tree_size < last.tree_size

            # And it finds out that the log has been set back.
            async def contradicted() -> bool:
                monitoring: Any = watching.stub(monitoring_pb2_grpc.MonitoringServiceStub)
                peers = (await watching.call(monitoring.ListPeers, monitoring_pb2.ListPeersRequest())).peers
                return any(peer.log_contradicted for peer in peers)

            await until(contradicted)

            # Under a new key for its log, which the directory gets, it is countersigned again.
            async with client_of(city_node, pair.ADMINISTRATION.client_id) as administration:
                restored = dataclasses.replace(city, exchange=pair.exchange(administration))
                key, entry = await restored.certified_key(directory_pb2.KEY_USE_LOG)
                await mesh.register(restored, restored, node=restored.entry(*restored.keys, entry))
                await restored.activate(key)
            await until(lambda: call(cases, service))

            async def countersigned_again() -> bool:
                there = await head_of_city(sending, names.resource("nodes", CITY))
                return there is not None and there.certificate_sha256.hex() == entry.certificate_sha256

            await until(countersigned_again)

            # What came since is brought again: what had been acknowledged too.
            since = Timestamp()
            since.FromDatetime(saved_at)
            deliveries: Any = cases.stub(deliveries_pb2_grpc.DeliveryServiceStub)
            replay = deliveries_pb2.ReplayDeliveriesRequest(
                parent=names.resource("subsystems", CONSUMER), start_time=since
            )
            answer = await cases.call(deliveries.ReplayDeliveries, replay)
            assert (answer.count, answer.more_asked_for) == (0, True)
            await received(cases, b"acknowledged", b"arrived")
