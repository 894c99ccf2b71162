"""What residents write to units: replies, new messages, supporting documents; threads, cases and receipts."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.field_mask_pb2 import FieldMask
from solmu.messages.v1 import attachments_pb2, inbox_pb2, mailboxes_pb2, messages_pb2, units_pb2

from services.runtime.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from tests.integration.messages.conftest import Service
from tests.integration.messages.test_courses import confirm, listed, open_, send, types_of, withdraw
from tests.integration.messages.test_feed import events_of
from tests.integration.messages.test_sending import request

Message = messages_pb2.Message
ReplyPolicy = messages_pb2.ReplyPolicy
OTHERS = "organisations/aaaaaaaaaaaaaaaaaaaaaaaaaa"


async def written(service: Service, mailbox: str, *, request_id: str = "", **fields) -> inbox_pb2.InboxMessage:
    return await service.inbox.WriteToUnit(
        inbox_pb2.WriteToUnitRequest(
            parent=mailbox,
            title="Question",
            body=messages_pb2.Body(language="fi", text="Milloin?"),
            request_id=request_id or str(uuid.uuid4()),
            **fields,
        )
    )


async def send_for_reply(service: Service, *, kind=Message.KIND_ORDINARY, **policy):
    """A message that takes replies: message, mailbox, the resident's party and name for it."""
    unit = await service.unit()
    identifier, mailbox = await service.resident()
    asked = request(unit, identifier)
    asked.message.kind = kind
    asked.message.reply_policy.MergeFrom(ReplyPolicy(allowed=ReplyPolicy.ALLOWED_READERS, **policy))
    service.act_as(service.city)
    message = await service.messages.SendMessage(asked)
    return message, mailbox, service.parties.name_of(identifier), f"{mailbox}/messages/{message.name.split('/')[3]}"


async def open_unit(service: Service) -> str:
    """A unit that residents may write to first."""
    unit = await service.unit()
    changed = units_pb2.Unit(name=unit, accepts_new_messages=True)
    mask = FieldMask(paths=["accepts_new_messages"])
    await service.units.UpdateUnit(units_pb2.UpdateUnitRequest(unit=changed, update_mask=mask))
    return unit


async def received(service: Service, unit: str, **filters):
    service.act_as(service.city)
    filters.setdefault("direction", Message.DIRECTION_INBOUND)
    return (await service.messages.ListMessages(messages_pb2.ListMessagesRequest(parent=unit, **filters))).messages


async def document(service: Service, content: bytes = b"A drawing.") -> str:
    """An attachment of whoever is acting."""
    reserved = await service.attachments.CreateAttachment(
        attachments_pb2.CreateAttachmentRequest(
            attachment=attachments_pb2.Attachment(
                file_name="drawing.txt",
                media_type="text/plain",
                size_bytes=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
            )
        )
    )

    async def parts():
        yield attachments_pb2.UploadAttachmentRequest(name=reserved.name, content=HttpBody(data=content))

    return (await service.attachments.UploadAttachment(parts())).name


async def downloaded(service: Service, name: str) -> bytes:
    parts = service.attachments.DownloadAttachment(attachments_pb2.DownloadAttachmentRequest(name=name))
    return b"".join([part.data async for part in parts])


async def test_a_reply_keeps_the_thread_the_case_and_the_senders_mark(service: Service):
    message, mailbox, party, name = await send_for_reply(service)
    service.act_as(party, client="portal")
    reply = await written(service, mailbox, in_reply_to=name)
    assert (reply.direction, reply.in_reply_to, reply.thread) == (Message.DIRECTION_INBOUND, name, message.thread)
    unit = "/".join(message.name.split("/")[:2])
    (arrived,) = await received(service, unit, case_id="BP-1")
    assert (arrived.in_reply_to, arrived.thread) == (message.name, message.thread)
    assert (arrived.case_reference.case_id, arrived.correlation_id) == ("BP-1", "corr-1")
    assert (arrived.sender.party, arrived.sender.client) == (party, "clients/portal")
    assert arrived.idempotency_key == ""
    whole = await service.messages.GetMessage(messages_pb2.GetMessageRequest(name=arrived.name))
    assert whole.bodies[0].text == "Milloin?"
    (event,) = [event for event in await events_of(service, unit, 3) if event.type == "inbound.received"]
    assert (event.message, event.correlation_id) == (arrived.name, "corr-1")


