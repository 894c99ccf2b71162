"""Asynchronous exchange between two nodes of a mesh: sent, carried, handed out, acknowledged, refused, replayed."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import prometheus_client
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from solmu.exchange.v1 import (
    access_rights_pb2,
    deliveries_pb2,
    directory_pb2,
    envelopes_pb2,
    evidence_pb2,
    hosting_pb2,
    monitoring_pb2,
    peer_frames_pb2,
    policies_pb2,
    statements_pb2,
    topics_pb2,
)
from solmu.exchange.v1.envelopes_pb2 import DeliveryState, Envelope

from services.exchange import carrying, envelope_store, names
from services.exchange.evidence import signatures, statements
from services.exchange.evidence.statements import Kind
from services.exchange.housekeeping import Housekeeping
from services.exchange.policies import MAX_WAITING
from services.exchange.proofs import signature_message
from services.runtime.database import Row
from services.runtime.errors import Fault
from tests.integration.exchange import calls
from tests.integration.exchange.envelopes import (
    ACKNOWLEDGED,
    CITY,
    COMPANY,
    REFUSED,
    acknowledge,
    act,
    drain,
    receive,
    recipients,
    send,
    unreachable,
    until,
)
from tests.integration.exchange.mesh import Node
from tests.unit.exchange import samples


@pytest.fixture(scope="module")
async def pair(nodes: tuple[Node, Node]) -> tuple[Node, Node]:
    """The city and the company, each with a client, and each taking envelopes from the other."""
    for node, own, other in zip(nodes, (CITY, COMPANY), (COMPANY, CITY), strict=True):
        await node.exchange.hosting.UpdateHosting(
            hosting_pb2.UpdateHostingRequest(
                hosting=hosting_pb2.Hosting(name=f"{own}/hosting", clients=["clients/system"])
            )
        )
        act()
        await node.exchange.rights.CreateAccessRight(
            access_rights_pb2.CreateAccessRightRequest(
                parent=f"{own}/inbox", access_right=access_rights_pb2.AccessRight(subsystem=other)
            )
        )
    return nodes


@pytest.fixture(autouse=True)
def client():
    act()


async def test_an_envelope_is_carried_handed_out_and_acknowledged_with_a_signed_receipt(pair):
    city, company = pair
    sent = await send(city, b"an event", type="fi.city.permit.granted")
    assert (sent.recipient_count, sent.settled_count, sent.body_bytes) == (1, 0, 8)
    (delivery,) = await receive(company)
    assert (delivery.body, delivery.sender, delivery.type) == (b"an event", CITY, "fi.city.permit.granted")
    assert (delivery.message_id, delivery.attempt, delivery.replayed) == (sent.message_id, 1, False)
    assert delivery.purpose == envelopes_pb2.PURPOSE_EVENT
    assert delivery.statement == sent.statement
    (done,) = (await acknowledge(company, delivery)).deliveries
    assert done.state == ACKNOWLEDGED
    (recipient,) = await until(city, sent, ACKNOWLEDGED)
    assert recipient.statement == done.receipt_statement
    for node in pair:
        shown = await node.exchange.evidence.evidence.GetStatement(
            evidence_pb2.GetStatementRequest(name=recipient.statement)
        )
        assert shown.kind == evidence_pb2.Statement.KIND_RECEIPT
        said = statements.parse(shown.proof.statement)
        assert f"statements/{said.lines['answers']}" == sent.statement
    assert (await acknowledge(company, delivery)).deliveries[0] == done, "acknowledging twice changes nothing"


async def test_a_right_that_was_just_given_or_taken_back_counts_in_every_process(pair):
    """A process that has not heard of it yet would refuse for good what may be sent, or take what may not."""
    city, company = pair
    rights, configuration = company.exchange.rights, company.exchange.configuration
    allowed = configuration.current
    configuration.current = replace(allowed, revision=allowed.revision - 1, rights={})
    sent = await send(city)
    (delivery,) = await receive(company)
    await acknowledge(company, delivery)
    await until(city, sent, ACKNOWLEDGED)
    inbox = f"{COMPANY}/inbox"
    (right,) = (await rights.ListAccessRights(access_rights_pb2.ListAccessRightsRequest(parent=inbox))).access_rights
    await rights.DeleteAccessRight(access_rights_pb2.DeleteAccessRightRequest(name=right.name))
    try:
        configuration.current = allowed
        (recipient,) = await until(city, await send(city), REFUSED)
        assert recipient.reason == "RECIPIENT_REFUSES"
    finally:
        await rights.CreateAccessRight(
            access_rights_pb2.CreateAccessRightRequest(
                parent=inbox, access_right=access_rights_pb2.AccessRight(subsystem=CITY)
            )
        )


async def test_a_body_of_any_size_is_streamed_up_and_down(pair):
    city, company = pair
    body = bytes(range(256)) * 4096 * 3

    async def requests():
        envelope = Envelope(subsystem=COMPANY, message_id=str(uuid.uuid4()), media_type="application/octet-stream")
        yield envelopes_pb2.UploadEnvelopeRequest(parent=CITY, envelope=envelope)
        for at in range(0, len(body), 700_000):
            request = envelopes_pb2.UploadEnvelopeRequest()
            request.content.data = body[at : at + 700_000]
            yield request

    sent = await city.exchange.asynchronous.envelopes.UploadEnvelope(requests())
    assert sent.body_bytes == len(body)
    (delivery,) = await receive(company)
    assert delivery.body == b""
    for offset in (0, 1_000_000):
        request = deliveries_pb2.DownloadDeliveryRequest(name=delivery.name, offset=offset)
        pieces = [piece async for piece in company.exchange.asynchronous.deliveries.DownloadDelivery(request)]
        assert b"".join(piece.data for piece in pieces) == body[offset:]
        assert pieces[0].content_type == "application/octet-stream"
    stored = await company.database.fetchval("select string_agg(data, '') from envelope_body")
    assert body[:100_000] not in stored
    await acknowledge(company, delivery)


async def test_a_repeat_returns_the_first_and_other_content_is_refused(pair):
    city, company = pair
    key = str(uuid.uuid4())
    first = await send(city, message_id=key)
    assert await send(city, message_id=key) == first
    both = await asyncio.gather(*(send(city, message_id=f"{key}-2") for _ in range(5)))
    assert len({each.name for each in both}) == 1
    with pytest.raises(Fault, match="MESSAGE_ID_REUSED"):
        await send(city, b"other", message_id=key)
    await acknowledge(company, *await receive(company, 2))
    await drain(company)


async def test_a_delivery_is_refused_with_a_signed_rejection(pair):
    city, company = pair
    sent = await send(city)
    (delivery,) = await receive(company)
    refused = await company.exchange.asynchronous.deliveries.RefuseDelivery(
        deliveries_pb2.RefuseDeliveryRequest(name=delivery.name, lease_id=delivery.lease_id, reason="NOT_OURS")
    )
    assert refused.state == REFUSED
    (recipient,) = await until(city, sent, REFUSED)
    assert recipient.reason == "NOT_OURS"
    assert recipient.statement == refused.receipt_statement
    with pytest.raises(Fault, match="DELIVERY_SETTLED"):
        await acknowledge(company, delivery)


async def test_the_sender_reads_what_became_of_its_envelopes_in_order(pair):
    city, company = pair
    envelopes = city.exchange.asynchronous.envelopes
    cursor = (await envelopes.ListReceipts(envelopes_pb2.ListReceiptsRequest(parent=CITY, page_size=1000))).next_cursor
    sent = [await send(city) for _ in range(3)]
    await acknowledge(company, *await receive(company, 3))
    for each in sent:
        await until(city, each, ACKNOWLEDGED)
    page = await envelopes.ListReceipts(envelopes_pb2.ListReceiptsRequest(parent=CITY, cursor=cursor))
    assert sorted(each.envelope for each in page.receipts) == sorted(each.name for each in sent)
    again = await envelopes.ListReceipts(envelopes_pb2.ListReceiptsRequest(parent=CITY, cursor=page.receipts[0].cursor))
    assert [each.id for each in again.receipts] == [each.id for each in page.receipts[1:]]
    stream = envelopes.StreamReceipts(envelopes_pb2.StreamReceiptsRequest(parent=CITY, cursor=cursor))
    assert [(await anext(stream)).id for _ in range(3)] == [each.id for each in page.receipts]
    await stream.aclose()
    with pytest.raises(Fault, match="CURSOR_INVALID"):
        await envelopes.ListReceipts(envelopes_pb2.ListReceiptsRequest(parent=CITY, cursor="nonsense"))


async def test_a_request_is_answered(pair):
    city, company = pair
    asked = await send(city, b"?", purpose=envelopes_pb2.PURPOSE_REQUEST)
    (delivery,) = await receive(company)
    await acknowledge(company, delivery)
    answered = await send(company, b"!", subsystem=CITY, purpose=envelopes_pb2.PURPOSE_ANSWER, answers=delivery.name)
    assert answered.answers == delivery.name
    (answer,) = await receive(city)
    assert (answer.body, answer.answers, answer.purpose) == (b"!", asked.name, envelopes_pb2.PURPOSE_ANSWER)
    await acknowledge(city, answer)
    with pytest.raises(Fault, match="NOT_ANSWERABLE"):
        await send(
            company,
            subsystem=CITY,
            purpose=envelopes_pb2.PURPOSE_ANSWER,
            answers=f"{COMPANY}/deliveries/{uuid.uuid4()}",
        )


async def test_a_lane_is_handed_out_in_the_order_sent_and_goes_on_when_the_one_before_has_ended(pair):
    city, company = pair
    sent = [await send(city, b"%d" % number, ordering_key="case-1") for number in range(4)]
    assert [each.place for each in sent] == list(range(sent[0].place, sent[0].place + 4))
    assert len({each.lane for each in sent}) == 1
    assert all(each.ordering_key == "" for each in sent)
    other = await send(city, b"other", ordering_key="case-2")
    assert other.lane != sent[0].lane
    found = await receive(company, 2)
    assert sorted(each.body for each in found) == [b"0", b"other"]
    request = deliveries_pb2.ReceiveDeliveriesRequest(parent="subsystems/-", wait=Duration(seconds=1))
    assert not (await company.exchange.asynchronous.deliveries.ReceiveDeliveries(request)).deliveries
    await acknowledge(company, *found)
    for number in (1, 2, 3):
        (delivery,) = await receive(company)
        assert delivery.body == b"%d" % number
        if number == 1:
            await company.exchange.asynchronous.deliveries.RefuseDelivery(
                deliveries_pb2.RefuseDeliveryRequest(name=delivery.name, lease_id=delivery.lease_id, reason="NOT_OURS")
            )
        else:
            await acknowledge(company, delivery)


async def test_what_is_not_acknowledged_is_handed_out_again_and_marked(pair):
    city, company = pair
    await send(city)
    (first,) = await receive(company, lease=Duration(seconds=1))
    (again,) = await receive(company)
    assert (again.name, again.attempt) == (first.name, 2)
    assert again.lease_id != first.lease_id
    with pytest.raises(Fault, match="LEASE_LOST"):
        await acknowledge(company, first)
    deliveries = company.exchange.asynchronous.deliveries
    held = await deliveries.ExtendLease(
        deliveries_pb2.ExtendLeaseRequest(name=again.name, lease_id=again.lease_id, lease=Duration(seconds=600))
    )
    assert held.state == DeliveryState.DELIVERY_STATE_LEASED
    await deliveries.ExtendLease(deliveries_pb2.ExtendLeaseRequest(name=again.name, lease_id=again.lease_id))
    (third,) = await receive(company)
    assert third.attempt == 3
    await acknowledge(company, third)


async def test_acknowledgements_are_taken_all_or_none(pair):
    city, company = pair
    sent = [await send(city) for _ in range(2)]
    found = await receive(company, 2)
    wrong = deliveries_pb2.Delivery(name=found[1].name, lease_id="other")
    with pytest.raises(Fault, match="LEASE_LOST"):
        await acknowledge(company, found[0], wrong)
    await acknowledge(company, *found)
    for each in sent:
        await until(city, each, ACKNOWLEDGED)


async def test_who_was_away_catches_up_by_itself(pair, monkeypatch):
    city, company = pair
    with unreachable(city, monkeypatch):
        sent = [await send(city, b"%d" % number, ordering_key="away") for number in range(5)]
        for _ in range(100):
            (recipient,) = await recipients(city, sent[0])
            if recipient.attempts:
                break
            await asyncio.sleep(0.05)
        assert recipient.state == DeliveryState.DELIVERY_STATE_QUEUED
        assert recipient.last_failure
        assert recipient.HasField("next_attempt_time")
    for number in range(5):
        (delivery,) = await receive(company)
        assert delivery.body == b"%d" % number
        await acknowledge(company, delivery)
    await until(city, sent[4], ACKNOWLEDGED)


async def test_a_receipt_waits_for_a_sender_that_is_away(pair, monkeypatch):
    city, company = pair
    sent = await send(city)
    (delivery,) = await receive(company)
    with unreachable(company, monkeypatch):
        await acknowledge(company, delivery)
        await asyncio.sleep(0.6)
        assert (await recipients(city, sent))[0].state == DeliveryState.DELIVERY_STATE_ARRIVED
    await until(city, sent, ACKNOWLEDGED)


async def test_an_envelope_that_was_brought_twice_is_taken_as_a_duplicate(pair):
    city, company = pair
    sent = await send(city)
    (delivery,) = await receive(company)
    await acknowledge(company, delivery)
    await until(city, sent, ACKNOWLEDGED)
    proof = await city.database.fetchval(
        "select statement from envelope where envelope_id = $1", uuid.UUID(sent.name.rsplit("/", 1)[1])
    )
    answer = await bring(city, statements_pb2.Proof.FromString(proof), b"content")
    assert answer.taken.duplicate
    request = deliveries_pb2.ReceiveDeliveriesRequest(parent="subsystems/-", wait=Duration(seconds=1))
    assert not (await company.exchange.asynchronous.deliveries.ReceiveDeliveries(request)).deliveries


async def bring(
    node: Node, proof: statements_pb2.Proof, body: bytes, *, to: str = "FI/COM/2/register"
) -> peer_frames_pb2.DeliverResponse:
    """What the company's node says of an envelope that the city's node brings."""

    async def requests():
        brought = peer_frames_pb2.BroughtEnvelope(proof=proof, recipients=[to])
        yield peer_frames_pb2.DeliverRequest(envelope=brought)
        if body:
            yield peer_frames_pb2.DeliverRequest(chunk=body)

    (stub,) = node.exchange.peers.stubs("FI/COM/2/node")
    (answer,) = [answer async for answer in stub.Deliver(requests(), timeout=10)]
    return answer


def forged(node: Node, *, sender: str = "FI/MUN/1/letters", **lines) -> statements_pb2.Proof:
    """An envelope's statement, signed with the node's key."""
    now = datetime.now(UTC)
    statement = samples.statement(
        Kind.ENVELOPE,
        **{
            "id": str(uuid.uuid4()),
            "time": statements.spell(now),
            "expires": statements.spell(now + timedelta(minutes=5)),
            "sender": f"subsystem {sender}",
            "receiver": "subsystem FI/COM/2/register",
            "body_sha256": "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73",
            "body_bytes": "7",
            **lines,
        },
    )
    key = node.exchange.ring.active(directory_pb2.KEY_USE_STATEMENTS, node.owner)
    assert key is not None
    made = signatures.sign(statement, key=key.private, pinned=key.pinned, now=int(now.timestamp()))
    status = node.exchange.evidence.statuses._known.get(key.pinned.sha256)
    return statements_pb2.Proof(
        statement=statement.content,
        signature=signature_message(made),
        certificate_status=status.answer if status else b"",
    )


async def test_what_does_not_hold_is_refused_and_nothing_is_handed_out(pair):
    city, company = pair
    good = forged(city)
    tampered = statements_pb2.Proof()
    tampered.CopyFrom(good)
    tampered.statement = good.statement.replace(b"event", b"answer")
    past = statements.spell(datetime.now(UTC) - timedelta(minutes=1))
    cases = [
        (good, b"another", "BODY_DIGEST_MISMATCH"),
        (good, b"conten", "BODY_LENGTH_MISMATCH"),
        (tampered, b"content", "SIGNATURE_INVALID"),
        (statements_pb2.Proof(statement=b"nonsense", signature=good.signature), b"content", "STATEMENT_MALFORMED"),
        (forged(city, expires=past, time=past), b"content", "STATEMENT_EXPIRED"),
        (forged(city, sender="FI/COM/2/register"), b"content", "PEER_NOT_AUTHORISED"),
        (forged(city, body_bytes=str(2**40)), b"content", "EXCHANGE_TOO_LARGE"),
        (forged(company, sender="FI/MUN/1/letters"), b"content", "SIGNER_NOT_SENDER"),
    ]
    kept = "select reason from refused_proof where sha256 = $1 order by refuse_time desc limit 1"
    for proof, body, reason in cases:
        answer = await bring(city, proof, body)
        assert answer.WhichOneof("word") == "refused", (reason, answer)
        assert reason in str(answer.refused.status.details), reason
        evidence = await company.database.fetchval(kept, hashlib.sha256(proof.statement).digest())
        assert evidence == (None if reason in {"PEER_NOT_AUTHORISED", "EXCHANGE_TOO_LARGE"} else reason)
    for lines in ({"receiver": "subsystem FI/COM/2/other"}, {"receiver": "topic FI/MUN/1/letters/none"}):
        answer = await bring(city, forged(city, **lines), b"content")
        (one,) = answer.taken.refused_recipients
        assert "NOT_ADDRESSED" in str(one.refusal.status.details)
        assert statements.parse(one.refusal.proof.statement).lines["reason"] == "NOT_ADDRESSED"
    request = deliveries_pb2.ReceiveDeliveriesRequest(parent="subsystems/-", wait=Duration(seconds=1))
    assert not (await company.exchange.asynchronous.deliveries.ReceiveDeliveries(request)).deliveries


async def test_a_recipient_that_takes_nothing_from_the_sender_refuses_with_proof(pair):
    city, company = pair
    listed = await company.exchange.rights.ListAccessRights(
        access_rights_pb2.ListAccessRightsRequest(parent=f"{COMPANY}/inbox")
    )
    (right,) = listed.access_rights
    await company.exchange.rights.DeleteAccessRight(access_rights_pb2.DeleteAccessRightRequest(name=right.name))
    try:
        sent = await send(city)
        (recipient,) = await until(city, sent, REFUSED)
        assert recipient.reason == "RECIPIENT_REFUSES"
        assert recipient.statement
    finally:
        await company.exchange.rights.CreateAccessRight(
            access_rights_pb2.CreateAccessRightRequest(
                parent=f"{COMPANY}/inbox", access_right=access_rights_pb2.AccessRight(subsystem=CITY)
            )
        )


async def test_an_envelope_expires_at_both_ends(pair, monkeypatch):
    city, company = pair
    soon = Timestamp()
    soon.FromDatetime(datetime.now(UTC) + timedelta(seconds=2))
    arrived = await send(city, b"arrives", expire_time=soon)
    with unreachable(city, monkeypatch):
        waiting = await send(city, b"waits", expire_time=soon)
        await asyncio.sleep(2.5)
    await city.exchange.asynchronous.sending.expire(now=datetime.now(UTC) + timedelta(minutes=2))
    for each in (waiting, arrived):
        await until(city, each, DeliveryState.DELIVERY_STATE_EXPIRED)
    request = deliveries_pb2.ReceiveDeliveriesRequest(parent="subsystems/-", wait=Duration(seconds=1))
    assert not (await company.exchange.asynchronous.deliveries.ReceiveDeliveries(request)).deliveries
    with pytest.raises(Fault, match="ENVELOPE_EXPIRED"):
        await send(city, expire_time=soon)


async def bounded(node: Node, subsystem: str, most: int) -> None:
    """Has as many envelopes wait for one recipient as this, by the policy of a subsystem; 0: the usual number."""
    policy = ""
    if most:
        limits = policies_pb2.ExchangePolicy.Limits(max_waiting_envelopes=most)
        policy = await calls.policy(node, limits=limits)
    await calls.host(node, names.identifier(subsystem, 4), policy=policy)


async def test_as_many_wait_for_a_recipient_as_may_and_more_are_refused(pair, monkeypatch):
    city, company = pair
    await bounded(city, CITY, 2)
    try:
        with unreachable(city, monkeypatch):
            waiting = [await send(city) for _ in range(2)]
            with pytest.raises(Fault, match="QUEUE_FULL") as refusal:
                await send(city)
            assert refusal.value.metadata["recipient"] == COMPANY
            assert refusal.value.retry_after
            assert (await send(city, message_id=waiting[0].message_id)) == waiting[0], "a repeat is none more"
        await acknowledge(company, *await receive(company, 2))
        await send(city)
        await acknowledge(company, *await receive(company))
    finally:
        await bounded(city, CITY, 0)


async def test_of_many_recipients_only_the_one_with_a_full_queue_is_refused(pair, monkeypatch):
    city, company = pair
    name = await topic(city)
    await allow(city, name)
    await subscribe(company, name, topics_pb2.Subscription.STATE_ACTIVE)
    await bounded(city, CITY, 1)
    try:
        with unreachable(city, monkeypatch):
            await send(city, topic=name)
            refused = await send(city, topic=name)
            (recipient,) = await recipients(city, refused)
            assert (recipient.state, recipient.reason) == (REFUSED, "QUEUE_FULL")
        await acknowledge(company, *await receive(company, 1))
    finally:
        await bounded(city, CITY, 0)


async def test_an_inbox_that_is_full_takes_more_once_it_is_emptier(pair):
    city, company = pair
    await bounded(company, COMPANY, 1)
    try:
        first = await send(city, b"first")
        await until(city, first, DeliveryState.DELIVERY_STATE_ARRIVED)
        second = await send(city, b"second")
        for _ in range(200):
            (recipient,) = await recipients(city, second)
            if recipient.attempts:
                break
            await asyncio.sleep(0.05)
        assert (recipient.state, recipient.last_failure) == (DeliveryState.DELIVERY_STATE_QUEUED, "QUEUE_FULL")
        for expected in (b"first", b"second"):
            (delivery,) = await receive(company)
            assert delivery.body == expected
            await acknowledge(company, delivery)
    finally:
        await bounded(company, COMPANY, 0)


async def test_what_waits_is_shown_to_operators_and_told_to_prometheus(pair, monkeypatch):
    city, company = pair
    with unreachable(city, monkeypatch):
        sent = [await send(city) for _ in range(3)]
        while not (await recipients(city, sent[0]))[0].attempts:
            await asyncio.sleep(0.05)
        backlog = await city.exchange.monitoring.GetBacklog(monitoring_pb2.GetBacklogRequest())
        assert backlog.outgoing_envelopes.count == 3
        assert backlog.outgoing_envelopes.HasField("oldest_time")
        assert backlog.outgoing_envelopes.last_failure
        assert backlog.outgoing_envelopes.bound == MAX_WAITING
        await city.exchange.backlogs.measure()
        told = prometheus_client.REGISTRY.get_sample_value
        assert told("solmu_exchange_waiting", {"queue": "outgoing_envelopes"}) == 3
        assert told("solmu_exchange_oldest_seconds", {"queue": "outgoing_envelopes"})
    found = await receive(company, 3)
    incoming = await company.exchange.monitoring.GetBacklog(monitoring_pb2.GetBacklogRequest())
    assert incoming.incoming_envelopes.count == 3
    await acknowledge(company, *found)
    for each in sent:
        await until(city, each, ACKNOWLEDGED)
    backlog = await city.exchange.monitoring.GetBacklog(monitoring_pb2.GetBacklogRequest())
    assert (backlog.outgoing_envelopes.count, backlog.outgoing_envelopes.last_failure) == (0, "")


async def test_peers_are_listed_with_what_waits_for_them_and_how_they_stand(pair, monkeypatch):
    city, company = pair

    async def peer() -> monitoring_pb2.Peer:
        listed = await city.exchange.monitoring.ListPeers(monitoring_pb2.ListPeersRequest())
        found: list[monitoring_pb2.Peer] = [
            each for each in listed.peers if each.node == names.resource("nodes", company.identifier)
        ]
        return found[0]

    found = await peer()
    assert (found.state, found.envelopes_waiting) == (monitoring_pb2.Peer.STATE_REACHABLE, 0)
    assert found.connections == 1
    assert found.directory_version == company.exchange.meshes.own.directory.version
    assert abs(found.clock_offset.ToTimedelta()) < timedelta(minutes=1)
    with unreachable(city, monkeypatch):
        sent = [await send(city) for _ in range(2)]
        waits = await peer()
        assert waits.envelopes_waiting == 2
        assert waits.HasField("oldest_envelope_time")
    await acknowledge(company, *await receive(company, 2))
    await until(city, sent[1], ACKNOWLEDGED)


async def test_who_leaves_gives_up_what_waits_and_its_senders_are_told(pair, monkeypatch):
    city, _ = pair
    with unreachable(city, monkeypatch):
        sent = [await send(city) for _ in range(3)]
        assert await city.exchange.asynchronous.sending.abandon(limit=2) == 3
        for each in sent:
            await until(city, each, DeliveryState.DELIVERY_STATE_CANCELLED)
    receipts = city.exchange.asynchronous.envelopes.ListReceipts
    page = await receipts(envelopes_pb2.ListReceiptsRequest(parent=CITY, page_size=1000))
    assert {each.name for each in sent} <= {each.envelope for each in page.receipts}


async def test_parts_of_directories_of_the_past_are_deleted(pair):
    city, _ = pair
    named = {part.sha256 for part in city.exchange.meshes.own.directory.document.parts}
    await city.database.execute(
        "insert into directory_part (sha256, content) values ($1, $2)", bytes(32), b"of a directory that was"
    )
    await Housekeeping(database=city.database).once(now=datetime.now(UTC))
    rows = await city.database.fetch("select sha256 from directory_part")
    assert {row["sha256"] for row in rows} == named


async def test_an_envelope_is_cancelled_where_it_has_not_arrived(pair, monkeypatch):
    city, _ = pair
    envelopes = city.exchange.asynchronous.envelopes
    with unreachable(city, monkeypatch):
        sent = await send(city)
        done = await envelopes.CancelEnvelope(envelopes_pb2.CancelEnvelopeRequest(name=sent.name))
        assert done.settled_count == 1
    await until(city, sent, DeliveryState.DELIVERY_STATE_CANCELLED)
    with pytest.raises(Fault, match="ENVELOPE_SETTLED"):
        await envelopes.CancelEnvelope(envelopes_pb2.CancelEnvelopeRequest(name=sent.name))


async def test_an_envelope_that_is_cancelled_while_its_turn_comes_is_not_brought(pair, monkeypatch):
    city, company = pair
    genuine = envelope_store.due
    cancelled: list[Row] = []

    async def due(*given, **named):
        rows = await genuine(*given, **named)
        for row in rows:
            if row["envelope_id"].hex == sent.name.rsplit("/", 1)[1].replace("-", "") and not cancelled:
                cancelled.append(row)
                act()
                await city.exchange.asynchronous.envelopes.CancelEnvelope(
                    envelopes_pb2.CancelEnvelopeRequest(name=sent.name)
                )
        return rows

    with unreachable(city, monkeypatch):
        sent = await send(city, b"cancelled")
        monkeypatch.setattr(envelope_store, "due", due)
    await until(city, sent, DeliveryState.DELIVERY_STATE_CANCELLED)
    assert cancelled
    await send(city, b"another")
    (delivery,) = await receive(company)
    assert delivery.body == b"another"
    await acknowledge(company, delivery)


async def test_the_receiver_has_what_came_since_an_instant_handed_out_again(pair):
    city, company = pair
    start = Timestamp()
    start.FromDatetime(datetime.now(UTC) - timedelta(milliseconds=1))
    sent = [await send(city, b"%d" % number) for number in range(3)]
    await acknowledge(company, *await receive(company, 3))
    for each in sent:
        await until(city, each, ACKNOWLEDGED)
    receipts = await city.database.fetchval("select count(*) from receipt")
    answer = await company.exchange.asynchronous.deliveries.ReplayDeliveries(
        deliveries_pb2.ReplayDeliveriesRequest(parent="subsystems/-", start_time=start)
    )
    assert answer.count == 3
    again = await receive(company, 3)
    assert sorted(each.body for each in again) == [b"0", b"1", b"2"]
    assert all(each.replayed and each.attempt == 2 for each in again)
    done = (await acknowledge(company, *again)).deliveries
    assert all(each.state == ACKNOWLEDGED and each.receipt_statement for each in done)
    await asyncio.sleep(0.6)
    assert await city.database.fetchval("select count(*) from receipt") == receipts, "a receipt is not given again"


async def topic(city: Node, **fields) -> str:
    made = await city.exchange.asynchronous.topics.CreateTopic(
        topics_pb2.CreateTopicRequest(
            parent=CITY, topic_id=f"permits-{uuid.uuid4().hex[:8]}", topic=topics_pb2.Topic(**fields)
        )
    )
    return made.name


async def allow(city: Node, name: str) -> None:
    await city.exchange.rights.CreateAccessRight(
        access_rights_pb2.CreateAccessRightRequest(
            parent=name, access_right=access_rights_pb2.AccessRight(subsystem=COMPANY)
        )
    )


async def subscribe(company: Node, name: str, state, **fields) -> topics_pb2.Subscription:
    topics = company.exchange.asynchronous.topics
    made = await topics.CreateSubscription(
        topics_pb2.CreateSubscriptionRequest(
            parent="subsystems/-", subscription=topics_pb2.Subscription(topic=name, **fields)
        )
    )
    for _ in range(100):
        found = await topics.GetSubscription(topics_pb2.GetSubscriptionRequest(name=made.name))
        if found.state == state:
            return found
        await asyncio.sleep(0.1)
    raise AssertionError(found)


async def test_all_subscribers_of_a_topic_are_told(pair):
    city, company = pair
    name = await topic(city)
    await allow(city, name)
    await send(city, b"before", topic=name)
    subscription = await subscribe(company, name, topics_pb2.Subscription.STATE_ACTIVE)
    sent = await send(city, b"after", topic=name)
    assert sent.recipient_count == 1
    (delivery,) = await receive(company)
    assert (delivery.body, delivery.topic) == (b"after", name)
    await acknowledge(company, delivery)
    await until(city, sent, ACKNOWLEDGED)
    shown = await city.exchange.asynchronous.topics.ListSubscribers(topics_pb2.ListSubscribersRequest(parent=name))
    (subscriber,) = shown.subscribers
    assert (subscriber.subsystem, subscriber.waiting) == (COMPANY, 0)
    assert subscriber.HasField("last_receipt_time")
    await company.exchange.asynchronous.topics.DeleteSubscription(
        topics_pb2.DeleteSubscriptionRequest(name=subscription.name)
    )
    for _ in range(100):
        if not (
            await city.exchange.asynchronous.topics.ListSubscribers(topics_pb2.ListSubscribersRequest(parent=name))
        ).subscribers:
            break
        await asyncio.sleep(0.1)
    assert (await send(city, b"nobody", topic=name)).recipient_count == 0


@pytest.fixture
def hangs(pair, monkeypatch):
    """The city's node says nothing of subscriptions, until it is let; how many it was told of."""
    subscribing = pair[0].exchange.asynchronous.peer_servicer._subscribing
    genuine, free, told = subscribing.enter, asyncio.Event(), []

    async def enter(*given):
        told.append(given)
        await free.wait()
        return await genuine(*given)

    monkeypatch.setattr(subscribing, "enter", enter)
    yield told, free
    free.set()


