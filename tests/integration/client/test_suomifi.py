"""The client that the City of Helsinki wrote for Suomi.fi Messages, unmodified, against a node.

Its calls go through the connector, as it has no certificate, to the edge, the
adapter and the services.
"""

from __future__ import annotations

import asyncio
import dataclasses
import io
import uuid
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import requests
from django.conf import settings
from google.protobuf.timestamp_pb2 import Timestamp
from solmu.messages.v1 import attachments_pb2, inbox_pb2, letters_pb2, mailboxes_pb2, messages_pb2, units_pb2
from solmu.types.v1.types_pb2 import LocalizedText
from suomifi_messages import SuomiFiClient, SuomiFiClientError, SuomiFiDuplicateMessageError
from suomifi_messages.schemas import Address, BodyFormat, EventType

from deploy.local import demo_clients
from deploy.local.node import Node
from gateway.client import Client, Profile
from gateway.client.connector import Connector
from tests.integration.node.callers import Caller, issuer
from tests.unit.messages.test_printing import document

PERSON = demo_clients.PERSON["value"]
NOBODY = "010150-999K"
PDF = b"%PDF-1.7\n" + b"1 0 obj << >> endobj\n" * 30_000

settings.configure(
    SUOMIFI_USERNAME="permits",
    SUOMIFI_PASSWORD="of no matter here",
    SUOMIFI_SERVICE_ID="permits",
    SUOMIFI_POSTI_EMAIL="post@city.example",
    SUOMIFI_POSTI_USERNAME="posti",
    SUOMIFI_POSTI_PASSWORD="posti",
)


def profile(node: Node, name: str) -> Profile:
    return Profile.load(node.state.clients / name)


@pytest.fixture(scope="module")
async def connector(node: Node) -> AsyncIterator[Connector]:
    async with Connector(profile(node, "permits")) as started:
        yield started


@pytest.fixture
async def suomifi(connector: Connector) -> AsyncIterator[SuomiFiClient]:
    client = SuomiFiClient()
    client.base_url = connector.address
    await asyncio.to_thread(client.login)
    yield client
    client.session.close()


@pytest.fixture(scope="module")
async def resident(node: Node) -> AsyncIterator[Client]:
    async with Client(profile(node, "resident")) as client:
        yield client


@pytest.fixture(scope="module")
async def mailbox(resident: Client) -> str:
    return (await resident.call(resident.mailboxes.OpenMailbox, mailboxes_pb2.OpenMailboxRequest())).name


async def sent(client: SuomiFiClient, **fields: Any) -> tuple[int, str]:
    asked = {"title": "Päätös", "body": "Lupa on **myönnetty**.", "body_format": BodyFormat.MARKDOWN} | fields
    return await asyncio.to_thread(client.send_electronic_message, recipient_id=PERSON, **asked)


async def opened(resident: Client, mailbox: str, number: int = 0) -> inbox_pb2.InboxMessage:
    """The latest message in the mailbox, opened."""
    asked = inbox_pb2.ListInboxMessagesRequest(parent=mailbox)
    latest = (await resident.call(resident.inbox.ListInboxMessages, asked)).messages[number]
    return await resident.call(resident.inbox.OpenInboxMessage, inbox_pb2.OpenInboxMessageRequest(name=latest.name))


async def events(client: SuomiFiClient, token: str | None, *, until: int) -> tuple[list[Any], str]:
    """Events from a token on, until there are so many: they come after what they tell of."""
    found: list[Any] = []
    async with asyncio.timeout(20):
        while len(found) < until:
            page, token = await asyncio.to_thread(client.get_events, token)
            found += page
            await asyncio.sleep(0.05)
    assert token is not None
    return found, token


async def caught_up(client: SuomiFiClient) -> str | None:
    token: str | None = None
    while True:
        page, token = await asyncio.to_thread(client.get_events, token)
        if not page:
            return token