async def test_what_has_arrived_has_its_receipt(service: Service):
    _, mailbox, party, name = await send_for_reply(service)
    service.act_as(party)
    reply = await written(service, mailbox, in_reply_to=name)
    assert reply.legal_effect.state == messages_pb2.LegalEffect.STATE_EFFECTIVE
    assert reply.legal_effect.basis == messages_pb2.LegalEffect.BASIS_AVAILABLE
    assert reply.legal_effect.effective_time == reply.available_time
    sent = next(entry for entry in await listed(service, mailbox) if entry.direction == Message.DIRECTION_INBOUND)
    assert (sent.name, sent.author.party) == (reply.name, party)
    assert (await open_(service, reply.name)).bodies[0].text == "Milloin?"


async def test_a_conversation_goes_on_in_one_thread(service: Service):
    message, mailbox, party, name = await send_for_reply(service)
    service.act_as(party)
    await written(service, mailbox, in_reply_to=name)
    unit = "/".join(message.name.split("/")[:2])
    (arrived,) = await received(service, unit)
    answer = messages_pb2.SendMessageRequest(
        parent=unit,
        idempotency_key="answer-1",
        message=Message(
            recipient=arrived.recipient,
            title="Answer",
            bodies=[messages_pb2.Body(language="fi", text="Huomenna.")],
            in_reply_to=arrived.name,
        ),
    )
    answered = await service.messages.SendMessage(answer)
    assert (answered.thread, answered.in_reply_to) == (message.thread, arrived.name)
    assert answered.case_reference.case_id == "BP-1"
    assert await service.messages.SendMessage(answer) == answered
    service.act_as(party)
    assert len(await listed(service, mailbox, thread=message.thread)) == 3
    assert [entry.title for entry in await listed(service, mailbox, unread_only=True)] == ["Answer", "Decision"]
    owner = await service.mailboxes.GetMailbox(mailboxes_pb2.GetMailboxRequest(name=mailbox))
    assert owner.unread_count == 2


async def test_a_resident_writes_first_to_a_unit_that_takes_it_and_adds_to_it_later(service: Service):
    unit = await open_unit(service)
    _, mailbox = await service.resident()
    first = await written(service, mailbox, unit=unit)
    second = await written(service, mailbox, in_reply_to=first.name)
    assert second.thread == first.thread
    assert len(await received(service, unit)) == 2


async def test_a_unit_that_does_not_take_new_messages_gets_none(service: Service, tables):
    unit = await service.unit()
    _, mailbox = await service.resident()
    before = await tables()
    with pytest.raises(FailedPrecondition) as refused:
        await written(service, mailbox, unit=unit)
    assert refused.value.reason == "REPLY_NOT_ALLOWED"
    with pytest.raises(NotFound):
        await written(service, mailbox, unit="units/there-is-none")
    assert await tables() == before


async def test_a_message_that_takes_no_replies_gets_none(service: Service):
    _, mailbox, party, name = await send(service)
    service.act_as(party)
    with pytest.raises(FailedPrecondition) as refused:
        await written(service, mailbox, in_reply_to=name)
    assert refused.value.reason == "REPLY_NOT_ALLOWED"


async def test_the_time_for_replies_ends(service: Service):
    _, mailbox, party, name = await send_for_reply(service, end_time=datetime.now(UTC) - timedelta(seconds=1))
    service.act_as(party)
    with pytest.raises(FailedPrecondition) as refused:
        await written(service, mailbox, in_reply_to=name)
    assert refused.value.reason == "REPLY_NOT_ALLOWED"


async def test_a_locked_message_is_answered_after_its_receipt(service: Service):
    _, mailbox, party, name = await send_for_reply(service, kind=Message.KIND_VERIFIABLE)
    service.act_as(party)
    with pytest.raises(FailedPrecondition) as refused:
        await written(service, mailbox, in_reply_to=name)
    assert refused.value.reason == "RECEIPT_NOT_CONFIRMED"
    await confirm(service, name)
    await written(service, mailbox, in_reply_to=name)


async def test_a_withdrawn_message_is_not_answered(service: Service):
    message, mailbox, party, name = await send_for_reply(service)
    await withdraw(service, message)
    service.act_as(party)
    with pytest.raises(FailedPrecondition) as refused:
        await written(service, mailbox, in_reply_to=name)
    assert refused.value.reason == "MESSAGE_WITHDRAWN"


async def test_replies_go_to_the_unit_that_the_policy_names(service: Service):
    desk = await service.unit()
    message, mailbox, party, name = await send_for_reply(service, reply_to=desk)
    service.act_as(party)
    await written(service, mailbox, in_reply_to=name)
    (arrived,) = await received(service, desk)
    assert arrived.in_reply_to == message.name
    assert await received(service, "/".join(message.name.split("/")[:2])) == []


