"""Residents are told that something has come, as they and the sender have it, and nothing rests on it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from solmu.messages.v1 import contacts_pb2, inbox_pb2, mailboxes_pb2, messages_pb2
from solmu.types.v1.types_pb2 import LocalizedText

from services.messages.notifications import rules, sending, store
from services.messages.notifications.mail import Mail, Security, Server
from services.messages.notifications.rules import Channel
from services.messages.notifications.sending import Manner, Sending
from services.messages.notifications.sms import Sms
from services.messages.servicers import names
from services.messages.servicers.contacts import Contacts
from services.runtime.config import Address
from services.runtime.errors import FailedPrecondition, Fault, InvalidArgument, NotFound, ResourceExhausted
from tests.integration.messages.conftest import Service
from tests.integration.messages.test_acting import Mail as MotherMail
from tests.integration.messages.test_feed import events_of
from tests.mailroom import Mailroom, Provider, mailroom, provider

Contact = contacts_pb2.Contact
Policy = messages_pb2.NotificationPolicy
HELSINKI = ZoneInfo("Europe/Helsinki")
NOON = datetime.combine(datetime.now(HELSINKI).date() + timedelta(days=1), datetime.min.time(), HELSINKI).astimezone(
    UTC
) + timedelta(hours=12)
"""Noon of tomorrow in Helsinki: all that is due now is due then, and nobody is asleep."""


class Town:
    """A resident, a unit that writes to her, and the ways to tell her."""

    def __init__(self, service: Service, room: Mailroom, sms: Provider) -> None:
        self.service = service
        self.room = room
        self.sms = sms
        server = Server(address=Address("127.0.0.1", room.port), security=Security.NONE)
        self.sending = Sending(
            database=service.database,
            outbox=service.outbox,
            vault=service.vault,
            ports={
                Channel.EMAIL: Mail(server, sender="City <no-reply@city.example>"),
                Channel.SMS: Sms(sms.uri, token=""),
            },
            manner=Manner(language="en", portal="https://mail.city.example", zone=HELSINKI),
        )

    async def begin(self) -> Town:
        self.mail = await MotherMail(self.service).begin()
        self.address = f"{self.mail.mailbox.split('/')[1]}@example.org"
        self.phone = f"+3584{UUID(self.mail.mailbox.split('/')[1]).int % 10**9:09}"
        return self

    def named(self, channel: str) -> str:
        return f"{self.mail.mailbox}/contacts/{channel}"

    async def set(self, channel: str = "email", **fields: Any) -> Contact:
        self.service.act_as(self.mail.mother)
        address = {"email": self.address} if channel == "email" else {"phone_number": self.phone}
        contact = Contact(name=self.named(channel), **(address | fields))
        return await self.service.contacts.SetContact(contacts_pb2.SetContactRequest(contact=contact))

    async def confirm(self, code: str, channel: str = "email") -> Contact:
        self.service.act_as(self.mail.mother)
        request = contacts_pb2.ConfirmContactRequest(name=self.named(channel), code=code)
        return await self.service.contacts.ConfirmContact(request)

    async def reachable(self, channel: str = "email", **fields: Any) -> None:
        """Sets contact details and confirms them."""
        await self.set(channel, **fields)
        await self.pass_time()
        await self.confirm(self.code(channel), channel)

    def code(self, channel: str = "email") -> str:
        text = self.mails[-1].get_content() if channel == "email" else self.texts[-1]
        (code,) = re.findall(r"\b\d{6}\b", text)
        return str(code)

    @property
    def mails(self) -> list[Any]:
        return list(self.room.to(self.address))

    @property
    def texts(self) -> list[str]:
        return [one["text"] for one in self.sms.taken if one["to"] == self.phone]

    async def pass_time(self, now: datetime = NOON) -> None:
        """Has everything sent that is due by a moment."""
        await self.planned()
        while await self.sending.once(now=now):
            pass

    async def planned(self) -> None:
        """Until the events so far have had their effect."""
        async with asyncio.timeout(20):
            while await self.service.database.fetchval("select count(*) from outbox where publish_time is null"):
                await asyncio.sleep(0.02)

    async def send(self, title: str = "Secret title", **fields: Any) -> messages_pb2.Message:
        return await self.mail.send(title, **fields)

    async def waiting(self) -> int:
        count: int = await self.service.database.fetchval(
            "select count(*) from notification where mailbox_id = $1", UUID(self.mail.mailbox.split("/")[1])
        )
        return count

    async def told(self, count: int) -> list[str]:
        """The first events of the unit's feed."""
        self.service.act_as(self.service.city)
        return [event.type for event in await events_of(self.service, self.mail.unit, count)]