async def told_of(told, number):
    async with asyncio.timeout(60):
        while len(told) < number:
            await asyncio.sleep(0.05)


async def test_a_node_that_hangs_on_a_subscription_is_brought_envelopes_all_the_same(pair, hangs, monkeypatch):
    city, company = pair
    monkeypatch.setattr(carrying, "TELL_WITHIN", 600.0)
    name = await topic(city)
    await allow(city, name)
    wanted = topics_pb2.CreateSubscriptionRequest(
        parent="subsystems/-", subscription=topics_pb2.Subscription(topic=name)
    )
    made = await company.exchange.asynchronous.topics.CreateSubscription(wanted)
    await told_of(hangs[0], 1)
    await send(company, subsystem=CITY)
    await acknowledge(city, *await receive(city))
    await company.exchange.asynchronous.topics.DeleteSubscription(topics_pb2.DeleteSubscriptionRequest(name=made.name))
    hangs[1].set()
    await told_of(hangs[0], 2)
    listed = topics_pb2.ListSubscribersRequest(parent=name)
    async with asyncio.timeout(60):
        while (await city.exchange.asynchronous.topics.ListSubscribers(listed)).subscribers:
            await asyncio.sleep(0.05)
    found = await company.exchange.asynchronous.topics.GetSubscription(
        topics_pb2.GetSubscriptionRequest(name=made.name)
    )
    assert found.state == topics_pb2.Subscription.STATE_ENDED, "an answer that came late brings nothing back"


