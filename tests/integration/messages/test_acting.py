"""Acting for another in a mailbox: what is seen, what is recorded, and what is refused."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

import pytest
from solmu.authorisations.v1.parties_pb2 import AssuranceLevel
from solmu.messages.v1 import attachments_pb2, inbox_pb2, mailboxes_pb2, messages_pb2

from deploy.local import ports
from services.messages.acting import Acting, Represented
from services.runtime.client import Peer
from services.runtime.config import Address
from services.runtime.errors import Fault, NotFound, PermissionDenied, Unavailable
from services.runtime.facts.checking import Question, Reason, Verdict
from services.runtime.facts.checks import Checks
from services.runtime.identity import Caller, Right
from services.runtime.telemetry import Telemetry
from tests.engines import Engines
from tests.integration.messages.conftest import Service
from tests.integration.messages.test_attachments import download, reserve, upload
from tests.integration.messages.test_sending import request

Message = messages_pb2.Message
DAUGHTER = "persons/" + "d" * 26
FIRM = "organisations/" + "f" * 26
RIGHT = Right(mandates=("mandates/hers", "mandates/the-firms"), through=FIRM)
READERS = messages_pb2.ReplyPolicy(allowed=messages_pb2.ReplyPolicy.ALLOWED_READERS)


class Mail:
    """A mother's mailbox, and units that write to it."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def begin(self) -> Mail:
        self.unit, self.other = await self.service.unit(), await self.service.unit()
        self.identifier, self.mailbox = await self.service.resident()
        self.mother = self.service.parties.name_of(self.identifier)
        return self

    async def send(self, title: str, *, unit: str = "", **fields: Any) -> messages_pb2.Message:
        self.service.act_as(self.service.city)
        asked = request(unit or self.unit, self.identifier, key=uuid.uuid4().hex, title=title)
        asked.message.MergeFrom(Message(reply_policy=READERS, **fields))
        return await self.service.messages.SendMessage(asked)

    def received(self, sent: messages_pb2.Message) -> str:
        return f"{self.mailbox}/messages/{sent.name.split('/')[3]}"

    def daughter(self, right: Right = RIGHT) -> None:
        self.service.act_for(self.mother, actor=DAUGHTER, right=right)

    async def titles(self) -> list[str]:
        listed = await self.service.inbox.ListInboxMessages(inbox_pb2.ListInboxMessagesRequest(parent=self.mailbox))
        return [one.title for one in listed.messages]

    async def open(self, sent: messages_pb2.Message) -> inbox_pb2.InboxMessage:
        name = self.received(sent)
        return await self.service.inbox.OpenInboxMessage(inbox_pb2.OpenInboxMessageRequest(name=name))

    def reply(self, sent: messages_pb2.Message, title: str = "Reply") -> inbox_pb2.WriteToUnitRequest:
        return inbox_pb2.WriteToUnitRequest(
            parent=self.mailbox,
            in_reply_to=self.received(sent),
            title=title,
            body=messages_pb2.Body(language="en", text="Yes."),
            request_id=str(uuid.uuid4()),
        )


@pytest.fixture
async def mail(service: Service) -> Mail:
    return await Mail(service).begin()


async def test_what_is_for_the_recipient_alone_is_not_there_for_others(service: Service, mail: Mail):
    await mail.send("Open")
    file = (await upload(service, await reserve(service))).name
    attached = [messages_pb2.MessageAttachment(attachment=file)]
    secret = await mail.send("Secret", visibility=Message.VISIBILITY_RECIPIENT_ONLY, attachments=attached)
    mail.daughter()
    assert await mail.titles() == ["Open"]
    get = mailboxes_pb2.GetMailboxRequest(name=mail.mailbox)
    assert (await service.mailboxes.GetMailbox(get)).unread_count == 1
    for attempt in (
        mail.open(secret),
        service.inbox.WriteToUnit(mail.reply(secret)),
        service.inbox.ConfirmReceipt(inbox_pb2.ConfirmReceiptRequest(name=mail.received(secret))),
        download(service, f"{mail.received(secret)}/{file}"),
    ):
        with pytest.raises(NotFound):
            await attempt
    service.act_as(mail.mother)
    assert await mail.titles() == ["Secret", "Open"]
    assert await download(service, f"{mail.received(secret)}/{file}")
    assert (await service.mailboxes.GetMailbox(get)).unread_count == 1, "one was opened by that"