@pytest.fixture
async def room() -> AsyncIterator[Mailroom]:
    async with mailroom() as opened:
        yield opened


@pytest.fixture
async def town(service: Service, room: Mailroom) -> AsyncIterator[Town]:
    await service.database.execute("delete from notification")  # what other tests left
    async with provider() as sms:
        yield await Town(service, room, sms).begin()


async def refused(attempt: Any) -> str:
    with pytest.raises(Fault) as fault:
        await attempt
    return fault.value.reason


async def test_contact_details_count_once_they_are_confirmed(town: Town):
    asked = await town.set(language="fi")
    assert asked.email == town.address
    assert not asked.HasField("confirm_time")
    await town.send()
    await town.pass_time()
    (mail,) = town.mails
    assert mail["Subject"] == "Vahvista yhteystietosi"
    wrong = f"{(int(town.code()) + 1) % 10**6:06}"
    assert await refused(town.confirm(wrong)) == "CONTACT_CODE_REFUSED"
    assert (await town.confirm(town.code())).HasField("confirm_time")
    assert await refused(town.confirm(town.code())) == "CONTACT_CODE_REFUSED", "a code is good once"
    listed = await town.service.contacts.ListContacts(contacts_pb2.ListContactsRequest(parent=town.mail.mailbox))
    assert [(one.name, one.email, one.language) for one in listed.contacts] == [
        (town.named("email"), town.address, "fi")
    ]


async def test_the_same_address_stays_confirmed_and_another_does_not(town: Town):
    await town.reachable()
    assert (await town.set(language="sv")).HasField("confirm_time")
    await town.pass_time()
    assert len(town.mails) == 1, "no code was needed"
    other = await town.set(email=f"other-{town.address}")
    assert not other.HasField("confirm_time")
    await town.send()
    await town.pass_time()
    assert len(town.mails) == 1, "the old address is told nothing more"
    (code,) = town.room.to(f"other-{town.address}")
    assert code["Subject"] == "Confirm your contact details"


async def test_codes_end_after_wrong_ones_and_after_their_time(town: Town, monkeypatch: pytest.MonkeyPatch):
    await town.set()
    await town.pass_time()
    right = town.code()
    wrong = f"{(int(right) + 1) % 10**6:06}"
    for _ in range(rules.CODE_TRIES):
        assert await refused(town.confirm(wrong)) == "CONTACT_CODE_REFUSED"
    assert await refused(town.confirm(right)) == "CONTACT_CODE_REFUSED"
    await town.set()
    await town.pass_time()
    late = datetime.now(UTC) + rules.CODE_LIFE + timedelta(seconds=1)
    monkeypatch.setattr(names, "now", lambda: late)
    assert await refused(town.confirm(town.code())) == "CONTACT_CODE_REFUSED"
    monkeypatch.undo()
    assert (await town.confirm(town.code())).HasField("confirm_time")


async def test_nobody_is_sent_codes_without_end(town: Town):
    for _ in range(rules.CODES_A_DAY):
        await town.set()
    with pytest.raises(ResourceExhausted) as limited:
        await town.set()
    assert limited.value.reason == "CONTACT_LIMIT"
    await town.pass_time()
    assert len(town.mails) == 1, "only the last code goes out, if they follow each other fast"
    assert (await town.confirm(town.code())).HasField("confirm_time")


async def test_contact_details_are_the_owners_alone_and_on_record(town: Town):
    await town.reachable()
    town.service.act_as(town.service.city)
    name = town.named("email")
    contact = Contact(name=name, email="thief@example.org")
    contacts = town.service.contacts
    for attempt in (
        contacts.ListContacts(contacts_pb2.ListContactsRequest(parent=town.mail.mailbox)),
        contacts.SetContact(contacts_pb2.SetContactRequest(contact=contact)),
        contacts.ConfirmContact(contacts_pb2.ConfirmContactRequest(name=name, code="000000")),
        contacts.DeleteContact(contacts_pb2.DeleteContactRequest(name=name)),
    ):
        with pytest.raises(NotFound):
            await attempt
    town.service.act_as(town.mail.mother)
    await contacts.DeleteContact(contacts_pb2.DeleteContactRequest(name=name))
    assert await refused(contacts.DeleteContact(contacts_pb2.DeleteContactRequest(name=name))) == "RESOURCE_NOT_FOUND"
    request = mailboxes_pb2.ListAccessesRequest(parent=town.mail.mailbox)
    accesses = (await town.service.mailboxes.ListAccesses(request)).accesses
    assert [one.method for one in accesses] == ["DeleteContact", "ConfirmContact", "SetContact", "OpenMailbox"]
    await town.send()
    await town.pass_time()
    assert len(town.mails) == 1, "the code, and nothing after the details were deleted"