async def test_a_message_goes_to_the_mailbox_and_its_events_come_back(
    suomifi: SuomiFiClient, resident: Client, mailbox: str
):
    token = await caught_up(suomifi)
    attachment = await asyncio.to_thread(suomifi.upload_attachment, "päätös 1.pdf", io.BytesIO(PDF))
    number, external = await sent(suomifi, attachment_ids=[attachment], reply_allowed=True)
    assert isinstance(number, int)

    seen = await opened(resident, mailbox)
    assert (seen.title, seen.bodies[0].text) == ("Päätös", "Lupa on **myönnetty**.")
    assert seen.bodies[0].format == messages_pb2.Body.FORMAT_MARKDOWN
    assert [(each.file_name, each.media_type, each.size_bytes) for each in seen.attachments] == [
        ("päätös 1.pdf", "application/pdf", len(PDF))
    ]
    download = attachments_pb2.DownloadAttachmentRequest(name=f"{seen.name}/{seen.attachments[0].attachment}")
    pieces = [piece.data async for piece in resident.stream(resident.attachments.DownloadAttachment, download)]
    assert b"".join(pieces) == PDF

    told, token = await events(suomifi, token, until=2)
    assert [event.type for event in told] == [
        EventType.ELECTRONIC_MESSAGE_CREATED,
        EventType.ELECTRONIC_MESSAGE_READ,
    ]
    assert {(event.metadata.message_id, event.metadata.service_id) for event in told} == {(number, "permits")}
    assert {event.metadata.external_id for event in told} == {external}
    assert all(event.event_time.utcoffset() is not None for event in told)
    assert await asyncio.to_thread(suomifi.get_events, token) == ([], token)


async def test_letters_go_to_postal_addresses_and_to_those_without_a_mailbox(suomifi: SuomiFiClient, node: Node):
    home = Address(name="Aino Aalto", street_address="Kotikatu 1", zip_code="00100", city="HELSINKI", country_code="FI")
    content = io.BytesIO(document(pages=3))
    attachment = await asyncio.to_thread(suomifi.upload_attachment, "päätös.pdf", content)
    paper = {"recipient_address": home, "sender_address": home}
    token = await caught_up(suomifi)
    alone, _ = await asyncio.to_thread(suomifi.send_paper_mail_without_id, attachment_id=attachment, **paper)
    electronic = {"title": "Päätös", "body": "Liitteenä.", "body_format": BodyFormat.TEXT, "recipient_id": NOBODY}
    beside, _ = await asyncio.to_thread(
        suomifi.send_multichannel_message, paper_mail_attachment_id=attachment, **electronic, **paper
    )
    async with Client(profile(node, "print-house")) as house, asyncio.timeout(30):
        claimed: list[letters_pb2.Letter] = []
        while len(claimed) < 2:
            answer = await house.call(house.letters.ClaimLetters, letters_pb2.ClaimLettersRequest())
            claimed += [letter for letter in answer.letters if letter.page_count == 1 + 3]
            await asyncio.sleep(0.2)
        reports = [report(letter, "SUBMITTED") for letter in claimed]
        request = letters_pb2.ReportLettersRequest(reports=reports)
        assert not (await house.call(house.letters.ReportLetters, request, attempts=5)).refusals
    told, _ = await events(suomifi, token, until=4)
    kinds = (EventType.PAPER_MAIL_CREATED, EventType.SENT_FOR_PRINTING_AND_ENVELOPING)
    expected = {(number, kind) for number in (alone, beside) for kind in kinds}
    assert {(event.metadata.message_id, event.type) for event in told} == expected


def report(letter: letters_pb2.Letter, state: str) -> letters_pb2.ReportLettersRequest.Report:
    now = Timestamp()
    now.GetCurrentTime()
    return letters_pb2.ReportLettersRequest.Report(
        letter=letter.name,
        claim=letter.claim,
        state=messages_pb2.Delivery.State.Value(f"STATE_{state}"),
        time=now,
    )


async def test_a_second_message_with_the_same_external_id_is_a_duplicate_of_the_first(suomifi: SuomiFiClient):
    external = f"päätös-{uuid.uuid4()}".encode("ascii", "ignore").decode()
    number, _ = await sent(suomifi, external_id=external)
    for title in ("Päätös", "Another"):
        with pytest.raises(SuomiFiDuplicateMessageError) as refused:
            await sent(suomifi, external_id=external, title=title)
        assert refused.value.message_id == number


async def test_a_verifiable_message_is_confirmed(suomifi: SuomiFiClient, resident: Client, mailbox: str):
    token = await caught_up(suomifi)
    number, _ = await sent(suomifi, verifiable=True)
    asked = inbox_pb2.ListInboxMessagesRequest(parent=mailbox)
    locked = (await resident.call(resident.inbox.ListInboxMessages, asked)).messages[0]
    assert locked.locked
    await resident.call(resident.inbox.ConfirmReceipt, inbox_pb2.ConfirmReceiptRequest(name=locked.name))
    told, _ = await events(suomifi, token, until=2)
    assert [(event.type, event.metadata.message_id) for event in told] == [
        (EventType.ELECTRONIC_MESSAGE_CREATED, number),
        (EventType.RECEIPT_CONFIRMED, number),
    ]