async def test_a_conversation_for_the_recipient_alone_stays_so(service: Service, mail: Mail):
    secret = await mail.send("Secret", visibility=Message.VISIBILITY_RECIPIENT_ONLY)
    service.act_as(mail.mother)
    await service.inbox.WriteToUnit(mail.reply(secret, "My answer"))
    answer = await mail.send("Their answer", in_reply_to=secret.name)
    assert answer.visibility == Message.VISIBILITY_RECIPIENT_ONLY, "the sender reads it too"
    await mail.send("For all", in_reply_to=secret.name, visibility=Message.VISIBILITY_MANDATE_HOLDERS)
    mail.daughter()
    assert await mail.titles() == ["For all"]


async def test_opening_on_behalf_is_opening_and_names_all_concerned(service: Service, mail: Mail):
    sent = await mail.send("Open")
    mail.daughter()
    opened = await mail.open(sent)
    assert opened.HasField("open_time")
    service.act_as(service.city)
    (delivery,) = (await service.messages.GetMessage(messages_pb2.GetMessageRequest(name=sent.name))).deliveries
    assert delivery.state == messages_pb2.Delivery.STATE_OPENED
    actor = delivery.actor
    assert (actor.party, actor.acting_party, actor.client) == (mail.mother, DAUGHTER, "clients/test")
    assert (actor.mandate, actor.through, actor.through_mandate) == ("mandates/hers", FIRM, "mandates/the-firms")
    service.act_as(mail.mother)
    accesses = await service.mailboxes.ListAccesses(mailboxes_pb2.ListAccessesRequest(parent=mail.mailbox))
    assert actor in [one.actor for one in accesses.accesses if one.method == "OpenInboxMessage"]


async def test_confirming_on_behalf_serves_the_message(service: Service, mail: Mail):
    sent = await mail.send("Against receipt", kind=Message.KIND_VERIFIABLE)
    mail.daughter()
    name = mail.received(sent)
    confirmed = await service.inbox.ConfirmReceipt(inbox_pb2.ConfirmReceiptRequest(name=name))
    assert confirmed.bodies
    assert confirmed.legal_effect.basis == messages_pb2.LegalEffect.BASIS_RECEIPT
    service.act_as(service.city)
    (delivery,) = (await service.messages.GetMessage(messages_pb2.GetMessageRequest(name=sent.name))).deliveries
    assert (delivery.actor.acting_party, delivery.actor.mandate) == (DAUGHTER, "mandates/hers")


async def test_who_wrote_for_whom_is_said_on_both_sides(service: Service, mail: Mail):
    sent = await mail.send("Question")
    mail.daughter()
    written = await service.inbox.WriteToUnit(mail.reply(sent))
    service.act_as(service.city)
    name = f"{mail.unit}/messages/{written.name.split('/')[3]}"
    received = await service.messages.GetMessage(messages_pb2.GetMessageRequest(name=name))
    for actor in (written.author, received.sender):
        assert (actor.party, actor.acting_party, actor.mandate) == (mail.mother, DAUGHTER, "mandates/hers")


async def test_a_mandate_for_one_unit_is_for_mail_with_that_unit(service: Service, mail: Mail):
    here, there = await mail.send("Here"), await mail.send("There", unit=mail.other)
    mail.daughter(Right(mandates=("mandates/1",), specifier=mail.unit))
    assert await mail.titles() == ["Here"]
    with pytest.raises(NotFound):
        await mail.open(there)
    await service.inbox.WriteToUnit(mail.reply(here))
    new = mail.reply(here)
    new.ClearField("in_reply_to")
    new.unit = mail.other
    with pytest.raises(PermissionDenied) as refused:
        await service.inbox.WriteToUnit(new)
    assert (refused.value.reason, refused.value.metadata) == ("MANDATE_MISSING", {"reason": "SPECIFIER"})