async def test_addresses_of_another_channel_or_of_no_mail_are_refused(town: Town):
    for fields in ({"phone_number": "+358401234567"}, {"email": "a..b@example.org"}):
        contact = Contact(name=town.named("email"), **fields)  # type: ignore[arg-type]
        town.service.act_as(town.mail.mother)
        with pytest.raises(InvalidArgument) as fault:
            await town.service.contacts.SetContact(contacts_pb2.SetContactRequest(contact=contact))
        assert fault.value.violations[0][0] == "contact.email"


async def test_a_channel_that_the_node_does_not_have_is_refused(town: Town):
    town.service.act_as(town.mail.mother)
    mute = Contacts(database=town.service.database, vault=town.service.vault, channels=set())
    contact = Contact(name=town.named("email"), email=town.address)
    with pytest.raises(FailedPrecondition) as fault:
        await mute.SetContact(contacts_pb2.SetContactRequest(contact=contact))
    assert fault.value.reason == "CHANNEL_NOT_AVAILABLE"


async def test_addresses_are_sealed_and_go_with_the_mailbox(town: Town):
    await town.reachable()
    await town.set("sms")
    await town.send()
    await town.planned()
    tables = ("contact", "notification", "outbox", "feed_event", "message")
    rows = [found for table in tables for found in await town.service.database.fetch(f"select * from {table}")]
    kept = " ".join(value.hex() if isinstance(value, bytes) else str(value) for row in rows for value in row.values())
    for secret in (town.address, town.phone, "Secret title"):
        assert secret not in kept
        assert secret.encode().hex() not in kept
    town.service.act_as(town.service.city)
    erasing = mailboxes_pb2.EraseMailboxRequest(name=town.mail.mailbox, justification="asked for")
    await town.service.mailboxes.EraseMailbox(erasing)
    assert await town.waiting() == 0
    assert not await town.service.database.fetch(
        "select from contact where mailbox_id = $1", UUID(town.mail.mailbox.split("/")[1])
    )


async def test_nobody_is_notified_of_anything_in_a_mailbox_that_was_discontinued(town: Town):
    await town.reachable()
    await town.send()
    await town.planned()
    assert await town.waiting()
    asked = mailboxes_pb2.DiscontinueMailboxRequest(
        owner=town.mail.identifier, reason=mailboxes_pb2.Mailbox.Closing.REASON_DEATH, reference="certificate of death"
    )
    town.service.act_as(town.service.city)
    await town.service.mailboxes.DiscontinueMailbox(asked)
    await town.pass_time(NOON + timedelta(days=30))
    assert len(town.mails) == 1, "the code alone"
    assert await town.waiting() == 0


async def test_a_message_is_told_of_without_its_title_or_content(town: Town):
    await town.reachable()
    sent = await town.send()
    await town.pass_time()
    mail = town.mails[-1]
    assert mail["Subject"] == "You have a new message: Permits"
    whole = mail.as_string()
    assert "https://mail.city.example" in mail.get_content()
    assert "Secret title" not in whole
    assert "Granted" not in whole
    assert await town.told(3) == ["message.accepted", "delivery.available", "notification.sent"]
    assert (await town.service.messages.GetMessage(messages_pb2.GetMessageRequest(name=sent.name))).state
    await town.pass_time()
    assert len(town.mails) == 2, "the code and the message, each once"


async def test_the_sender_says_what_is_said_of_it(town: Town):
    await town.reachable(language="fi")
    hidden = Policy(sender=Policy.SENDER_HIDDEN)
    await town.send("One", notification=hidden)
    own = Policy(texts=[LocalizedText(language="fi", text="Kirje kaupungilta.")])
    await town.send("Two", notification=own)
    await town.send("Three", notification=Policy(none=True))
    await town.pass_time()
    texts = sorted(mail.get_content().splitlines()[0] for mail in town.mails[1:])
    assert texts == ["Kirje kaupungilta.", "Sinulle on saapunut uusi viesti."]
    assert not any("Permits" in mail.as_string() for mail in town.mails if "saapunut" in mail.get_content())
    sent = await town.send("Four", notification=own)
    assert sent.notification == own, "the sender reads what it asked for"