async def test_a_resident_replies_and_is_answered(suomifi: SuomiFiClient, resident: Client, mailbox: str):
    token = await caught_up(suomifi)
    number, external = await sent(suomifi, reply_allowed=True)
    received = await opened(resident, mailbox)
    drawing = await resident.upload(b"North is up.", file_name="drawing.txt", media_type="text/plain")
    reply = inbox_pb2.WriteToUnitRequest(
        parent=mailbox,
        in_reply_to=received.name,
        title="Liite",
        body=messages_pb2.Body(language="fi", text="Tässä."),
        attachments=[messages_pb2.MessageAttachment(attachment=drawing.name)],
        request_id=str(uuid.uuid4()),
    )
    await resident.call(resident.inbox.WriteToUnit, reply)
    told, _ = await events(suomifi, token, until=3)
    assert told[-1].type == EventType.ELECTRONIC_MESSAGE_FROM_END_USER
    assert told[-1].metadata.external_id is None

    message = await asyncio.to_thread(suomifi.get_message, told[-1].metadata.message_id)
    assert (message.electronic.title, message.electronic.body) == ("Liite", "Tässä.")
    assert message.message_id == message.electronic.message_id == told[-1].metadata.message_id
    assert message.electronic.thread is not None
    assert message.electronic.thread.root_message_id == number
    assert message.electronic.thread.thread_external_id == external
    (attached,) = message.electronic.attachments
    assert (attached.filename, attached.media_type, attached.size_bytes) == ("drawing.txt", "text/plain", 12)
    assert attached.attachment_id is not None
    assert await asyncio.to_thread(suomifi.get_attachment, attached.attachment_id) == b"North is up."

    assert message.sender is not None
    answer = await asyncio.to_thread(
        suomifi.send_electronic_message,
        title="Kiitos",
        body="Saatu.",
        body_format=BodyFormat.TEXT,
        recipient_id=message.sender.mailbox_owner.id,
        reply_to=message.message_id,
    )
    assert answer[0] > message.message_id
    last = await opened(resident, mailbox)
    assert (last.title, last.thread) == ("Kiitos", received.thread)


async def test_active_mailboxes_are_found_among_many(suomifi: SuomiFiClient, mailbox: str):
    assert await asyncio.to_thread(suomifi.check_mailboxes, [NOBODY, PERSON, "nonsense", "1234567-1"]) == [PERSON]
    assert await asyncio.to_thread(suomifi.check_mailbox, PERSON)
    assert not await asyncio.to_thread(suomifi.check_mailbox, NOBODY)
    many = [PERSON, *(f"{number:07}-0" for number in range(9_999))]
    assert PERSON in await asyncio.to_thread(suomifi.check_mailboxes, many)
    with pytest.raises(SuomiFiClientError) as refused:
        await asyncio.to_thread(suomifi.check_mailboxes, [*many, PERSON])
    assert refused.value.response_body["reason"] == "FIELD_INVALID"
    assert "endUsers" in refused.value.response_body["validationErrors"][0]["error"]