async def test_a_subscription_is_told_again_where_the_node_had_no_time(pair, hangs, monkeypatch):
    city, company = pair
    monkeypatch.setattr(carrying, "TELL_WITHIN", 0.3)
    monkeypatch.setattr(carrying, "TELL_AGAIN", timedelta(milliseconds=100))
    name = await topic(city)
    await allow(city, name)
    wanted = topics_pb2.CreateSubscriptionRequest(
        parent="subsystems/-", subscription=topics_pb2.Subscription(topic=name)
    )
    made = await company.exchange.asynchronous.topics.CreateSubscription(wanted)
    await told_of(hangs[0], 2)
    monkeypatch.setattr(carrying, "TELL_WITHIN", 60.0)
    hangs[1].set()
    asked = topics_pb2.GetSubscriptionRequest(name=made.name)
    async with asyncio.timeout(60):
        while (
            found := await company.exchange.asynchronous.topics.GetSubscription(asked)
        ).state == topics_pb2.Subscription.STATE_REQUESTED:
            await asyncio.sleep(0.05)
    assert found.state == topics_pb2.Subscription.STATE_ACTIVE
    await company.exchange.asynchronous.topics.DeleteSubscription(topics_pb2.DeleteSubscriptionRequest(name=made.name))


async def test_a_topic_that_one_may_not_subscribe_to_refuses(pair):
    city, company = pair
    name = await topic(city)
    refused = await subscribe(company, name, topics_pb2.Subscription.STATE_REFUSED)
    assert refused.reason == "ACCESS_DENIED"


