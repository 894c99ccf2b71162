"""Every look at what is in a mailbox is on the list that its owner can read."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from solmu.messages.v1 import attachments_pb2, contacts_pb2, inbox_pb2, mailboxes_pb2, messages_pb2
from solmu.options.v1 import access_pb2

from services.messages.servicers.attachments import Attachments
from services.messages.servicers.contacts import Contacts
from services.messages.servicers.inbox import Inbox
from services.messages.servicers.mailboxes import Mailboxes
from services.messages.servicers.messages import Messages
from services.runtime import contracts
from services.runtime.errors import NotFound
from services.runtime.identity import Right
from tests.integration.messages import test_exporting
from tests.integration.messages.conftest import Service
from tests.integration.messages.test_acting import DAUGHTER, Mail
from tests.integration.messages.test_attachments import download, reserve, upload
from tests.integration.messages.test_sending import request

Message = messages_pb2.Message

NO_LOOK = {
    "CreateAttachment": "a file of one's own",
    "UploadAttachment": "a file of one's own",
    "GetAttachment": "a file of one's own",
    "DeleteAttachment": "a file of one's own",
    "ListAccesses": "the owner's look at this list",
    "EraseMailbox": "nothing is left to look at; it is in the audit record",
}
"""Methods beside a mailbox that show nothing of it, or nobody else's."""

TRIED_ELSEWHERE = {
    "WriteToUnit": "below",
    "CreateMailbox": "below",
    "SendMessages": "a stream of SendMessage",
    "ConfirmContact": "test_notifications.py",
    "SendOnPaper": "test_letters.py",
    "DiscontinueMailbox": "test_deaths.py",
}
"""Methods whose looks have a test of their own."""


@dataclass
class Scene:
    """A resident who wrote to a unit, which answered, and which the resident asked for an archive."""

    mail: Mail
    sent: Message
    asked: messages_pb2.SendMessageRequest
    written: inbox_pb2.InboxMessage
    archive: mailboxes_pb2.MailboxExport
    file: str

    @property
    def service(self) -> Service:
        return self.mail.service

    @property
    def received(self) -> str:
        return self.mail.received(self.sent)

    def of_unit(self, message: str) -> str:
        return f"{self.mail.unit}/messages/{message.split('/')[3]}"


@pytest.fixture
async def scene(service: Service) -> Scene:
    mail = await Mail(service).begin()
    file = (await upload(service, await reserve(service))).name
    asked = request(mail.unit, mail.identifier)
    asked.message.attachments.add(attachment=file)
    asked.message.reply_policy.allowed = messages_pb2.ReplyPolicy.ALLOWED_READERS
    asked.message.kind = Message.KIND_VERIFIABLE
    sent = await service.messages.SendMessage(asked)
    service.act_as(mail.mother)
    await service.inbox.ConfirmReceipt(inbox_pb2.ConfirmReceiptRequest(name=mail.received(sent)))
    written = await service.inbox.WriteToUnit(mail.reply(sent))
    asked_for = await test_exporting.ask(service, mail.mailbox)
    await test_exporting.make_all(service)
    archive = await test_exporting.shown(service, asked_for.name)
    return Scene(mail, sent, asked, written, archive, file)


Call = Callable[[Scene], Awaitable[object]]


