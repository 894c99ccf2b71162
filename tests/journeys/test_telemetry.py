"""Two nodes that tell all they can: one trace through both, metrics that move, and nothing personal in any of it."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from google.protobuf.duration_pb2 import Duration
from solmu.authorisations.v1 import clients_pb2
from solmu.exchange.v1 import (
    calls_pb2,
    calls_pb2_grpc,
    deliveries_pb2,
    deliveries_pb2_grpc,
    envelopes_pb2,
    envelopes_pb2_grpc,
)
from solmu.messages.v1 import inbox_pb2, letters_pb2, messages_pb2
from solmu.types.v1.types_pb2 import NationalIdentifier, PostalAddress

from deploy.local import demo_clients, plan
from deploy.local.demo import make_decision
from deploy.local.identity_provider.people import PEOPLE
from deploy.local.node import Node
from gateway.client import Client, Fault, Profile
from services.exchange import names
from services.runtime import jetstream, mesh
from tests import otlp
from tests.integration.exchange import backend as backends
from tests.integration.exchange import calls
from tests.integration.exchange.backend import Backend, plain
from tests.integration.node import portal
from tests.integration.node.callers import Caller
from tests.journeys import pair
from tests.journeys.pair import CONSUMER, PROVIDER
from tests.mailroom import Mailroom, Provider, mailroom, provider
from tests.otlp import Collector

PATIENCE = 60.0
"""Seconds that something may take to be told."""

EMAIL, PHONE = "merkitty.osoite@example.org", "+358401239871"
HOME = PostalAddress(
    recipient_name="Merkki Kvartsinen",
    street_address="Merkkikatu 17",
    postal_code="00100",
    locality="HELSINKI",
    country_code="FI",
)

MARKED = (
    demo_clients.PERSON["value"],
    PEOPLE[0].name,
    EMAIL,
    PHONE,
    HOME.recipient_name,
    HOME.street_address,
    "merkki",  # stands in every title, text, file name, path, query, header and body that is sent below
)
"""What is searched for, in any case of letters."""


@dataclass
class Pair:
    """Two nodes, who calls them, and who listens to what they tell."""

    city: Node
    company: Node
    cases: Profile
    service: str
    backend: Backend
    room: Mailroom
    sms: Provider
    collector: Collector

    def client(self, node: Node, declared: demo_clients.DemoClient) -> Client:
        return Client(Profile.load(node.state.clients / declared.client_id))


@pytest.fixture(scope="module")
async def told(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        room, sms = await stack.enter_async_context(mailroom()), await stack.enter_async_context(provider())
        backend = await stack.enter_async_context(backends.running())
        collector, address = await stack.enter_async_context(otlp.collecting())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in {
            "SOLMU_OTLP_ENDPOINT": address,
            "SOLMU_TRACE_RATIO": "1",
            "SOLMU_LOG_LEVEL": "debug",
            "SOLMU_SMTP": f"127.0.0.1:{room.port}",
            "SOLMU_SMTP_SECURITY": "none",
            "SOLMU_MAIL_FROM": "City <no-reply@city.example>",
            "SOLMU_SMS": sms.uri,
        }.items():
            patch.setenv(name, value)
        folder = tmp_path_factory.mktemp("told")
        city, city_member, company, company_member = await stack.enter_async_context(pair.joined(folder))
        service = await calls.service(company_member, backend.uri, subsystem=PROVIDER, code="persons")
        await calls.allow(company_member, service, ("GET", "/**"), ("POST", "/**"), consumer=CONSUMER)
        await pair.inbox(company_member, PROVIDER, CONSUMER)
        cases = await pair.consumer(city, city_member)
        yield Pair(city, company, cases, service, backend, room, sms, collector)


async def registered(operator: Client) -> str:
    """A client that is there to be revoked."""
    fresh = demo_clients.DemoClient(
        client_id=f"told-{secrets.token_hex(4)}", display_name="Merkki", owner=demo_clients.CITY, scopes=()
    )
    await demo_clients.register(operator, fresh)
    return f"clients/{fresh.client_id}"


async def until(true: Callable[[], Any]) -> Any:
    async with asyncio.timeout(PATIENCE):
        while not (found := true()):
            await asyncio.sleep(0.1)
    return found


async def called(client: Client, head: calls_pb2.CallRequestHead, *, trace: str = "") -> calls_pb2.CallResponseHead:
    stub: Any = client.stub(calls_pb2_grpc.CallServiceStub)
    carried = [("traceparent", trace)] if trace else []
    requests = iter([calls_pb2.CallRequest(head=head)])
    async for frame in stub.Call(requests, metadata=[*await client.metadata(), *carried]):
        if frame.WhichOneof("frame") == "head":
            answered: calls_pb2.CallResponseHead = frame.head
    return answered


async def test_one_trace_goes_from_the_edge_through_services_databases_and_events_to_the_other_node(told: Pair):
    trace = secrets.token_hex(16)
    sampled = f"00-{trace}-{secrets.token_hex(8)}-01"
    told.backend.answer = plain(b"{}")
    async with told.client(told.city, demo_clients.OPERATOR) as operator, Client(told.cases) as cases:
        name = await registered(operator)
        await operator.clients.RevokeClient(
            clients_pb2.RevokeClientRequest(name=name),
            metadata=[*await operator.metadata(), ("traceparent", sampled)],
        )
        await called(cases, calls.head(told.service, target=b"/persons/1", body=b""), trace=sampled)
    of_city, of_company = told.city.settings.node, told.company.settings.node
    expected = {
        ("edge", r"ingress|solmu\.authorisations\.v1\.ClientService"),
        ("authorisations", r"solmu\.authorisations\.v1\.ClientService\.RevokeClient"),
        ("authorisations", "postgresql"),
        ("authorisations", r"publish solmu\.authorisations\.v1\.ClientRevoked"),
        ("messages", "process authorisations"),
        ("exchange", "process authorisations"),
        ("exchange", r"solmu\.exchange\.v1\.CallService\.Call"),
        ("exchange", r"solmu\.exchange\.v1\.PeerService\.Exchange"),
    }

    def missing() -> set[tuple[str, str]]:
        seen = [(service, span.name) for _, service, span in told.collector.of_trace(trace)]
        return {
            (service, name)
            for service, name in expected
            if not any(service == each and re.search(name, of) for each, of in seen)
        }

    try:
        await until(lambda: not missing())
    except TimeoutError:
        raise AssertionError((missing(), [(s, span.name) for _, s, span in told.collector.of_trace(trace)])) from None
    assert of_city == of_company, "both nodes have the embedded node's name; their services tell them apart by parent"
    spans = {span.span_id: span for _, _, span in told.collector.of_trace(trace)}
    provided = next(span for span in spans.values() if span.name.endswith("PeerService.Exchange"))
    consumed = spans[provided.parent_span_id]
    while not consumed.name.endswith("CallService.Call"):
        consumed = spans[consumed.parent_span_id]
    at_provider = [span for span in spans.values() if span.name.startswith("postgresql")]
    assert any(_below(span, provided, spans) for span in at_provider), "the other node's database is in the trace"


def _below(span: Any, above: Any, spans: dict[bytes, Any]) -> bool:
    while span.parent_span_id in spans:
        span = spans[span.parent_span_id]
        if span.span_id == above.span_id:
            return True
    return False


async def metrics(node: Node, service: str) -> dict[str, float]:
    """What a process tells, by name and labels."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{node.ports[plan.metrics(service)]}/metrics") as answer,
    ):
        lines = (await answer.text()).splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


