"""The bin of a mailbox: what is thrown away can be taken back, until it is gone."""

from __future__ import annotations

import io
import zipfile
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from solmu.messages.v1 import inbox_pb2, mailboxes_pb2, messages_pb2

from services.messages.servicers import names
from services.runtime.errors import NotFound
from services.runtime.identity import Right
from tests.integration.messages import test_exporting
from tests.integration.messages.conftest import Service
from tests.integration.messages.test_acting import DAUGHTER, Mail
from tests.integration.messages.test_attachments import download

Message = messages_pb2.Message


@pytest.fixture
async def mail(service: Service) -> Mail:
    return await Mail(service).begin()


async def titles(mail: Mail, *, deleted: bool) -> list[str]:
    listing = inbox_pb2.ListInboxMessagesRequest(parent=mail.mailbox, deleted=deleted)
    return [one.title for one in (await mail.service.inbox.ListInboxMessages(listing)).messages]


async def delete(mail: Mail, sent: Message) -> inbox_pb2.InboxMessage:
    return await mail.service.inbox.DeleteInboxMessage(inbox_pb2.DeleteInboxMessageRequest(name=mail.received(sent)))


async def undelete(mail: Mail, sent: Message) -> inbox_pb2.InboxMessage:
    request = inbox_pb2.UndeleteInboxMessageRequest(name=mail.received(sent))
    return await mail.service.inbox.UndeleteInboxMessage(request)


async def unread(mail: Mail) -> int:
    return (await mail.service.mailboxes.GetMailbox(mailboxes_pb2.GetMailboxRequest(name=mail.mailbox))).unread_count


def days_pass(monkeypatch: pytest.MonkeyPatch, days: float) -> None:
    monkeypatch.setattr(names, "now", lambda: datetime.now(UTC) + timedelta(days=days))


async def test_a_message_goes_into_the_bin_and_out_of_it(service: Service, mail: Mail):
    sent, _ = await mail.send("Thrown"), await mail.send("Kept")
    service.act_as(mail.mother)
    binned = await delete(mail, sent)
    assert binned.purge_time.ToDatetime(UTC) - datetime.now(UTC) > timedelta(days=59)
    assert not binned.bodies
    assert (await titles(mail, deleted=False), await titles(mail, deleted=True)) == (["Kept"], ["Thrown"])
    assert await unread(mail) == 1
    assert (await delete(mail, sent)).purge_time == binned.purge_time, "throwing it away again gives it no more time"
    for _ in range(2):
        assert not (await undelete(mail, sent)).HasField("purge_time")
    assert (await titles(mail, deleted=False), await titles(mail, deleted=True)) == (["Kept", "Thrown"], [])


async def test_throwing_away_is_no_look_at_a_message(service: Service, mail: Mail):
    sent = await mail.send("Unopened", kind=Message.KIND_VERIFIABLE)
    service.act_as(mail.mother)
    assert not (await delete(mail, sent)).HasField("open_time")
    accesses = await service.mailboxes.ListAccesses(mailboxes_pb2.ListAccessesRequest(parent=mail.mailbox))
    assert [(one.method, one.message) for one in accesses.accesses if one.message] == [
        ("DeleteInboxMessage", mail.received(sent))
    ]
    service.act_as(service.city)
    seen = await service.messages.GetMessage(messages_pb2.GetMessageRequest(name=sent.name))
    assert seen.deliveries[0].state == messages_pb2.Delivery.STATE_AVAILABLE
    assert seen.legal_effect.state == messages_pb2.LegalEffect.STATE_PENDING
    service.act_as(mail.mother)
    confirmed = await service.inbox.ConfirmReceipt(inbox_pb2.ConfirmReceiptRequest(name=mail.received(sent)))
    assert confirmed.bodies, "what is in the bin can still be read"


async def test_what_was_in_the_bin_for_sixty_days_is_gone_from_the_mailbox(
    service: Service, mail: Mail, monkeypatch: pytest.MonkeyPatch
):
    sent = await mail.send("Thrown")
    service.act_as(mail.mother)
    await delete(mail, sent)
    days_pass(monkeypatch, 59.9)
    assert await titles(mail, deleted=True) == ["Thrown"]
    days_pass(monkeypatch, 60.1)
    assert (await titles(mail, deleted=False), await titles(mail, deleted=True)) == ([], [])
    assert await unread(mail) == 0
    for attempt in (
        undelete(mail, sent),
        delete(mail, sent),
        mail.open(sent),
        service.inbox.WriteToUnit(mail.reply(sent)),
    ):
        with pytest.raises(NotFound):
            await attempt
    service.act_as(service.city)
    assert (await service.messages.GetMessage(messages_pb2.GetMessageRequest(name=sent.name))).title == "Thrown"


async def test_who_acts_for_the_owner_throws_away_what_it_may_see(service: Service, mail: Mail):
    sent = await mail.send("Open")
    secret = await mail.send("Secret", visibility=Message.VISIBILITY_RECIPIENT_ONLY)
    service.act_for(mail.mother, actor=DAUGHTER, right=Right(mandates=("mandates/1",)))
    await delete(mail, sent)
    with pytest.raises(NotFound):
        await delete(mail, secret)
    service.act_as(mail.mother)
    accesses = await service.mailboxes.ListAccesses(mailboxes_pb2.ListAccessesRequest(parent=mail.mailbox))
    (act,) = [one for one in accesses.accesses if one.method == "DeleteInboxMessage"]
    assert (act.actor.acting_party, act.actor.mandate) == (DAUGHTER, "mandates/1")


async def test_erasing_a_mailbox_erases_its_bin(service: Service, mail: Mail):
    sent = await mail.send("Thrown")
    service.act_as(mail.mother)
    await delete(mail, sent)
    service.act_as(service.city)
    await service.mailboxes.EraseMailbox(
        mailboxes_pb2.EraseMailboxRequest(name=mail.mailbox, justification="asked for")
    )
    assert not (await service.messages.GetMessage(messages_pb2.GetMessageRequest(name=sent.name))).title
    service.act_as(mail.mother)
    with pytest.raises(NotFound):
        await undelete(mail, sent)


async def test_an_archive_holds_the_bin_and_not_what_is_gone(service: Service, mail: Mail):
    gone, binned = await mail.send("Gone"), await mail.send("In the bin")
    service.act_as(mail.mother)
    for sent in (gone, binned):
        await delete(mail, sent)
    await service.database.execute(
        "update message set purge_time = now() - interval '1 second' where message_id = $1",
        UUID(gone.name.split("/")[3]),
    )
    asked = await test_exporting.ask(service, mail.mailbox)
    await test_exporting.make_all(service)
    ready = await test_exporting.shown(service, asked.name)
    archive = zipfile.ZipFile(io.BytesIO(await download(service, ready.attachment)))
    messages = [name for name in archive.namelist() if name.startswith("messages/")]
    assert messages == [f"messages/{binned.name.split('/')[3]}.json"]