def owner(scene: Scene) -> Iterator[tuple[str, str, Call]]:
    """What an owner calls: the method, the message that is seen if it is one, and the call."""
    service, box, seen = scene.service, scene.mail.mailbox, scene.received
    yield "OpenMailbox", "", lambda _: service.mailboxes.OpenMailbox(mailboxes_pb2.OpenMailboxRequest())
    yield "GetMailbox", "", lambda _: service.mailboxes.GetMailbox(mailboxes_pb2.GetMailboxRequest(name=box))
    yield "ListMailboxes", "", lambda _: service.mailboxes.ListMailboxes(mailboxes_pb2.ListMailboxesRequest())
    end = datetime.now(UTC) + timedelta(days=9)
    opting = mailboxes_pb2.OptOutRequest(name=box)
    opting.end_time.FromDatetime(end)
    yield "OptOut", "", lambda _: service.mailboxes.OptOut(opting)
    yield "ExportMailbox", "", lambda _: test_exporting.ask(service, box)
    yield "GetMailboxExport", "", lambda _: test_exporting.shown(service, scene.archive.name)
    yield "DownloadAttachment", "", lambda _: download(service, scene.archive.attachment)
    listing = inbox_pb2.ListInboxMessagesRequest(parent=box)
    yield "ListInboxMessages", "", lambda _: service.inbox.ListInboxMessages(listing)
    opening = inbox_pb2.OpenInboxMessageRequest(name=seen)
    yield "OpenInboxMessage", seen, lambda _: service.inbox.OpenInboxMessage(opening)
    confirming = inbox_pb2.ConfirmReceiptRequest(name=seen)
    yield "ConfirmReceipt", seen, lambda _: service.inbox.ConfirmReceipt(confirming)
    yield "DownloadAttachment", seen, lambda _: download(service, f"{seen}/{scene.file}")
    deleting = inbox_pb2.DeleteInboxMessageRequest(name=seen)
    yield "DeleteInboxMessage", seen, lambda _: service.inbox.DeleteInboxMessage(deleting)
    undeleting = inbox_pb2.UndeleteInboxMessageRequest(name=seen)
    yield "UndeleteInboxMessage", seen, lambda _: service.inbox.UndeleteInboxMessage(undeleting)
    contact = contacts_pb2.Contact(name=f"{box}/contacts/email", email="a@example.org")
    setting = contacts_pb2.SetContactRequest(contact=contact)
    yield "SetContact", "", lambda _: service.contacts.SetContact(setting)
    contacts = contacts_pb2.ListContactsRequest(parent=box)
    yield "ListContacts", "", lambda _: service.contacts.ListContacts(contacts)
    forgetting = contacts_pb2.DeleteContactRequest(name=contact.name)
    yield "DeleteContact", "", lambda _: service.contacts.DeleteContact(forgetting)
    yield "CloseMailbox", "", lambda _: service.mailboxes.CloseMailbox(mailboxes_pb2.CloseMailboxRequest(name=box))


def unit(scene: Scene) -> Iterator[tuple[str, str, Call]]:
    """The same of the unit at the other end."""
    service, seen, theirs = scene.service, scene.received, scene.of_unit(scene.written.name)
    looking_up = mailboxes_pb2.LookUpMailboxesRequest(unit=scene.mail.unit, identifiers=[scene.mail.identifier])
    yield "LookUpMailboxes", "", lambda _: service.mailboxes.LookUpMailboxes(looking_up)
    listing = messages_pb2.ListMessagesRequest(parent=scene.mail.unit)
    yield "ListMessages", "", lambda _: service.messages.ListMessages(listing)
    getting = messages_pb2.GetMessageRequest(name=scene.sent.name)
    yield "GetMessage", seen, lambda _: service.messages.GetMessage(getting)
    reading = messages_pb2.GetMessageRequest(name=theirs)
    yield "GetMessage", scene.written.name, lambda _: service.messages.GetMessage(reading)
    yield "SendMessage", seen, lambda _: service.messages.SendMessage(scene.asked)
    yield "DownloadAttachment", seen, lambda _: download(service, f"{scene.sent.name}/{scene.file}")
    withdrawing = messages_pb2.WithdrawMessageRequest(name=scene.sent.name)
    yield "WithdrawMessage", seen, lambda _: service.messages.WithdrawMessage(withdrawing)


def by_mandate(method: str) -> bool:
    """Whether the contract lets those who act for an owner call a method."""
    (found,) = [
        one.GetOptions().Extensions[access_pb2.access]
        for file in contracts.files("messages")
        for service in file.services_by_name.values()
        for one in service.methods
        if one.name == method
    ]
    return found.on_behalf


async def listed(scene: Scene) -> list[mailboxes_pb2.Access]:
    """The owner's list, the latest first."""
    scene.service.act_as(scene.mail.mother)
    asked = mailboxes_pb2.ListAccessesRequest(parent=scene.mail.mailbox)
    return list((await scene.service.mailboxes.ListAccesses(asked)).accesses)