async def test_transactions_are_counted_by_channel_on_both_sides(told: Pair):
    async def counted(node: Node, service: str, channel: str, direction: str) -> float:
        found = await metrics(node, service)
        return found.get(f'solmu_transactions_total{{channel="{channel}",direction="{direction}"}}', 0)

    ways = (
        (told.city, "exchange", "call", "out"),
        (told.company, "exchange", "call", "in"),
        (told.city, "exchange", "envelope", "out"),
        (told.company, "exchange", "envelope", "in"),
        (told.city, "messages", "message", "out"),
    )
    before = [await counted(*way) for way in ways]
    told.backend.answer = plain(b"{}")
    async with Client(told.cases) as cases, told.client(told.city, demo_clients.PERMITS) as permits:
        await called(cases, calls.head(told.service, target=b"/persons/2", body=b""))
        await envelope(cases, b"content")
        await send(permits, await mailbox_of(told))
    async with asyncio.timeout(PATIENCE):
        while not all([await counted(*way) > count for way, count in zip(ways, before, strict=True)]):
            await asyncio.sleep(0.2)


async def test_golden_signals_and_backlogs_are_told_by_every_service(told: Pair):
    for service in mesh.SERVICES:
        found = await metrics(told.city, service)
        told_of = {name.partition("{")[0] for name in found}
        assert {
            "solmu_calls_total",
            "solmu_call_seconds_bucket",
            "solmu_streams_open",
            "solmu_outbox_waiting",
            "solmu_certificate_expiry_seconds",
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
        } <= told_of | {"solmu_streams_open"}, service
        assert found['solmu_database_connections{state="most"}'] == 12
        assert 0 < found['solmu_database_connections{state="busy"}'] <= 12
        if service != "authorisations":
            assert found['solmu_events_pending{publisher="authorisations"}'] == 0
    found = await metrics(told.city, "exchange")
    assert {"solmu_time_stamps_waiting", "solmu_time_stamp_wait_seconds"} <= found.keys()