async def test_a_subscriber_that_comes_late_gets_what_was_sent_since_an_instant(pair):
    city, company = pair
    name = await topic(city, types=["a", "b"])
    await allow(city, name)
    start = Timestamp()
    start.FromDatetime(datetime.now(UTC) - timedelta(seconds=1))
    for kind in ("a", "b", "a"):
        await send(city, kind.encode(), topic=name, type=kind)
    await subscribe(company, name, topics_pb2.Subscription.STATE_ACTIVE, start_time=start, types=["a"])
    found = await receive(company, 2)
    assert [each.body for each in found] == [b"a", b"a"]
    await acknowledge(company, *found)
    answer = await company.exchange.asynchronous.deliveries.ReplayDeliveries(
        deliveries_pb2.ReplayDeliveriesRequest(parent="subsystems/-", start_time=start, topic=name)
    )
    assert (answer.count, answer.more_asked_for) == (2, True)
    again = await receive(company, 2)
    assert all(each.replayed for each in again)
    await acknowledge(company, *again)
    with pytest.raises(Fault, match="FIELD_INVALID"):
        await send(city, topic=name, type="c")
    await asyncio.sleep(1)
    await drain(company)


async def test_a_group_is_sent_to_one_by_one(pair):
    city, company = pair
    made = access_rights_pb2.LocalGroup(
        name=f"{CITY}/localGroups/partners-{uuid.uuid4().hex[:8]}", subsystems=[COMPANY, CITY]
    )
    await city.exchange.rights.SetLocalGroup(access_rights_pb2.SetLocalGroupRequest(local_group=made))
    sent = await send(city, b"to all", group=made.name)
    assert (sent.recipient_count, sent.group) == (1, made.name)
    (delivery,) = await receive(company)
    assert (delivery.body, delivery.group) == (b"to all", made.name)
    await acknowledge(company, delivery)
    with pytest.raises(Fault, match="RESOURCE_NOT_FOUND"):
        await send(city, group=f"{CITY}/localGroups/none")