async def test_a_mandate_for_mail_opens_neither_units_nor_archives(service: Service, mail: Mail):
    sent = await mail.send("Sent")
    service.act_for(service.city, actor=DAUGHTER, right=RIGHT)
    download = attachments_pb2.DownloadAttachmentRequest
    with pytest.raises(NotFound):
        await service.messages.GetMessage(messages_pb2.GetMessageRequest(name=sent.name))
    for name in (f"attachments/{uuid.uuid4()}", f"{sent.name}/attachments/{uuid.uuid4()}"):
        with pytest.raises(NotFound):
            await anext(service.attachments.DownloadAttachment(download(name=name)))


async def test_mailboxes_are_listed_with_those_of_principals_in_pages(service: Service):
    me = await Mail(service).begin()
    others = [await Mail(service).begin() for _ in range(3)]
    await others[0].send("One")
    await others[0].send("Two", visibility=Message.VISIBILITY_RECIPIENT_ONLY)
    nobody = Represented("persons/" + "n" * 26, RIGHT)
    service.rights.represented[me.mother] = [Represented(one.mother, RIGHT) for one in others] + [nobody]
    service.act_as(me.mother)
    asked = mailboxes_pb2.ListMailboxesRequest(page_size=1)
    found: list[mailboxes_pb2.Mailbox] = []
    while True:
        page = await service.mailboxes.ListMailboxes(asked)
        assert len(page.mailboxes) <= 1
        found += page.mailboxes
        if not page.next_page_token:
            break
        asked.page_token = page.next_page_token
    assert [one.name for one in found] == [me.mailbox, *(one.mailbox for one in others)]
    assert [one.unread_count for one in found] == [0, 1, 0, 0]
    service.act_as(others[0].mother)
    accesses = await service.mailboxes.ListAccesses(mailboxes_pb2.ListAccessesRequest(parent=others[0].mailbox))
    (look,) = [one for one in accesses.accesses if one.method == "ListMailboxes"]
    assert (look.actor.acting_party, look.actor.mandate) == (me.mother, "mandates/hers")


@contextlib.asynccontextmanager
async def away(engines: Engines) -> AsyncIterator[Acting]:
    """Authorisations, where nobody listens."""
    address = Address("127.0.0.1", ports.free())
    peer = Peer(name="authorisations", address=address, files=engines.identity("messages"), telemetry=Telemetry())
    yield Acting(checks=Checks(authorisations=peer), authorisations=peer, theme="themes/mail")
    await peer.close()


async def test_ones_own_mail_is_there_while_mandates_cannot_be_asked_about(
    service: Service, engines: Engines, monkeypatch: pytest.MonkeyPatch
):
    me, other = await Mail(service).begin(), await Mail(service).begin()
    sent = await me.send("Mine")
    service.act_as(me.mother)
    async with away(engines) as acting:
        monkeypatch.setattr(service.mailboxes, "_acting", acting)
        own = await service.mailboxes.ListMailboxes(mailboxes_pb2.ListMailboxesRequest())
        assert [one.name for one in own.mailboxes] == [me.mailbox]
        assert await me.titles() == ["Mine"]
        assert (await me.open(sent)).bodies
        others = mailboxes_pb2.ListMailboxesRequest(page_token=own.next_page_token)
        with pytest.raises(Unavailable) as refused:
            await service.mailboxes.ListMailboxes(others)
        assert (refused.value.reason, refused.value.retry_after) == ("UNAVAILABLE", 1.0)
        service.act_as("persons/" + "z" * 26)
        with pytest.raises(Unavailable):
            await service.mailboxes.ListMailboxes(mailboxes_pb2.ListMailboxesRequest())
    monkeypatch.undo()
    service.rights.represented[me.mother] = [Represented(other.mother, RIGHT)]
    service.act_as(me.mother)
    later = await service.mailboxes.ListMailboxes(others)
    assert [one.name for one in later.mailboxes] == [other.mailbox]
    assert not later.next_page_token