async def mailbox_of(told: Pair) -> str:
    async with told.client(told.city, demo_clients.RESIDENT) as resident:
        return str((await resident.rest("POST", "/v1/mailboxes:open", {}))["name"])


async def send(permits: Client, mailbox: str, **fields: Any) -> messages_pb2.Message:
    content: dict[str, Any] = {
        "recipient": messages_pb2.Recipient(mailbox=mailbox),
        "title": "Merkki: a decision",
        "bodies": [messages_pb2.Body(language="en", text="Merkki: granted.")],
    } | fields
    return await permits.call(
        permits.messages.SendMessage,
        messages_pb2.SendMessageRequest(
            parent=f"units/{demo_clients.UNIT}",
            message=messages_pb2.Message(**content),
            idempotency_key=str(uuid.uuid4()),
        ),
    )


async def envelope(cases: Client, body: bytes) -> envelopes_pb2.Envelope:
    stub: Any = cases.stub(envelopes_pb2_grpc.EnvelopeServiceStub)
    asked = envelopes_pb2.Envelope(
        subsystem=names.resource("subsystems", PROVIDER), message_id=str(uuid.uuid4()), media_type="text/plain"
    )
    request = envelopes_pb2.SendEnvelopeRequest(
        parent=names.resource("subsystems", CONSUMER), envelope=asked, body=body
    )
    sent: envelopes_pb2.Envelope = await cases.call(stub.SendEnvelope, request)
    return sent


async def test_nothing_personal_is_in_logs_traces_metrics_subjects_or_urls(told: Pair):
    await _mail(told)
    await _suomi_fi(told)
    await _letters(told)
    await _log_in(told)
    await _exchange(told)
    await _mistakes(told)
    await until(lambda: told.room.to(EMAIL) and told.sms.taken)
    await asyncio.sleep(3)  # spans leave once a second

    said: dict[str, str] = {}
    for node, name in ((told.city, "city"), (told.company, "company")):
        for path in node.state.log.iterdir():
            said[f"log of {name}: {path.name}"] = path.read_text(errors="replace")
        for process in (*mesh.SERVICES, mesh.GATEWAY):
            said[f"metrics of {name}: {process}"] = json.dumps(list(await metrics(node, process)))
        said[f"subjects of {name}"] = " ".join(await _subjects(node))
    said["traces"] = "\n".join(str(span) for taken in told.collector.taken for span in taken.spans)
    assert "evt.authorisations." in said["subjects of city"]
    assert "MessageService" in said["traces"]
    assert all("serving" in said[f"log of city: {service}.log"] for service in mesh.SERVICES)
    found = {
        (where, mark): _around(text, mark)
        for where, text in said.items()
        for mark in MARKED
        if mark.lower() in text.lower()
    }
    assert not found, "\n".join(f"{where}: {text}" for where, text in found.items())


