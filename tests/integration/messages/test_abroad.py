"""What other nodes bring, one parcel at a time: each has effect once, and a node is heard about its own messages only."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from solmu.exchange.v1 import envelopes_pb2, events_pb2
from solmu.messages.v1 import attachments_pb2, inbox_pb2, mailboxes_pb2, messages_pb2, parcels_pb2
from solmu.types.v1.types_pb2 import LocalizedText, NationalIdentifier

from services.messages.abroad.guests import Guests
from services.messages.abroad.hearing import Hearing
from services.messages.abroad.news import News
from services.messages.abroad.saying import Saying
from services.messages.abroad.store import Kind
from services.messages.servicers.messages import Messages
from services.runtime.errors import AlreadyExists, FailedPrecondition, Fault, InvalidArgument, NotFound
from services.runtime.jetstream import Received
from tests.integration.messages.conftest import Service, person
from tests.integration.messages.test_feed import events_of

CITY, OTHER = "subsystems/FI~MUN~1~solmu", "subsystems/FI~MUN~2~solmu"
UNIT = parcels_pb2.ForeignUnit(unit="permits", display_names=[LocalizedText(language="en", text="Permits, far away")])
Message = messages_pb2.Message


@pytest.fixture
def guests(service: Service) -> Guests:
    return Guests(
        database=service.database,
        mailboxes=service.mailboxes,
        attachments=service.attachments,
        messages=service.messages,
    )


@pytest.fixture
def news(service: Service) -> News:
    return News(
        database=service.database,
        feed=service.feeds._feed,
        outbox=service.outbox,
        vault=service.vault,
        hearing=Hearing(outbox=service.outbox),
        attachments=service.attachments,
    )


def brought(recipient: NationalIdentifier) -> parcels_pb2.ParcelMessage:
    return parcels_pb2.ParcelMessage(
        message=str(uuid.uuid4()),
        unit=UNIT,
        recipient=recipient,
        content=Message(title="From afar", bodies=[messages_pb2.Body(language="en", text="Hello.")]),
    )


async def inbox(service: Service, identifier: NationalIdentifier, mailbox: str) -> list[inbox_pb2.InboxMessage]:
    service.act_as(service.parties.name_of(identifier))
    return list((await service.inbox.ListInboxMessages(inbox_pb2.ListInboxMessagesRequest(parent=mailbox))).messages)


async def content(data: bytes) -> AsyncIterator[bytes]:
    yield data[:3]
    yield data[3:]


async def abroad(service: Service, **fields) -> Message:
    """A message that has left for a node that was asked, and has the mailbox."""
    unit, recipient = await service.unit(), person()
    messages = Messages(
        database=service.database,
        blobs=service.blobs,
        feed=service.feeds._feed,
        outbox=service.outbox,
        parties=service.parties,
        vault=service.vault,
        nodes=(CITY, OTHER),
    )
    service.act_as(service.city)
    message = Message(
        recipient=messages_pb2.Recipient(identifier=recipient),
        title="To afar",
        bodies=[messages_pb2.Body(language="en", text="Hello.")],
        reply_policy=messages_pb2.ReplyPolicy(allowed=messages_pb2.ReplyPolicy.ALLOWED_READERS),
        **fields,
    )
    request = messages_pb2.SendMessageRequest(parent=unit, message=message, idempotency_key=str(uuid.uuid4()))
    return await messages.SendMessage(request)


async def shown(service: Service, message: Message) -> Message:
    service.act_as(service.city)
    return await service.messages.GetMessage(messages_pb2.GetMessageRequest(name=message.name))


async def errands(service: Service, message: Message) -> list[tuple[Kind, str]]:
    rows = await service.database.fetch(
        "select kind, subsystem from errand where message_id = $1 order by seq", uuid.UUID(message.name.split("/")[3])
    )
    return [(Kind(row["kind"]), row["subsystem"]) for row in rows]


def said(message: Message, **fields):
    return {"message": message.name.split("/")[3], **fields}


async def test_a_message_from_another_node_is_delivered_once_however_often_it_is_brought(service, guests):
    recipient, mailbox = await service.resident()
    pdf = b"Some plain text."
    parcel = brought(recipient)
    attachment = parcels_pb2.ParcelAttachment(
        attachment=str(uuid.uuid4()),
        message=parcel.message,
        described=attachments_pb2.Attachment(file_name="note.txt", media_type="text/plain", size_bytes=len(pdf)),
    )
    parcel.attachments.add(attachment=attachment.attachment, role=messages_pb2.MessageAttachment.ROLE_MAIN)
    for _ in range(2):
        await guests.attachment(CITY, attachment, content(pdf))
        await guests.message(CITY, parcel)
    (message,) = await inbox(service, recipient, mailbox)
    assert (message.title, message.unit_display_names[0].text) == ("From afar", "Permits, far away")
    read = await service.inbox.OpenInboxMessage(inbox_pb2.OpenInboxMessageRequest(name=message.name))
    assert [each.file_name for each in read.attachments] == ["note.txt"]
    request = attachments_pb2.DownloadAttachmentRequest(name=f"{message.name}/{read.attachments[0].attachment}")
    pieces = [piece.data async for piece in service.attachments.DownloadAttachment(request)]
    assert b"".join(pieces) == pdf
    parcel.content.title = "Something else"
    with pytest.raises(AlreadyExists, match="IDEMPOTENCY_KEY_REUSED"):
        await guests.message(CITY, parcel)


async def test_two_nodes_that_use_one_id_do_not_meet(service, guests):
    recipient, mailbox = await service.resident()
    parcel = brought(recipient)
    await guests.message(CITY, parcel)
    await guests.message(OTHER, parcel)
    first, second = await inbox(service, recipient, mailbox)
    assert first.unit != second.unit
    await guests.withdraw(OTHER, parcels_pb2.ParcelWithdrawal(message=parcel.message))
    withdrawn = [message.HasField("withdraw_time") for message in await inbox(service, recipient, mailbox)]
    assert sorted(withdrawn) == [False, True]


def nobody(parcel: parcels_pb2.ParcelMessage) -> None:
    parcel.recipient.value = "nobody"


def without_text(parcel: parcels_pb2.ParcelMessage) -> None:
    parcel.content.ClearField("bodies")


def with_html(parcel: parcels_pb2.ParcelMessage) -> None:
    parcel.content.bodies[0].format = messages_pb2.Body.FORMAT_MARKDOWN
    parcel.content.bodies[0].text = "<script>x</script>"


def without_its_attachment(parcel: parcels_pb2.ParcelMessage) -> None:
    parcel.attachments.add(attachment=str(uuid.uuid4()))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (nobody, "IDENTIFIER_INVALID"),
        (without_text, "FIELD_INVALID"),
        (with_html, "MARKDOWN_REFUSED"),
        (without_its_attachment, "ATTACHMENT_NOT_READY"),
    ],
)
async def test_what_would_be_refused_of_a_sender_here_is_refused_of_another_node(
    service, guests, tables, change, reason
):
    recipient, _ = await service.resident()
    await guests.message(CITY, brought(recipient))
    before = await tables()
    parcel = brought(recipient)
    change(parcel)
    with pytest.raises(Fault) as refusal:
        await guests.message(CITY, parcel)
    assert refusal.value.reason == reason
    after = await tables()
    assert (after["message"], after["delivery"]) == (before["message"], before["delivery"])


async def test_nobody_without_a_mailbox_here_is_found_and_a_look_up_is_on_record(service, guests):
    recipient, mailbox = await service.resident()
    for asked, reachable in ((recipient, True), (person(), False)):
        enquiry = parcels_pb2.Enquiry(message=str(uuid.uuid4()), unit=UNIT, recipient=asked)
        assert (await guests.enquire(CITY, enquiry)).finding.reachable is reachable
    row = await service.database.fetchrow(
        "select method, unit_id from access_record where mailbox_id = $1 order by access_id desc limit 1",
        uuid.UUID(mailbox.split("/")[1]),
    )
    assert (row["method"], row["unit_id"][0]) == ("LookUpMailboxes", "0")
    with pytest.raises(FailedPrecondition, match="MAILBOX_NOT_ACTIVE"):
        await guests.message(CITY, brought(person()))


async def test_another_node_sees_and_withdraws_what_it_sent_and_nothing_else(service, guests, news):
    recipient, mailbox = await service.resident()
    await guests.message(CITY, brought(recipient))
    (message,) = await inbox(service, recipient, mailbox)
    own = message.name.split("/")[3]
    await guests.withdraw(OTHER, parcels_pb2.ParcelWithdrawal(message=own))
    assert not (await inbox(service, recipient, mailbox))[0].HasField("withdraw_time")
    for other in (CITY, OTHER):
        with pytest.raises(NotFound):
            await news.report(other, parcels_pb2.ParcelReport(message=own, unreachable=True))


async def test_the_first_node_that_has_the_mailbox_gets_the_message_and_no_other(service, news):
    message = await abroad(service)
    await news.finding(CITY, parcels_pb2.Finding(**said(message, reachable=False)))
    await news.finding("subsystems/FI~MUN~3~solmu", parcels_pb2.Finding(**said(message, reachable=True)))
    assert (Kind.MESSAGE, "subsystems/FI~MUN~3~solmu") not in await errands(service, message)
    for _ in range(2):
        await news.finding(OTHER, parcels_pb2.Finding(**said(message, reachable=True)))
    assert [node for kind, node in await errands(service, message) if kind is Kind.MESSAGE] == [OTHER]


async def test_a_message_is_unreachable_once_nobody_has_the_mailbox_and_the_code_is_forgotten(service, news):
    message = await abroad(service)
    await news.finding(CITY, parcels_pb2.Finding(**said(message)))
    assert (await shown(service, message)).deliveries[0].state == messages_pb2.Delivery.STATE_QUEUED
    await news.finding(OTHER, parcels_pb2.Finding(**said(message)))
    assert (await shown(service, message)).deliveries[0].state == messages_pb2.Delivery.STATE_UNREACHABLE
    passage = await service.database.fetchrow(
        "select recipient from passage where message_id = $1", uuid.UUID(message.name.split("/")[3])
    )
    assert passage["recipient"] is None


async def test_only_the_node_that_got_a_message_is_heard_about_it(service, news):
    message = await abroad(service)
    await news.finding(CITY, parcels_pb2.Finding(**said(message, reachable=True)))
    report = parcels_pb2.ParcelReport(**said(message))
    report.available_time.FromDatetime(datetime.now(UTC))
    with pytest.raises(NotFound):
        await news.report(OTHER, report)
    reply = parcels_pb2.ParcelReply(
        reply=str(uuid.uuid4()),
        in_reply_to=message.name.split("/")[3],
        body=messages_pb2.Body(language="en", text="Not mine to answer."),
    )
    with pytest.raises(NotFound):
        await news.reply(OTHER, reply)
    await news.report(CITY, report)
    assert (await shown(service, message)).deliveries[0].state == messages_pb2.Delivery.STATE_AVAILABLE
    for _ in range(2):
        await news.reply(CITY, reply)
    service.act_as(service.city)
    unit = message.name.rpartition("/messages/")[0]
    request = messages_pb2.ListMessagesRequest(parent=unit, direction=Message.DIRECTION_INBOUND)
    (kept,) = (await service.messages.ListMessages(request)).messages
    assert kept.in_reply_to == message.name


async def test_a_sender_hears_once_of_a_mailbox_closed_on_another_node(service, news):
    message = await abroad(service)
    await news.finding(CITY, parcels_pb2.Finding(**said(message, reachable=True)))
    report = parcels_pb2.ParcelReport(**said(message, mailbox_closed="DEATH"))
    report.available_time.FromDatetime(datetime.now(UTC))
    for _ in range(2):
        await news.report(CITY, report)
    report.ClearField("mailbox_closed")
    report.open_time.FromDatetime(datetime.now(UTC))
    await news.report(CITY, report)
    service.act_as(service.city)
    events = await events_of(service, message.name.rpartition("/messages/")[0], 4)
    types = ["message.accepted", "delivery.available", "delivery.mailbox_closed", "delivery.opened"]
    assert [event.type for event in events] == types
    assert (events[2].message, events[2].reason) == (message.name, "DEATH")


async def test_the_node_of_a_sender_is_told_of_a_mailbox_that_was_closed_here(service, guests):
    recipient, mailbox = await service.resident()
    await guests.message(CITY, brought(recipient))
    (message,) = await inbox(service, recipient, mailbox)
    saying = Saying(database=service.database, vault=service.vault)

    async def said_of_it() -> list[str]:
        found = "select * from errand where message_id = $1 and kind = $2 order by seq"
        rows = await service.database.fetch(found, uuid.UUID(message.name.split("/")[3]), Kind.REPORT)
        return [await ground(row) for row in rows]

    async def ground(errand) -> str:
        passage = await saying.passage(errand)
        assert passage is not None
        parcel = await saying.parcel(errand, passage)
        assert parcel is not None
        return parcel.report.mailbox_closed

    assert set(await said_of_it()) == {""}
    before = len(await said_of_it())
    service.act_as(service.city, client="operator")
    asked = mailboxes_pb2.DiscontinueMailboxRequest(
        owner=recipient, reason=mailboxes_pb2.Mailbox.Closing.REASON_DECISION, reference="HEL 2026-002"
    )
    await service.mailboxes.DiscontinueMailbox(asked)
    async with asyncio.timeout(60):
        while len(told := await said_of_it()) == before:
            await asyncio.sleep(0.05)
    assert told[-1] == "DECISION"


async def test_a_withdrawn_message_goes_nowhere(service, news):
    message = await abroad(service)
    service.act_as(service.city)
    await service.messages.WithdrawMessage(messages_pb2.WithdrawMessageRequest(name=message.name))
    known = "select recipient is not null from passage where message_id = $1"
    while await service.database.fetchval(known, uuid.UUID(message.name.split("/")[3])):
        await asyncio.sleep(0.05)
    await news.finding(CITY, parcels_pb2.Finding(**said(message, reachable=True)))
    assert Kind.MESSAGE not in [kind for kind, _ in await errands(service, message)]


async def test_a_reply_is_judged_as_one_that_is_written_here(service, news):
    message = await abroad(service)
    await news.finding(CITY, parcels_pb2.Finding(**said(message, reachable=True)))
    reply = parcels_pb2.ParcelReply(
        reply=str(uuid.uuid4()),
        in_reply_to=message.name.split("/")[3],
        body=messages_pb2.Body(language="en", format=messages_pb2.Body.FORMAT_MARKDOWN, text="<b>bold</b>"),
    )
    with pytest.raises(InvalidArgument, match="MARKDOWN_REFUSED"):
        await news.reply(CITY, reply)


@pytest.mark.parametrize(
    ("reason", "shown_reason"), [("ATTACHMENT_INFECTED", "ATTACHMENT_INFECTED"), ("", "MESSAGE_STATE")]
)
async def test_who_wrote_a_reply_sees_that_the_other_node_refused_it(service, guests, reason, shown_reason):
    identifier, mailbox = await service.resident()
    first = brought(identifier)
    first.content.reply_policy.allowed = messages_pb2.ReplyPolicy.ALLOWED_READERS
    await guests.message(CITY, first)
    (received,) = await inbox(service, identifier, mailbox)
    reply = await service.inbox.WriteToUnit(
        inbox_pb2.WriteToUnitRequest(
            parent=mailbox,
            in_reply_to=received.name,
            title="Re",
            body=messages_pb2.Body(language="en", text="My drawing."),
            request_id=str(uuid.uuid4()),
        )
    )
    assert not reply.HasField("rejection")
    errand = None
    find = "select errand_id from errand where message_id = $1 and kind = $2"
    async with asyncio.timeout(20):
        while errand is None:
            errand = await service.database.fetchval(find, uuid.UUID(reply.name.split("/")[3]), Kind.REPLY)
            await asyncio.sleep(0.02)
    refused = events_pb2.EnvelopeSettled(
        envelope=f"{CITY}/envelopes/1",
        message_id=str(errand),
        recipient=CITY,
        state=envelopes_pb2.DELIVERY_STATE_REFUSED,
        reason=reason,
    )
    told = Received(
        "exchange", uuid.uuid4(), refused.DESCRIPTOR.full_name, refused.SerializeToString(), datetime.now(UTC), ""
    )
    async with service.database.transaction() as transaction:
        await Hearing(outbox=service.outbox).settled(transaction, [told])
    found = {one.name: one for one in await inbox(service, identifier, mailbox)}
    assert shown_reason.encode() in found[reply.name].rejection.SerializeToString()
    assert found[reply.name].delivery_state == messages_pb2.Delivery.STATE_UNREACHABLE
    assert found[reply.name].legal_effect.state == messages_pb2.LegalEffect.STATE_NONE
    assert not found[received.name].HasField("rejection")