def token(**detail: str) -> Caller:
    mandate = {"type": "mandate", "theme": "themes/mail", "mandates": ["mandates/1"]} | detail
    return Caller(service="edge", party="persons/m", actor="persons/d", authorization_details=(mandate,))


class Asked:
    """Takes questions, and gives one answer to all."""

    def __init__(self, answer: Verdict) -> None:
        self.answer = answer
        self.questions: list[tuple[Question, str]] = []

    async def check(self, question: Question, *, consistency_token: str = "") -> Verdict:
        self.questions.append((question, consistency_token))
        return self.answer


async def test_it_is_judged_by_facts_as_new_as_the_token_and_named_by_what_they_say(engines: Engines):
    asked = Asked(Verdict(allowed=True, mandates=("mandates/now",)))
    async with away(engines) as acting:
        acting._checks = cast("Checks", asked)
        right = await acting.right(token(consistency_token="7-1", specifier="units/permits"))
    assert right == Right(mandates=("mandates/now",), specifier="units/permits")
    [(question, consistency_token)] = asked.questions
    assert (question.delegate, question.principal, question.theme_id) == ("persons/d", "persons/m", "mail")
    assert (question.specifier, consistency_token) == ("units/permits", "7-1")


@pytest.mark.parametrize(
    ("actor", "acr", "needed", "refused"),
    [
        ("persons/d", "http://eidas.europa.eu/LoA/substantial", AssuranceLevel.ASSURANCE_LEVEL_SUBSTANTIAL, ""),
        (
            "persons/d",
            "http://eidas.europa.eu/LoA/low",
            AssuranceLevel.ASSURANCE_LEVEL_SUBSTANTIAL,
            "ASSURANCE_TOO_LOW",
        ),
        ("persons/d", "", AssuranceLevel.ASSURANCE_LEVEL_LOW, "ASSURANCE_TOO_LOW"),
        ("persons/d", "", AssuranceLevel.ASSURANCE_LEVEL_UNSPECIFIED, ""),
        ("organisations/o", "", AssuranceLevel.ASSURANCE_LEVEL_HIGH, ""),
    ],
)
async def test_who_is_not_known_surely_enough_opens_no_mail(
    engines: Engines, actor: str, acr: str, needed: int, refused: str
):
    answer = Verdict(allowed=True, mandates=("mandates/now",), assurance_level=needed)
    async with away(engines) as acting:
        acting._checks = cast("Checks", Asked(answer))
        caller = replace(token(), actor=actor, acr=acr)
        if not refused:
            assert (await acting.right(caller)).mandates == ("mandates/now",)
            return
        with pytest.raises(PermissionDenied) as fault:
            await acting.right(caller)
        assert (fault.value.reason, fault.value.metadata) == ("MANDATE_MISSING", {"reason": refused})


async def test_a_refusal_says_coarsely_why(engines: Engines):
    async with away(engines) as acting:
        acting._checks = cast("Checks", Asked(Verdict(allowed=False, reason=Reason.JOINTLY_ONLY)))
        with pytest.raises(PermissionDenied) as fault:
            await acting.right(token())
        assert (fault.value.reason, fault.value.metadata) == ("MANDATE_MISSING", {"reason": "JOINTLY_ONLY"})


async def test_what_cannot_be_known_is_not_allowed_and_says_so(engines: Engines):
    async with away(engines) as acting:
        for attempt in (acting.right(token()), acting.principals(token(), page_token="", size=10)):
            with pytest.raises(Unavailable) as refused:
                await attempt
            assert (refused.value.reason, refused.value.retry_after) == ("UNAVAILABLE", 1.0)


@pytest.mark.parametrize("details", [(), ({"type": "mandate", "theme": "themes/taxes"},), ({"type": "x"},)])
async def test_a_token_for_another_theme_opens_no_mail(engines: Engines, details: tuple[dict[str, str], ...]):
    caller = Caller(service="edge", party="persons/m", actor="persons/d", authorization_details=details)
    async with away(engines) as acting:
        with pytest.raises(Fault) as refused:
            await acting.right(caller)
    assert (refused.value.reason, refused.value.metadata) == ("MANDATE_MISSING", {"reason": "THEME"})