def _around(text: str, mark: str) -> str:
    at = text.lower().index(mark.lower())
    return text[max(0, at - 600) : at + 200]


async def _mail(told: Pair) -> None:
    """Contacts, a decision with a file, its opening, a reply, an export."""
    mailbox = await mailbox_of(told)
    async with (
        told.client(told.city, demo_clients.RESIDENT) as resident,
        told.client(told.city, demo_clients.PERMITS) as permits,
    ):
        for channel, contact in (("email", {"email": EMAIL}), ("sms", {"phoneNumber": PHONE})):
            name = f"{mailbox}/contacts/{channel}"
            await resident.rest("PUT", f"/v1/{name}", contact)
            if channel == "email":
                text = (await told.room.next_to(EMAIL)).get_content()
            else:
                text = (await until(lambda: told.sms.taken))[-1]["text"]
            (code,) = re.findall(r"\b\d{6}\b", text)
            await resident.rest("POST", f"/v1/{name}:confirm", {"code": code})
        file = await permits.upload(make_decision(), file_name="merkki.pdf", media_type="application/pdf")
        use = messages_pb2.MessageAttachment(attachment=file.name, role=messages_pb2.MessageAttachment.ROLE_MAIN)
        code = NationalIdentifier(scheme=NationalIdentifier.SCHEME_FI_HETU, value=demo_clients.PERSON["value"])
        await send(permits, "", recipient=messages_pb2.Recipient(identifier=code), attachments=[use])
        await until(lambda: len(told.room.to(EMAIL)) > 1)
        asked = inbox_pb2.ListInboxMessagesRequest(parent=mailbox)
        latest = (await resident.call(resident.inbox.ListInboxMessages, asked)).messages[0]
        read = await resident.call(resident.inbox.OpenInboxMessage, inbox_pb2.OpenInboxMessageRequest(name=latest.name))
        assert read.title == "Merkki: a decision"


async def _suomi_fi(told: Pair) -> None:
    """A message by the Suomi.fi interface."""
    profile = Profile.load(told.city.state.clients / "permits")
    async with Client(profile) as permits:
        caller = Caller(told.city.edge, profile.files, await permits.token())
    asked = {
        "externalId": str(uuid.uuid4()),
        "recipient": {"id": demo_clients.PERSON["value"]},
        "sender": {"serviceId": demo_clients.UNIT},
        "electronic": {
            "title": "Merkki suomi.fi",
            "body": "Merkki sisältö",
            "bodyFormat": "Text",
            "messageServiceType": "Normal",
            "notifications": {"unreadMessageReminder": "Default reminder", "senderDetailsInNotifications": "None"},
            "replyAllowedBy": "No one",
            "visibility": "Recipient only",
        },
    }
    status, answer = await caller.rest("POST", "/v2/messages/electronic", asked)
    assert status == 200, answer


async def _letters(told: Pair) -> None:
    """A letter to one who is known by an address alone, printed."""
    async with (
        told.client(told.city, demo_clients.PERMITS) as permits,
        told.client(told.city, demo_clients.PRINT_HOUSE) as house,
    ):
        await send(
            permits,
            "",
            recipient=messages_pb2.Recipient(postal_address=HOME),
            paper=messages_pb2.PaperPolicy(trigger=messages_pb2.PaperPolicy.TRIGGER_IF_UNREACHABLE, address=HOME),
        )
        claimed: list[letters_pb2.Letter] = []
        async with asyncio.timeout(PATIENCE):
            while not claimed:
                request = letters_pb2.ClaimLettersRequest(max_letters=10, lease=Duration(seconds=600))
                claimed += (await house.call(house.letters.ClaimLetters, request)).letters
                await asyncio.sleep(0.1)