async def test_a_text_that_tells_the_title_is_refused(town: Town):
    text = LocalizedText(language="fi", text="Uusi kirje: SECRET TITLE.")
    with pytest.raises(InvalidArgument) as fault:
        await town.send("Secret title", notification=Policy(texts=[text]))
    assert fault.value.violations == (("message.notification.texts[0].text", "holds the title of the message"),)
    twice = [LocalizedText(language="fi", text="Kirje"), LocalizedText(language="fi", text="Posti")]
    with pytest.raises(InvalidArgument):
        await town.send("Secret title", notification=Policy(texts=twice))


async def test_who_has_not_opened_a_message_is_reminded_once(town: Town):
    await town.reachable()
    await town.send()
    await town.pass_time()
    await town.pass_time(NOON + timedelta(days=5))
    assert len(town.mails) == 2
    for _ in range(2):
        await town.pass_time(NOON + timedelta(days=7))
    assert [mail["Subject"] for mail in town.mails[2:]] == ["Reminder: unread message, Permits"]
    assert (await town.told(4))[2:] == ["notification.sent", "notification.reminder_sent"]
    assert await town.waiting() == 0


async def test_a_verifiable_message_is_brought_to_mind_after_three_days(town: Town):
    await town.reachable()
    await town.send(kind=messages_pb2.Message.KIND_VERIFIABLE)
    await town.pass_time()
    await town.pass_time(NOON + timedelta(days=3))
    assert [mail["Subject"] for mail in town.mails[1:]] == [
        "You have a new message: Permits",
        "Reminder: unread message, Permits",
    ]


async def test_what_is_no_news_is_not_sent(town: Town):
    await town.reachable()
    opened, binned, withdrawn = [await town.send(title) for title in ("Opened", "Binned", "Withdrawn")]
    await town.send("No reminder", notification=Policy(no_reminder=True))
    town.service.act_as(town.mail.mother)
    await town.mail.open(opened)
    deleting = inbox_pb2.DeleteInboxMessageRequest(name=town.mail.received(binned))
    await town.service.inbox.DeleteInboxMessage(deleting)
    town.service.act_as(town.service.city)
    await town.service.messages.WithdrawMessage(messages_pb2.WithdrawMessageRequest(name=withdrawn.name))
    await town.pass_time()
    assert len(town.mails) == 2, "the code, and the one that is news"
    await town.pass_time(NOON + timedelta(days=8))
    assert len(town.mails) == 2, "no reminder"
    assert await town.waiting() == 0


async def test_a_message_with_a_publish_time_is_told_of_when_it_is_there(town: Town):
    await town.reachable()
    later = datetime.now(UTC) + timedelta(days=1)
    scheduled = messages_pb2.Message()
    scheduled.publish_time.FromDatetime(later)
    await town.send(publish_time=scheduled.publish_time)
    await town.pass_time()
    assert len(town.mails) == 1
    await town.service.pass_time(later + timedelta(seconds=1))
    await town.pass_time(later + timedelta(days=2))
    assert len(town.mails) == 2


async def test_an_sms_waits_until_morning_and_a_code_does_not(town: Town):
    night = NOON + timedelta(hours=11)
    await town.set("sms")
    await town.pass_time(night)
    await town.confirm(town.code("sms"), "sms")
    await town.send()
    await town.pass_time(night)
    assert len(town.texts) == 1, "the code"
    await town.pass_time(night + timedelta(hours=9, minutes=59))
    assert len(town.texts) == 1
    await town.pass_time(night + timedelta(hours=10))
    assert town.texts[1].startswith("You have a new message from Permits.")


async def test_quiet_hours_of_ones_own_hold_for_mail_too(town: Town):
    quiet = Contact.QuietHours(start_time="11:00", end_time="13:30")
    await town.reachable(quiet_hours=quiet)
    listed = await town.service.contacts.ListContacts(contacts_pb2.ListContactsRequest(parent=town.mail.mailbox))
    assert listed.contacts[0].quiet_hours == quiet
    await town.send()
    await town.pass_time(NOON)
    assert len(town.mails) == 1
    await town.pass_time(NOON + timedelta(minutes=90))
    assert len(town.mails) == 2