async def test_refusals_say_why(suomifi: SuomiFiClient, mailbox: str):
    async def refusal(call: Any, *arguments: Any, **named: Any) -> Any:
        with pytest.raises(SuomiFiClientError) as refused:
            await asyncio.to_thread(call, *arguments, **named)
        return refused.value.response_body

    electronic = {"title": "A", "body": "B", "body_format": BodyFormat.TEXT}
    nobody = await refusal(suomifi.send_electronic_message, recipient_id=NOBODY, **electronic)
    assert nobody["reason"] == "MAILBOX_NOT_ACTIVE"
    wrong = await refusal(suomifi.send_electronic_message, recipient_id="131052-308U", **electronic)
    assert wrong["reason"] == "IDENTIFIER_INVALID"
    assert wrong["validationErrors"] == [{"error": "recipient.id: has the wrong check digit"}]
    other = await refusal(suomifi.send_electronic_message, recipient_id=PERSON, service_id="schools", **electronic)
    assert other["reason"] == "RESOURCE_NOT_FOUND"
    crafted = await refusal(
        suomifi.send_electronic_message, recipient_id=PERSON, service_id="permits/messages/1", **electronic
    )
    assert crafted["reason"] == "FIELD_INVALID"
    assert crafted["validationErrors"][0]["error"].startswith("sender.serviceId: ")
    gone = await refusal(suomifi.send_electronic_message, recipient_id=PERSON, reply_to=10**17, **electronic)
    assert gone["reason"] == "RESOURCE_NOT_FOUND"
    nothing = await refusal(
        suomifi.send_electronic_message, recipient_id=PERSON, attachment_ids=["../../token"], **electronic
    )
    assert nothing["reason"] == "FIELD_INVALID"
    script = await refusal(
        suomifi.send_electronic_message,
        recipient_id=PERSON,
        title="A",
        body="<script>alert(1)</script>",
        body_format=BodyFormat.MARKDOWN,
    )
    assert script["reason"] == "MARKDOWN_REFUSED"
    assert (await refusal(suomifi.upload_attachment, "../../etc/passwd.txt", b"x"))["reason"] == "FILE_NAME_INVALID"
    assert (await refusal(suomifi.upload_attachment, "a.exe", b"x"))["reason"] == "ATTACHMENT_TYPE_REFUSED"
    assert (await refusal(suomifi.upload_attachment, "a.pdf", b"x"))["reason"] == "ATTACHMENT_TYPE_REFUSED"
    assert (await refusal(suomifi.upload_attachment, "a.txt", b""))["reason"] == "ATTACHMENT_SIZE_MISMATCH"
    assert (await refusal(suomifi.get_message, 10**17))["reason"] == "RESOURCE_NOT_FOUND"
    own, _ = await sent(suomifi)
    assert (await refusal(suomifi.get_message, own))["reason"] == "RESOURCE_NOT_FOUND"
    assert (await refusal(suomifi.get_events, "not-a-token"))["reason"] == "CURSOR_INVALID"
    assert (await refusal(suomifi.login, "operator", "x"))["reason"] == "OAUTH_INVALID_CLIENT"
    assert (await refusal(suomifi.change_password, "a", "b"))["reason"] == "PASSWORD_NOT_USED"


async def test_the_token_is_taken_with_bearer_and_without_and_no_other_is(
    node: Node, connector: Connector, suomifi: SuomiFiClient
):
    assert suomifi.token is not None
    assert not suomifi.session.headers["Authorization"].startswith("Bearer")
    mine = Caller(node.edge, profile(node, "permits").files, None).fingerprint
    other = Caller(node.edge, profile(node, "resident").files, None).fingerprint
    good: str = suomifi.token
    tries = {
        good: 200,
        f"Bearer {good}": 200,
        f"bearer {good}": 200,
        "": 401,
        "Bearer": 401,
        "Basic cGVybWl0czp4": 401,
        good[:-8] + "AAAAAAAA": 401,
        issuer(node).token(other, client_id="permits", scope="messages.read"): 401,
        issuer(node).token(mine, client_id="permits", exp=1): 401,
        issuer(node).token(mine, client_id="permits", scope="messages.send"): 403,
    }
    async with aiohttp.ClientSession(connector.address) as http:
        for authorization, status in tries.items():
            headers = {"authorization": authorization} if authorization else {}
            async with http.get("/v2/events", headers=headers) as answer:
                document = await answer.json()
                assert answer.status == status, (authorization[:12], document)
                assert answer.headers["content-type"] == "application/json"
                assert answer.headers["traceid"] == answer.headers["x-request-id"]
                assert ("events" in document) == (status == 200)
                assert ("reason" in document) == (status != 200)


FORM = "multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data", b"x", 400),
        (FORM, b"", 400),
        (FORM, b"--b--", 400),
        (FORM, PART.replace(b'file"; ', b'other"; ') + b"x\r\n--b--\r\n", 400),
        (FORM, PART.replace(b'; filename="a.txt"', b"") + b"x\r\n--b--\r\n", 400),
        (FORM, PART + b"no end", 400),
        (FORM, PART + b"whole\r\n--b--\r\n", 200),
    ],
)
async def test_a_form_is_taken_where_it_is_whole(
    connector: Connector, suomifi: SuomiFiClient, content_type: str, body: bytes, status: int
):
    headers = {"authorization": str(suomifi.token), "content-type": content_type}
    async with (
        aiohttp.ClientSession(connector.address) as http,
        http.post("/v2/attachments", data=body, headers=headers) as answer,
    ):
        assert answer.status == status, await answer.text()
        assert ("attachmentId" if status == 200 else "reason") in await answer.json()


async def test_nobody_comes_in_without_a_certificate(node: Node):
    with pytest.raises(requests.exceptions.SSLError):
        await asyncio.to_thread(
            requests.post,
            f"{node.edge}/v1/token",
            json={"username": "permits", "password": "x"},
            verify=str(profile(node, "permits").files.authorities),
            timeout=10,
        )


