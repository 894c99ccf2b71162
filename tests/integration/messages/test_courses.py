"""Verifiable messages, legal effect, publish and due times, withdrawal: what is stored, shown and told."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from solmu.messages.v1 import attachments_pb2, inbox_pb2, messages_pb2
from solmu.types.v1.types_pb2 import LocalizedText

from services.messages import clock
from services.runtime.errors import FailedPrecondition, Fault, InvalidArgument, NotFound
from tests.integration.messages.conftest import Service, person
from tests.integration.messages.test_feed import events_of
from tests.integration.messages.test_sending import request

Message = messages_pb2.Message
Delivery = messages_pb2.Delivery
LegalEffect = messages_pb2.LegalEffect
DAY = timedelta(days=1)


def now() -> datetime:
    return datetime.now(UTC)


async def send(service: Service, **fields):
    """A new unit's message to a new resident: message, mailbox, the resident's party and name for it."""
    unit = await service.unit()
    identifier, mailbox = await service.resident()
    asked = request(unit, identifier)
    for field, value in fields.items():
        if isinstance(value, datetime):
            getattr(asked.message, field).FromDatetime(value)
        else:
            setattr(asked.message, field, value)
    service.act_as(service.city)
    message = await service.messages.SendMessage(asked)
    name = f"{mailbox}/messages/{message.name.split('/')[3]}"
    return message, mailbox, service.parties.name_of(identifier), name


async def read(service: Service, message: Message) -> Message:
    service.act_as(service.city)
    return await service.messages.GetMessage(messages_pb2.GetMessageRequest(name=message.name))


async def types_of(service: Service, message: Message, count: int) -> list[str]:
    service.act_as(service.city)
    events = await events_of(service, "/".join(message.name.split("/")[:2]), count)
    return [event.type for event in events]


async def listed(service: Service, mailbox: str, **filters):
    return (
        await service.inbox.ListInboxMessages(inbox_pb2.ListInboxMessagesRequest(parent=mailbox, **filters))
    ).messages


async def open_(service: Service, name: str):
    return await service.inbox.OpenInboxMessage(inbox_pb2.OpenInboxMessageRequest(name=name))


async def confirm(service: Service, name: str):
    return await service.inbox.ConfirmReceipt(inbox_pb2.ConfirmReceiptRequest(name=name))


async def withdraw(service: Service, message: Message, **fields) -> Message:
    service.act_as(service.city)
    return await service.messages.WithdrawMessage(messages_pb2.WithdrawMessageRequest(name=message.name, **fields))


async def test_a_verifiable_message_is_locked_until_its_receipt_is_confirmed(service: Service):
    _, mailbox, party, name = await send(service, kind=Message.KIND_VERIFIABLE)
    service.act_as(party)
    (entry,) = await listed(service, mailbox)
    assert (entry.locked, entry.title) == (True, "Decision")
    attachment = f"{name}/attachments/00000000-0000-7000-8000-000000000000"
    with pytest.raises(FailedPrecondition) as refused:
        await open_(service, name)
    assert refused.value.reason == "RECEIPT_NOT_CONFIRMED"
    downloading = service.attachments.DownloadAttachment(attachments_pb2.DownloadAttachmentRequest(name=attachment))
    with pytest.raises(FailedPrecondition) as refused:
        await anext(aiter(downloading))
    assert refused.value.reason == "RECEIPT_NOT_CONFIRMED"
    confirmed = await confirm(service, name)
    assert (confirmed.locked, confirmed.bodies[0].text) == (False, "Granted.")
    assert confirmed.delivery_state == Delivery.STATE_RECEIPT_CONFIRMED
    assert await open_(service, name) == confirmed
    assert await confirm(service, name) == confirmed


async def test_a_receipt_serves_a_verifiable_message_and_its_sender_is_told_by_whom(service: Service):
    message, _, party, name = await send(service, kind=Message.KIND_VERIFIABLE)
    assert message.legal_effect == LegalEffect(state=LegalEffect.STATE_PENDING, legal_profile="fi-2010")
    service.act_as(party, client="portal")
    await confirm(service, name)
    served = await read(service, message)
    assert served.legal_effect.state == LegalEffect.STATE_EFFECTIVE
    assert served.legal_effect.basis == LegalEffect.BASIS_RECEIPT
    assert (served.deliveries[0].actor.party, served.deliveries[0].actor.client) == (party, "clients/portal")
    expected = ["message.accepted", "delivery.available", "delivery.receipt_confirmed", "legal.effective"]
    assert await types_of(service, message, 4) == expected


async def test_what_asks_for_no_receipt_gets_none(service: Service):
    _, _, party, name = await send(service)
    service.act_as(party)
    with pytest.raises(FailedPrecondition) as refused:
        await confirm(service, name)
    assert refused.value.reason == "MESSAGE_STATE"


async def test_a_verifiable_message_without_a_receipt_lapses(service: Service):
    message, _, party, name = await send(service, kind=Message.KIND_VERIFIABLE)
    await service.pass_time(now() + 9 * DAY)
    assert (await read(service, message)).legal_effect.state == LegalEffect.STATE_LAPSED
    assert await types_of(service, message, 3) == ["message.accepted", "delivery.available", "legal.lapsed"]
    service.act_as(party)
    assert (await confirm(service, name)).legal_effect.state == LegalEffect.STATE_EFFECTIVE


async def test_an_ordinary_message_is_served_on_the_third_day_and_both_ends_see_when(service: Service):
    message, mailbox, party, _ = await send(service)
    assert message.legal_effect.state == LegalEffect.STATE_PENDING
    third_day = message.legal_effect.effective_time
    await service.pass_time(now() + 4 * DAY)
    served = await read(service, message)
    assert served.legal_effect.state == LegalEffect.STATE_EFFECTIVE
    assert (served.legal_effect.effective_time, served.legal_effect.basis) == (third_day, LegalEffect.BASIS_THIRD_DAY)
    (effective,) = [
        event
        for event in await events_of(service, "/".join(message.name.split("/")[:2]), 3)
        if event.type == "legal.effective"
    ]
    assert effective.legal_effect == served.legal_effect
    service.act_as(party)
    (entry,) = await listed(service, mailbox)
    assert entry.legal_effect == served.legal_effect


async def test_several_clocks_move_a_message_once(service: Service):
    message, *_ = await send(service)
    later = now() + 4 * DAY
    await asyncio.gather(*(clock.once(database=service.database, outbox=service.outbox, now=later) for _ in range(6)))
    await service.pass_time(later)
    await withdraw(service, message)
    expected = ["message.accepted", "delivery.available", "legal.effective", "message.withdrawn"]
    assert await types_of(service, message, 4) == expected


async def test_before_its_publish_time_a_message_is_not_in_the_mailbox(service: Service):
    message, mailbox, party, name = await send(service, publish_time=now() + DAY)
    assert message.state == Message.STATE_SCHEDULED
    assert not message.HasField("release_time")
    service.act_as(party)
    assert list(await listed(service, mailbox)) == []
    with pytest.raises(NotFound):
        await open_(service, name)
    await service.pass_time(now() + 2 * DAY)
    assert (await read(service, message)).state == Message.STATE_RELEASED
    service.act_as(party)
    (entry,) = await listed(service, mailbox, unread_only=True)
    assert entry.name == name
    assert await types_of(service, message, 3) == ["message.accepted", "message.released", "delivery.available"]


async def test_a_mailbox_that_closes_meanwhile_is_found_out_at_the_release(service: Service):
    message, mailbox, _, _ = await send(service, publish_time=now() + DAY)
    await service.database.execute("update mailbox set state = 3 where mailbox_id = $1", mailbox.split("/")[1])
    await service.pass_time(now() + 2 * DAY)
    released = await read(service, message)
    assert released.deliveries[0].state == Delivery.STATE_UNREACHABLE
    expected = ["message.accepted", "message.released", "delivery.unreachable", "legal.lapsed"]
    assert await types_of(service, message, 4) == expected


async def test_a_message_released_last_comes_first_however_long_it_waited(service: Service):
    message, mailbox, party, name = await send(service, publish_time=now() + DAY)
    at_once = request("/".join(message.name.split("/")[:2]), person(), key="at-once")
    at_once.message.recipient.mailbox = mailbox
    service.act_as(service.city)
    await service.messages.SendMessage(at_once)
    await service.pass_time(now() + 2 * DAY)
    service.act_as(party)
    first = await service.inbox.ListInboxMessages(inbox_pb2.ListInboxMessagesRequest(parent=mailbox, page_size=1))
    assert [entry.name for entry in first.messages] == [name]
    rest = await listed(service, mailbox, page_size=1, page_token=first.next_page_token)
    assert len(rest) == 1
    assert rest[0].name != name


@pytest.mark.parametrize(("kind", "told"), [("ORDINARY", "due.never_read"), ("VERIFIABLE", "due.never_confirmed")])
async def test_a_due_time_that_passes_unread_is_told_once(service: Service, kind: str, told: str):
    message, *_ = await send(service, kind=Message.Kind.Value(f"KIND_{kind}"), due_time=now() + DAY)
    await service.pass_time(now() + DAY + timedelta(hours=1))
    await service.pass_time(now() + DAY + timedelta(hours=2))
    assert await types_of(service, message, 3) == ["message.accepted", "delivery.available", told]
    await withdraw(service, message)
    assert (await types_of(service, message, 4))[3] == "message.withdrawn"


async def test_a_due_time_that_passes_after_the_reading_is_not_told(service: Service):
    message, _, party, name = await send(service, due_time=now() + DAY)
    service.act_as(party)
    await open_(service, name)
    await service.pass_time(now() + DAY + timedelta(hours=1))
    await withdraw(service, message)
    expected = ["message.accepted", "delivery.available", "delivery.opened", "message.withdrawn"]
    assert await types_of(service, message, 4) == expected


async def test_times_that_contradict_each_other_keep_nothing(service: Service, tables):
    await service.unit()
    before = await tables()
    with pytest.raises(InvalidArgument) as refused:
        await send(service, publish_time=now() + 2 * DAY, due_time=now() + DAY)
    assert refused.value.reason == "TIME_INVALID"
    assert (await tables())["message"] == before["message"]


async def test_withdrawn_before_its_release_nothing_of_a_message_is_to_be_seen(service: Service):
    message, mailbox, party, name = await send(service, publish_time=now() + DAY)
    withdrawn = await withdraw(service, message)
    assert withdrawn.state == Message.STATE_WITHDRAWN
    await service.pass_time(now() + 2 * DAY)
    service.act_as(party)
    assert list(await listed(service, mailbox)) == []
    with pytest.raises(NotFound):
        await open_(service, name)


async def test_withdrawn_unopened_a_message_shows_that_it_was_and_why_and_no_more(service: Service):
    message, mailbox, party, name = await send(service)
    why = [LocalizedText(language="en", text="It was meant for somebody else.")]
    await withdraw(service, message, explanations=why)
    service.act_as(party)
    (entry,) = await listed(service, mailbox)
    assert entry.HasField("withdraw_time")
    assert list(entry.withdraw_explanations) == why
    assert entry.title == ""
    assert list(await listed(service, mailbox, unread_only=True)) == []
    with pytest.raises(FailedPrecondition) as refused:
        await open_(service, name)
    assert refused.value.reason == "MESSAGE_WITHDRAWN"


async def test_withdrawing_again_changes_nothing(service: Service):
    message, *_ = await send(service)
    first = await withdraw(service, message)
    assert await withdraw(service, message, explanations=[LocalizedText(language="en", text="Other")]) == first


async def test_only_its_unit_withdraws_a_message(service: Service):
    message, *_ = await send(service)
    service.act_as("organisations/aaaaaaaaaaaaaaaaaaaaaaaaaa")
    with pytest.raises(NotFound):
        await service.messages.WithdrawMessage(messages_pb2.WithdrawMessageRequest(name=message.name))


async def test_opening_and_withdrawing_at_once_end_in_one_of_the_two(service: Service):
    message, _, party, name = await send(service)
    withdrawing = asyncio.create_task(withdraw(service, message))

    async def opening():
        service.act_as(party)
        try:
            return await open_(service, name)
        except Fault as fault:
            return fault

    opened, withdrawn = await asyncio.create_task(opening()), await withdrawing
    if isinstance(opened, Fault):
        assert opened.reason == "MESSAGE_WITHDRAWN"
        assert withdrawn.deliveries[0].state == Delivery.STATE_WITHDRAWN
    else:
        assert withdrawn.deliveries[0].state == Delivery.STATE_OPENED