async def _log_in(told: Pair) -> None:
    """A person with a browser; and a client that logs in no more."""
    async with told.client(told.city, demo_clients.OPERATOR) as operator:
        gone = clients_pb2.RevokeClientRequest(name=await registered(operator))
        await operator.call(operator.clients.RevokeClient, gone)
    async with portal.opened(told.city) as opened:
        issued = await opened.log_in(0, scope="mailbox.read", state="of the portal")
        status, _ = await opened.caller(issued["access_token"]).rest("GET", "/v1/mailboxes")
        assert status == 200


async def _exchange(told: Pair) -> None:
    """A call with everything marked, both doors, and an envelope that is received."""
    told.backend.answer = plain(b'{"merkki":"vastaus"}', headers=b"X-Merkki: otsake\r\n")
    async with Client(told.cases) as cases, _cases_of(told.company) as company:
        head = calls.head(
            told.service,
            method="POST",
            target=b"/persons/merkki?hetu=merkki",
            headers=[("X-Merkki", b"merkki")],
            body=b"merkki runko",
        )
        answer = await called(cases, head)
        assert b"merkki" in told.backend.requests[-1].line
        assert answer.status == 200
        caller = Caller(told.city.edge, told.cases.files, None)
        headers = {"X-Road-Client": CONSUMER, "X-Road-UserId": "merkki", "X-Road-Issue": "merkki"}
        connector = aiohttp.TCPConnector(ssl=caller.context(told.cases.files))
        async with aiohttp.ClientSession(told.city.edge, connector=connector) as session:
            path = f"/r1/{told.service}/persons/merkki?q=merkki"
            async with session.get(path, headers=headers) as response:
                assert response.status == 200
        await envelope(cases, b"merkki kirje")
        stub: Any = company.stub(deliveries_pb2_grpc.DeliveryServiceStub)
        received: list[deliveries_pb2.Delivery] = []
        async with asyncio.timeout(PATIENCE):
            while not received:
                request = deliveries_pb2.ReceiveDeliveriesRequest(
                    parent=names.resource("subsystems", PROVIDER), max_deliveries=10, wait=Duration(seconds=2)
                )
                received += (await company.call(stub.ReceiveDeliveries, request)).deliveries
        one = deliveries_pb2.AcknowledgeDeliveriesRequest.Acknowledgement
        given = [one(name=each.name, lease_id=each.lease_id) for each in received]
        asked = deliveries_pb2.AcknowledgeDeliveriesRequest(
            parent=names.resource("subsystems", PROVIDER), acknowledgements=given
        )
        await company.call(stub.AcknowledgeDeliveries, asked)


def _cases_of(node: Node) -> Client:
    return Client(Profile.load(node.state.clients / pair.CASES.client_id))


async def _mistakes(told: Pair) -> None:
    """Personal data where it does not belong: in paths, queries, fields of the wrong form."""
    profile = Profile.load(told.city.state.clients / "permits")
    async with Client(profile) as permits:
        caller = Caller(told.city.edge, profile.files, await permits.token())
        code = NationalIdentifier(scheme=NationalIdentifier.SCHEME_FI_HETU, value="merkki-999X")
        with pytest.raises(Fault):
            await send(permits, "", recipient=messages_pb2.Recipient(identifier=code))
    for path in (
        "/v1/units/merkki/messages",
        "/v1/merkki?hetu=150390-900B",
        "/v1/units/permits/messages?caseId=merkki&merkki=1",
        "/v2/messages/merkki",
        "/oauth2/merkki",
        "/r1/merkki",
    ):
        await caller.rest("GET", path)
    await caller.rest("POST", "/v1/units/permits/messages", raw=b'{"title": "merkki')


async def _subjects(node: Node) -> list[str]:
    """The subjects of all events that a node's streams hold."""
    found: list[str] = []
    for service in mesh.SERVICES:
        client = await jetstream.connect(
            f"tls://127.0.0.1:{node.ports[plan.NATS]}", service=service, files=node.state.identity(service)
        )
        try:
            if mesh.consumers(service):
                info = await client.jetstream().stream_info(mesh.stream(service), subjects_filter=">")
                found += info.state.subjects or {}
        finally:
            await client.close()
    return found