async def test_replies_are_not_sent_to_a_strangers_unit(service: Service):
    with pytest.raises(NotFound):
        await send_for_reply(service, reply_to="units/there-is-none")


async def test_a_repeat_is_the_same_message_and_another_content_is_refused(service: Service, tables):
    _, mailbox, party, name = await send_for_reply(service)
    service.act_as(party)
    key = str(uuid.uuid4())
    first = await written(service, mailbox, in_reply_to=name, request_id=key)
    before = await tables()
    assert await written(service, mailbox, in_reply_to=name, request_id=key) == first
    many = (written(service, mailbox, in_reply_to=name, request_id=key) for _ in range(5))
    assert {reply.name for reply in await asyncio.gather(*many)} == {first.name}
    assert await tables() == before
    attachment = [messages_pb2.MessageAttachment(attachment=await document(service))]
    with pytest.raises(AlreadyExists) as refused:
        await written(service, mailbox, in_reply_to=name, request_id=key, attachments=attachment)
    assert refused.value.reason == "IDEMPOTENCY_KEY_REUSED"


async def test_supporting_documents_reach_the_unit_and_their_owner_sees_who_looked(service: Service):
    unit = await open_unit(service)
    identifier, mailbox = await service.resident()
    content = b"Section A-A. " * 1000
    attachment = await document(service, content)
    use = messages_pb2.MessageAttachment(attachment=attachment, role=messages_pb2.MessageAttachment.ROLE_MAIN)
    sent = await written(service, mailbox, unit=unit, attachments=[use])
    assert sent.attachments[0].file_name == "drawing.txt"
    (arrived,) = await received(service, unit)
    service.act_as(service.city, client="permits")
    got = await service.messages.GetMessage(messages_pb2.GetMessageRequest(name=arrived.name))
    assert await downloaded(service, f"{arrived.name}/{got.attachments[0].attachment}") == content
    assert await downloaded(service, attachment) == content
    service.act_as(OTHERS)
    for name in (f"{arrived.name}/{attachment}", attachment):
        with pytest.raises(NotFound):
            await downloaded(service, name)
    service.act_as(service.parties.name_of(identifier))
    accesses = (await service.mailboxes.ListAccesses(mailboxes_pb2.ListAccessesRequest(parent=mailbox))).accesses
    assert [(one.method, one.unit) for one in accesses if one.actor.client == "clients/permits"] == [
        ("DownloadAttachment", unit),
        ("DownloadAttachment", unit),
        ("GetMessage", unit),
    ]


async def test_nobody_writes_from_anothers_mailbox_or_answers_anothers_mail(service: Service):
    _, mailbox, party, name = await send_for_reply(service)
    _, own = await service.resident()
    with pytest.raises(NotFound):
        await written(service, mailbox, in_reply_to=name)
    with pytest.raises(NotFound):
        await written(service, own, in_reply_to=name)
    service.act_as(party)
    with pytest.raises(NotFound):
        await written(service, mailbox, in_reply_to=name.rsplit("/", 1)[0] + f"/{uuid.uuid4()}")


async def test_a_message_goes_to_a_unit_or_answers_one(service: Service):
    unit = await open_unit(service)
    _, mailbox, party, name = await send_for_reply(service)
    service.act_as(party)
    for fields in ({}, {"unit": unit, "in_reply_to": name}):
        with pytest.raises(InvalidArgument) as refused:
            await written(service, mailbox, **fields)
        assert refused.value.reason == "FIELD_INVALID"


async def test_a_unit_answers_within_one_mailbox_only(service: Service):
    message, *_ = await send_for_reply(service)
    other, _ = await service.resident()
    asked = request("/".join(message.name.split("/")[:2]), other, key="elsewhere")
    asked.message.in_reply_to = message.name
    service.act_as(service.city)
    with pytest.raises(NotFound):
        await service.messages.SendMessage(asked)


async def test_what_a_unit_received_it_cannot_withdraw(service: Service):
    message, mailbox, party, name = await send_for_reply(service)
    service.act_as(party)
    await written(service, mailbox, in_reply_to=name)
    (arrived,) = await received(service, "/".join(message.name.split("/")[:2]))
    with pytest.raises(NotFound):
        await withdraw(service, arrived)
    assert len(await types_of(service, message, 3)) == 3
