"""Messages of units that keep them for a time: ended for the unit, the recipient's until they leave the mailbox."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from solmu.messages.v1 import attachments_pb2, inbox_pb2, messages_pb2, units_pb2

from services.messages import retention
from services.runtime.errors import FailedPrecondition, NotFound
from services.runtime.ids import new_id
from tests.integration.messages.conftest import Service
from tests.integration.messages.test_attachments import download, reserve, unique, upload
from tests.integration.messages.test_feed import events_of
from tests.integration.messages.test_sending import request

Message = messages_pb2.Message
DAYS = timedelta(days=30)


async def keeping(service: Service, days: timedelta = DAYS) -> str:
    """A unit that keeps messages for some days."""
    unit = await service.unit()
    kept = Duration()
    kept.FromTimedelta(days)
    changed = units_pb2.Unit(name=unit, retention=kept)
    mask = FieldMask(paths=["retention"])
    await service.units.UpdateUnit(units_pb2.UpdateUnitRequest(unit=changed, update_mask=mask))
    return unit


async def rounds(service: Service, *, days: float) -> None:
    """What happens until a moment so many days from now."""
    now = datetime.now(UTC) + timedelta(days=days)
    await service.pass_time(now)
    await retention.once(database=service.database, outbox=service.outbox, now=now)


async def sent(service: Service, unit: str, **fields):
    """A message: asked, sent, whose, the recipient's name for it, its attachment and the content of that."""
    identifier, mailbox = await service.resident()
    content = unique()
    attachment = await upload(service, await reserve(service, content), content)
    asked = request(unit, identifier)
    asked.message.attachments.add(attachment=attachment.name)
    asked.message.MergeFrom(Message(**fields))
    service.act_as(service.city)
    message = await service.messages.SendMessage(asked)
    name = f"{mailbox}/messages/{message.name.split('/')[3]}"
    return asked, message, service.parties.name_of(identifier), name, attachment, content


async def rows(service: Service, message: Message) -> int:
    message_id = uuid.UUID(message.name.split("/")[3])
    count: int = await service.database.fetchval("select count(*) from message where message_id = $1", message_id)
    return count


async def test_a_message_ends_for_its_unit_and_stays_the_recipients(service: Service):
    unit = await keeping(service)
    asked, message, party, name, attachment, content = await sent(service, unit)
    await rounds(service, days=29)
    service.act_as(service.city)
    read = messages_pb2.GetMessageRequest(name=message.name)
    assert (await service.messages.GetMessage(read)).state == Message.STATE_RELEASED

    await rounds(service, days=31)
    assert (await events_of(service, unit, 4))[-1].type == "message.closed"
    assert (await events_of(service, unit, 4))[-1].idempotency_key == asked.idempotency_key
    service.act_as(service.city)
    with pytest.raises(NotFound):
        await service.messages.GetMessage(read)
    assert not (await service.messages.ListMessages(messages_pb2.ListMessagesRequest(parent=unit))).messages
    for gone in (attachment.name, f"{message.name}/{attachment.name}"):
        with pytest.raises(NotFound):
            await download(service, gone)
    with pytest.raises(NotFound):
        await service.attachments.GetAttachment(attachments_pb2.GetAttachmentRequest(name=attachment.name))
    with pytest.raises(FailedPrecondition) as refused:
        await service.messages.WithdrawMessage(messages_pb2.WithdrawMessageRequest(name=message.name))
    assert refused.value.reason == "MESSAGE_STATE"
    again = await service.messages.SendMessage(asked_without_attachments(asked))
    assert again.name != message.name

    service.act_as(party)
    seen = await service.inbox.OpenInboxMessage(inbox_pb2.OpenInboxMessageRequest(name=name))
    assert seen.bodies[0].text == "Granted."
    assert await download(service, f"{name}/{attachment.name}") == content


def asked_without_attachments(asked: messages_pb2.SendMessageRequest) -> messages_pb2.SendMessageRequest:
    again = messages_pb2.SendMessageRequest()
    again.CopyFrom(asked)
    del again.message.attachments[:]
    return again


async def test_what_has_left_both_is_deleted_with_all_that_was_its_own(service: Service):
    unit = await keeping(service)
    _, message, party, name, attachment, _ = await sent(service, unit)
    printed = await upload(service, await reserve(service, letter := unique()), letter)
    await service.database.execute(
        "insert into letter (message_id, create_time, attachment_id) values ($1, now(), $2)",
        *(uuid.UUID(each.name.split("/")[-1]) for each in (message, printed)),
    )
    service.act_as(party)
    await service.inbox.DeleteInboxMessage(inbox_pb2.DeleteInboxMessageRequest(name=name))
    await rounds(service, days=31)
    assert await rows(service, message) == 1
    assert await service.stored(attachment.name) != []
    await rounds(service, days=61)
    assert await rows(service, message) == 0
    assert await service.stored(attachment.name) == await service.stored(printed.name) == []
    message_id = uuid.UUID(message.name.split("/")[3])
    for table in ("delivery", "message_attachment", "letter"):
        assert await service.database.fetchval(f"select count(*) from {table} where message_id = $1", message_id) == 0


async def test_what_waits_or_is_not_served_yet_is_kept(service: Service):
    unit = await keeping(service, timedelta(days=1))
    later = messages_pb2.Message(kind=Message.KIND_INFORMATION)
    later.publish_time.FromDatetime(datetime.now(UTC) + timedelta(days=10))
    _, waits, *_ = await sent(service, unit, publish_time=later.publish_time)
    _, pending, *_ = await sent(service, unit)
    _, informs, *_ = await sent(service, unit, kind=Message.KIND_INFORMATION)
    await retention.once(database=service.database, outbox=service.outbox, now=datetime.now(UTC) + timedelta(days=2))
    service.act_as(service.city)
    shown = await service.messages.ListMessages(messages_pb2.ListMessagesRequest(parent=unit))
    assert {message.name for message in shown.messages} == {waits.name, pending.name}
    assert informs.name not in {message.name for message in shown.messages}
    await rounds(service, days=20)
    service.act_as(service.city)
    shown = await service.messages.ListMessages(messages_pb2.ListMessagesRequest(parent=unit))
    assert [message.name for message in shown.messages] == [waits.name]
    await rounds(service, days=25)
    assert not (await service.messages.ListMessages(messages_pb2.ListMessagesRequest(parent=unit))).messages


async def test_units_without_a_time_keep_what_they_have(service: Service):
    unit = await service.unit()
    _, message, party, name, *_ = await sent(service, unit)
    service.act_as(party)
    await service.inbox.DeleteInboxMessage(inbox_pb2.DeleteInboxMessageRequest(name=name))
    await rounds(service, days=4000)
    service.act_as(service.city)
    await service.messages.GetMessage(messages_pb2.GetMessageRequest(name=message.name))


def test_ids_of_a_time_begin_with_the_least():
    now = datetime.now(UTC)
    assert retention.first_id(now - timedelta(milliseconds=2)) < new_id() < retention.first_id(now + timedelta(days=1))