async def test_a_stream_hands_out_so_many_at_once(pair):
    city, company = pair
    sent = [await send(city, b"%d" % number) for number in range(4)]
    stream = company.exchange.asynchronous.deliveries.StreamDeliveries(
        deliveries_pb2.StreamDeliveriesRequest(parent="subsystems/-", max_leased=2)
    )
    first = [await asyncio.wait_for(anext(stream), 10) for _ in range(2)]
    following = asyncio.create_task(anext(stream))
    done, _ = await asyncio.wait([following], timeout=1)
    assert not done
    await acknowledge(company, first[0])
    third = await asyncio.wait_for(following, 10)
    await acknowledge(company, first[1], third)
    last = await asyncio.wait_for(anext(stream), 10)
    await acknowledge(company, last)
    await stream.aclose()
    assert {each.body for each in (*first, third, last)} == {b"0", b"1", b"2", b"3"}
    assert len(sent) == 4


async def test_within_a_node_it_is_the_same(pair):
    city, _ = pair
    await city.exchange.rights.CreateAccessRight(
        access_rights_pb2.CreateAccessRightRequest(
            parent=f"{CITY}/inbox", access_right=access_rights_pb2.AccessRight(subsystem=CITY)
        )
    )
    sent = await send(city, b"to itself", subsystem=CITY)
    (delivery,) = await receive(city)
    assert delivery.body == b"to itself"
    await acknowledge(city, delivery)
    await until(city, sent, ACKNOWLEDGED)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"subsystem": "subsystems/FI~COM~9~none"}, "MEMBER_UNKNOWN"),
        ({"topic": f"{CITY}/topics/none"}, "RESOURCE_NOT_FOUND"),
        ({"group": "directories/FI/globalGroups/none"}, "MEMBER_UNKNOWN"),
        ({"body_sha256": "0" * 64}, "BODY_DIGEST_MISMATCH"),
        ({"purpose": envelopes_pb2.PURPOSE_ANSWER}, "NOT_ANSWERABLE"),
    ],
)
async def test_what_cannot_be_sent_is_refused_and_nothing_is_kept(pair, fields, reason):
    city, _ = pair
    before = await city.database.fetchval("select count(*) from envelope")
    with pytest.raises(Fault, match=reason):
        await send(city, **fields)
    assert await city.database.fetchval("select count(*) from envelope") == before