async def test_a_mail_server_that_is_away_is_tried_again_and_holds_up_nothing(town: Town):
    await town.reachable()
    town.room.answers = ["451 try later"] * 2
    sent = await town.send()
    assert sent.state == messages_pb2.Message.STATE_RELEASED
    await town.pass_time(NOON)
    assert len(town.mails) == 1
    await town.pass_time(NOON + timedelta(minutes=1))
    assert len(town.mails) == 1
    await town.pass_time(NOON + timedelta(minutes=5))
    assert len(town.mails) == 1, "the second pause is longer"
    await town.pass_time(NOON + timedelta(minutes=6))
    assert len(town.mails) == 2
    assert await town.told(3) == ["message.accepted", "delivery.available", "notification.sent"]


async def test_what_cannot_be_sent_is_given_up_and_told_and_changes_nothing_else(town: Town):
    await town.reachable()
    town.room.answers = ["451 try later"] * (len(rules.RETRIES) + 1)
    sent = await town.send(notification=Policy(no_reminder=True))
    now = NOON
    for pause in (*rules.RETRIES, timedelta()):
        await town.pass_time(now)
        now += pause
    assert await town.told(3) == ["message.accepted", "delivery.available", "notification.failed"]
    seen = await town.service.messages.GetMessage(messages_pb2.GetMessageRequest(name=sent.name))
    assert seen.deliveries == sent.deliveries
    assert seen.legal_effect == sent.legal_effect
    assert len(town.mails) == 1


async def test_an_address_that_is_refused_is_not_tried_again(town: Town, caplog: pytest.LogCaptureFixture):
    await town.reachable()
    await town.reachable("sms")
    town.room.answers, town.sms.answers = [f"550 {town.address} is unknown"], [422]
    with caplog.at_level("DEBUG"):
        await town.send()
        await town.pass_time(NOON)
    assert (await town.told(4))[2:] == ["notification.failed"] * 2
    assert not town.room.answers
    logged = " ".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records if record.name != "mail.log")
    for secret in (town.address, town.phone, "Secret title"):
        assert secret not in logged


async def test_a_process_that_dies_over_a_batch_leaves_it_to_others(town: Town, monkeypatch: pytest.MonkeyPatch):
    await town.reachable()
    await town.send()
    await town.planned()

    async def die(_: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as dying:
        dying.setattr(town.sending._ports[Channel.EMAIL], "send", die)
        with pytest.raises(asyncio.CancelledError):
            await town.sending.once(now=NOON)
    await town.pass_time(NOON)
    assert len(town.mails) == 1, "it is claimed still"
    await town.pass_time(NOON + sending.CLAIM)
    assert len(town.mails) == 2


async def test_one_that_does_not_open_is_given_up_and_holds_up_no_other(town: Town):
    await town.reachable()
    broken, _ = await town.send("Broken"), await town.send("Whole")
    await town.service.database.execute(
        "update message set content = '\\x00' where message_id = $1", UUID(broken.name.split("/")[3])
    )
    now = NOON
    for pause in (*rules.RETRIES, timedelta()):
        await town.pass_time(now)
        now += pause
    assert len(town.mails) == 2
    feed = await town.told(6)
    assert sorted(feed[4:]) == ["notification.failed", "notification.sent"]


async def test_a_port_that_breaks_does_not_end_the_service(town: Town, monkeypatch: pytest.MonkeyPatch):
    await town.reachable()
    await town.send()
    await town.planned()
    monkeypatch.setattr(sending, "POLL_INTERVAL", 0.01)
    tries = asyncio.Event()

    async def fail(_: object) -> None:
        tries.set()
        raise ValueError("unforeseen")

    monkeypatch.setattr(town.sending._ports[Channel.EMAIL], "send", fail)
    running = asyncio.create_task(town.sending.run())
    async with asyncio.timeout(20):
        await tries.wait()
    await asyncio.sleep(0.05)
    assert not running.done()
    running.cancel()


async def test_a_fault_in_planning_costs_no_event(
    town: Town, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    await town.reachable()

    async def fail(*_: object) -> None:
        await town.service.database.execute("select 1 / 0")

    monkeypatch.setattr(store, "recipients", fail)
    now, later = datetime.now(UTC), Timestamp()
    later.FromDatetime(now + timedelta(hours=1))
    await town.send(publish_time=later)
    await town.service.pass_time(now + timedelta(hours=2))
    assert await town.told(3) == ["message.accepted", "message.released", "delivery.available"]
    assert "notifications could not be planned" in [record.getMessage() for record in caplog.records]
    assert await town.waiting() == 0