async def test_each_look_of_the_owner_is_one_entry(service: Service, scene: Scene):
    for method, message, call in owner(scene):
        before = await listed(scene)
        service.act_as(scene.mail.mother, client="portal")
        await call(scene)
        after = await listed(scene)
        assert after[1:] == before, method
        look = after[0]
        assert (look.method, look.message, look.unit) == (method, message, "")
        assert (look.actor.party, look.actor.acting_party, look.actor.client) == (
            scene.mail.mother,
            "",
            "clients/portal",
        )
        assert look.scopes, method


async def test_each_look_of_a_unit_is_one_entry_that_names_the_unit(service: Service, scene: Scene):
    for method, message, call in unit(scene):
        before = await listed(scene)
        service.act_as(service.city, client="permits")
        await call(scene)
        after = await listed(scene)
        assert after[1:] == before, method
        look = after[0]
        assert (look.method, look.message, look.unit) == (method, message, scene.mail.unit)
        assert (look.actor.party, look.actor.client) == (service.city, "clients/permits")
    assert [list(one.scopes) for one in await listed(scene) if one.method == "LookUpMailboxes"] == [
        ["mailboxes.lookup"]
    ]


async def test_looks_on_behalf_name_all_concerned(service: Service, scene: Scene):
    for method, message, call in owner(scene):
        if not by_mandate(method) or (method == "DownloadAttachment" and not message):
            continue  # the owner's alone; so are archives
        service.act_for(scene.mail.mother, actor=DAUGHTER, right=Right(mandates=("mandates/1",)))
        await call(scene)
        look = (await listed(scene))[0]
        assert (look.method, look.message) == (method, message)
        actor = look.actor
        assert (actor.party, actor.acting_party, actor.mandate) == (scene.mail.mother, DAUGHTER, "mandates/1")


async def test_an_operator_who_opens_a_mailbox_that_is_open_is_on_the_list(service: Service, scene: Scene):
    service.act_as(service.city, client="operator")
    asked = mailboxes_pb2.CreateMailboxRequest(
        owner=scene.mail.identifier,
        kind=mailboxes_pb2.Mailbox.KIND_PERSON,
        legal_basis=mailboxes_pb2.Mailbox.LEGAL_BASIS_STATUTE,
    )
    await service.mailboxes.CreateMailbox(asked)
    look = (await listed(scene))[0]
    assert (look.method, look.actor.client) == ("CreateMailbox", "clients/operator")


async def test_who_writes_is_on_the_list(service: Service, scene: Scene):
    service.act_for(scene.mail.mother, actor=DAUGHTER, right=Right(mandates=("mandates/1",)))
    written = await service.inbox.WriteToUnit(scene.mail.reply(scene.sent))
    look = (await listed(scene))[0]
    assert (look.method, look.message, look.actor.acting_party) == ("WriteToUnit", written.name, DAUGHTER)


async def test_what_was_refused_is_no_look(service: Service, scene: Scene):
    before = await listed(scene)
    service.act_as("organisations/" + "o" * 26)
    for attempt in (
        service.messages.GetMessage(messages_pb2.GetMessageRequest(name=scene.sent.name)),
        service.mailboxes.GetMailbox(mailboxes_pb2.GetMailboxRequest(name=scene.mail.mailbox)),
        service.messages.GetMessage(messages_pb2.GetMessageRequest(name=scene.of_unit(f"a/b/c/{uuid.uuid4()}"))),
    ):
        with pytest.raises(NotFound):
            await attempt
    assert await listed(scene) == before


async def test_no_method_is_forgotten(scene: Scene):
    """A method that comes into the contract says here what its look is, or why it is none."""
    tried = {method for method, *_ in (*owner(scene), *unit(scene))} | TRIED_ELSEWHERE.keys()
    servicers = {
        attachments_pb2: Attachments,
        contacts_pb2: Contacts,
        inbox_pb2: Inbox,
        mailboxes_pb2: Mailboxes,
        messages_pb2: Messages,
    }
    there = {
        method.name
        for module, servicer in servicers.items()
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if hasattr(servicer, method.name)
    }
    assert tried | NO_LOOK.keys() == there
