"""A mailbox: seen by its owner alone, and everyone who saw it is on record."""

from __future__ import annotations

import pytest
from solmu.messages.v1 import inbox_pb2, mailboxes_pb2, messages_pb2

from services.runtime.errors import NotFound
from tests.integration.messages.conftest import Service
from tests.integration.messages.test_sending import request


async def delivered(service: Service):
    unit = await service.unit()
    identifier, mailbox = await service.resident()
    service.act_as(service.city)
    sent = await service.messages.SendMessage(request(unit, identifier))
    service.act_as(service.parties.name_of(identifier), client="portal")
    return sent, mailbox, f"{mailbox}/messages/{sent.name.split('/')[3]}"


async def test_lists_tell_of_a_message_without_its_content(service: Service):
    _, mailbox, name = await delivered(service)
    page = await service.inbox.ListInboxMessages(inbox_pb2.ListInboxMessagesRequest(parent=mailbox, unread_only=True))
    assert [(entry.name, entry.title) for entry in page.messages] == [(name, "Decision")]
    assert page.messages[0].unit_display_names[0].text == "Permits"
    assert not page.messages[0].bodies


async def test_opening_is_recorded_once_and_every_look_is_on_record(service: Service):
    sent, mailbox, name = await delivered(service)
    first = await service.inbox.OpenInboxMessage(inbox_pb2.OpenInboxMessageRequest(name=name))
    assert first.bodies[0].text == "Granted."
    assert first.delivery_state == messages_pb2.Delivery.STATE_OPENED
    again = await service.inbox.OpenInboxMessage(inbox_pb2.OpenInboxMessageRequest(name=name))
    assert again.open_time == first.open_time
    accesses = await service.mailboxes.ListAccesses(mailboxes_pb2.ListAccessesRequest(parent=mailbox))
    assert [(one.method, one.message, one.actor.client) for one in accesses.accesses][:-1] == [
        ("OpenInboxMessage", name, "clients/portal")
    ] * 2
    mailbox_now = await service.mailboxes.GetMailbox(mailboxes_pb2.GetMailboxRequest(name=mailbox))
    assert mailbox_now.unread_count == 0
    service.act_as(service.city)
    seen = await service.messages.GetMessage(messages_pb2.GetMessageRequest(name=sent.name))
    assert seen.deliveries[0].state == messages_pb2.Delivery.STATE_OPENED
    assert seen.deliveries[0].actor.client == "clients/portal"


async def test_nobody_else_sees_a_mailbox(service: Service):
    _, mailbox, name = await delivered(service)
    for stranger in (service.city, "persons/aaaaaaaaaaaaaaaaaaaaaaaaaa"):
        service.act_as(stranger)
        with pytest.raises(NotFound):
            await service.inbox.ListInboxMessages(inbox_pb2.ListInboxMessagesRequest(parent=mailbox))
        with pytest.raises(NotFound):
            await service.inbox.OpenInboxMessage(inbox_pb2.OpenInboxMessageRequest(name=name))
        with pytest.raises(NotFound):
            await service.mailboxes.GetMailbox(mailboxes_pb2.GetMailboxRequest(name=mailbox))


async def test_opening_a_mailbox_again_returns_it(service: Service):
    identifier, mailbox = await service.resident()
    service.act_as(service.parties.name_of(identifier))
    assert (await service.mailboxes.OpenMailbox(mailboxes_pb2.OpenMailboxRequest())).name == mailbox