async def test_events_of_all_units_of_an_organisation_come_by_one_token(
    node: Node, suomifi: SuomiFiClient, mailbox: str
):
    async with Client(profile(node, "operator")) as operator:
        for number in range(3):
            names = [LocalizedText(language="fi", text=f"Palvelu {number}")]
            request = units_pb2.CreateUnitRequest(unit_id=f"service-{number}", unit=units_pb2.Unit(display_names=names))
            await operator.call(operator.units.CreateUnit, request)
    token = await caught_up(suomifi)
    expected = [(await sent(suomifi, service_id=f"service-{number % 3}"))[0] for number in range(7)]
    told, token = await events(suomifi, token, until=7)
    assert sorted(event.metadata.message_id for event in told) == sorted(expected)
    assert {event.metadata.service_id for event in told} == {"service-0", "service-1", "service-2"}
    assert [event.event_time for event in told] == sorted(event.event_time for event in told)
    assert await asyncio.to_thread(suomifi.get_events, token) == ([], token)


HOME = Address(name="Aino Aalto", street_address="Kotikatu 2", zip_code="00100", city="HELSINKI", country_code="FI")


async def test_a_message_of_both_channels_goes_to_the_mailbox_where_there_is_one(
    suomifi: SuomiFiClient, resident: Client, mailbox: str
):
    attachment = await asyncio.to_thread(suomifi.upload_attachment, "päätös.pdf", document())
    token = await caught_up(suomifi)
    number, _ = await asyncio.to_thread(
        suomifi.send_multichannel_message,
        title="Päätös",
        body="Lupa on myönnetty.",
        body_format=BodyFormat.TEXT,
        recipient_id=PERSON,
        recipient_address=HOME,
        sender_address=HOME,
        paper_mail_attachment_id=attachment,
    )
    assert (await opened(resident, mailbox)).title == "Päätös"
    told, _ = await events(suomifi, token, until=2)
    assert [(event.type, event.metadata.message_id) for event in told] == [
        (EventType.ELECTRONIC_MESSAGE_CREATED, number),
        (EventType.ELECTRONIC_MESSAGE_READ, number),
    ]


@pytest.mark.parametrize(
    ("outcome", "event_type"),
    [("RECEIPT_CONFIRMED", EventType.POSTI_RECEIPT_CONFIRMED), ("RETURNED", EventType.POSTI_RETURNED_TO_SENDER)],
)
async def test_what_becomes_of_a_letter_is_told(
    suomifi: SuomiFiClient, node: Node, outcome: str, event_type: EventType
):
    attachment = await asyncio.to_thread(suomifi.upload_attachment, "päätös.pdf", document())
    token = await caught_up(suomifi)
    send = suomifi.send_paper_mail_without_id
    number, external = await asyncio.to_thread(send, HOME, HOME, attachment, verifiable=True)
    with pytest.raises(SuomiFiDuplicateMessageError) as repeated:
        await asyncio.to_thread(send, HOME, HOME, attachment, external_id=external, verifiable=True)
    assert repeated.value.message_id == number
    async with Client(profile(node, "print-house")) as house, asyncio.timeout(30):
        while not (answer := await house.call(house.letters.ClaimLetters, letters_pb2.ClaimLettersRequest())).letters:
            await asyncio.sleep(0.2)
        (letter,) = answer.letters
        assert letter.options.postage == messages_pb2.LetterOptions.POSTAGE_RECEIPT
        for state in ("SUBMITTED", "POSTED", outcome):
            request = letters_pb2.ReportLettersRequest(reports=[report(letter, state)])
            assert not (await house.call(house.letters.ReportLetters, request, attempts=5)).refusals
    told, _ = await events(suomifi, token, until=3)
    assert told[-1].type == event_type
    assert {event.metadata.external_id for event in told} == {external}


async def test_a_letter_that_cannot_be_printed_is_refused(suomifi: SuomiFiClient):
    attachment = await asyncio.to_thread(suomifi.upload_attachment, "a.pdf", PDF)
    for address, reason in (
        (HOME, "PDF_NOT_PRINTABLE"),
        (dataclasses.replace(HOME, name="x" * 79), "ADDRESS_DOES_NOT_FIT"),
        (dataclasses.replace(HOME, country_code="Finland"), "FIELD_INVALID"),
    ):
        with pytest.raises(SuomiFiClientError) as refused:
            await asyncio.to_thread(suomifi.send_paper_mail_without_id, address, HOME, attachment)
        assert refused.value.response_body["reason"] == reason, refused.value.response_body