async def test_only_consumers_send_receive_and_see(pair):
    city, company = pair
    sent = await send(city)
    (delivery,) = await receive(company)
    act("stranger")
    for call in (
        send(city),
        receive(company),
        recipients(city, sent),
        acknowledge(company, delivery),
        city.exchange.asynchronous.envelopes.GetEnvelope(envelopes_pb2.GetEnvelopeRequest(name=sent.name)),
    ):
        with pytest.raises(Fault, match="CONSUMER_NOT_REGISTERED"):
            await call
    act()
    await acknowledge(company, delivery)


async def test_what_was_sent_before_comes_again_to_a_node_that_asks_for_it(pair):
    city, company = pair
    sent = await send(city, b"before the backup")
    await acknowledge(company, *await receive(company))
    (before,) = await until(city, sent, ACKNOWLEDGED)
    delivery = f"envelope_id = '{sent.name.rpartition('/')[2]}'"
    await company.database.execute(f"delete from delivery where {delivery}")  # as a backup from before would have it
    await company.database.execute(f"delete from arrival where {delivery}")
    start = Timestamp()
    start.FromDatetime(datetime.now(UTC) - timedelta(minutes=5))
    asked = deliveries_pb2.ReplayDeliveriesRequest(parent="subsystems/-", start_time=start)
    answer = await company.exchange.asynchronous.deliveries.ReplayDeliveries(asked)
    assert answer.more_asked_for
    found = await receive(company)
    async with asyncio.timeout(30):
        while b"before the backup" not in {one.body for one in found}:
            found += await receive(company)
    await acknowledge(company, *found)
    (after,) = await until(city, sent, ACKNOWLEDGED)
    assert after.settle_time == before.settle_time, "the first receipt stands"
