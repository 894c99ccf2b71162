"""Letters from the policy to the print house and back: what is stored, printed, shown and told."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, timedelta
from uuid import UUID

import pikepdf
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from solmu.messages.v1 import attachments_pb2, inbox_pb2, letters_pb2, mailboxes_pb2, messages_pb2, units_pb2
from solmu.types.v1.types_pb2 import PostalAddress

from services.messages import clock
from services.messages.profiles import PROFILES
from services.runtime.errors import FailedPrecondition, InvalidArgument, NotFound
from services.runtime.identity import Right
from tests.integration.messages.conftest import Service, person
from tests.integration.messages.print_house import (
    DAY,
    HOME,
    OTHER_HOUSE,
    PRINT_HOUSE,
    Letter,
    Message,
    Paper,
    claim,
    claim_of,
    compose,
    letter_to_nobody,
    now,
    pdf,
    policy,
    printed,
    read,
    report,
    send,
    timestamp,
    unread,
    ways,
)
from tests.integration.messages.test_attachments import download
from tests.integration.messages.test_courses import types_of
from tests.integration.messages.test_sending import request
from tests.unit.messages.test_letter_pages import words
from tests.unit.messages.test_printing import document, on_open

Delivery = messages_pb2.Delivery
LegalEffect = messages_pb2.LegalEffect
Use = messages_pb2.MessageAttachment


@pytest.fixture(autouse=True)
async def an_empty_spool(service: Service) -> None:
    await service.database.execute("update letter set compose_time = null, wait_time = null")
    await service.database.execute("update message set wake_time = null")


async def open_(service: Service, mailbox: str, message: Message):
    name = f"{mailbox}/messages/{message.name.split('/')[3]}"
    return await service.inbox.OpenInboxMessage(inbox_pb2.OpenInboxMessageRequest(name=name))


# Policies


async def test_one_without_a_mailbox_gets_a_letter_and_its_sender_hears_of_each_step(service: Service):
    message = await letter_to_nobody(service)
    assert ways(message) == {"ELECTRONIC": "UNREACHABLE", "PAPER": "QUEUED"}
    await compose(service)
    letter = await claim_of(service, message)
    assert (letter.page_count, letter.state) == (1, Delivery.STATE_QUEUED)
    for state in ("SUBMITTED", "PRINTED", "POSTED"):
        answer = await report(
            service,
            letter,
            state,
            cost="1.4350" if state == "POSTED" else "",
            cost_currency="EUR" if state == "POSTED" else "",
        )
        assert (list(answer.refusals), answer.letters[0].state) == ([], Delivery.State.Value(f"STATE_{state}"))
    posted = await read(service, message)
    assert ways(posted) == {"ELECTRONIC": "UNREACHABLE", "PAPER": "POSTED"}
    assert (posted.deliveries[1].cost, posted.deliveries[1].cost_currency) == ("1.435", "EUR")
    expected = [
        "message.accepted",
        "delivery.unreachable",
        "paper.queued",
        "legal.lapsed",
        "paper.submitted",
        "paper.printed",
        "paper.posted",
    ]
    assert await types_of(service, message, 7) == expected


async def test_a_receipt_or_a_return_follows_the_posting(service: Service):
    unit = await service.unit()
    one, other = [await letter_to_nobody(service, unit=unit, key=key) for key in ("one", "other")]
    await compose(service)
    letters = {letter.name.split("/")[1]: letter for letter in await claim(service)}
    for message, state in ((one, "RECEIPT_CONFIRMED"), (other, "RETURNED")):
        letter = letters[message.name.split("/")[3]]
        await report(service, letter, "POSTED")
        await report(service, letter, state)
    confirmed, returned = await read(service, one), await read(service, other)
    assert confirmed.legal_effect.basis == messages_pb2.LegalEffect.BASIS_PAPER_RECEIPT
    assert ways(returned)["PAPER"] == "RETURNED"
    assert returned.legal_effect.state == messages_pb2.LegalEffect.STATE_LAPSED
    types = await types_of(service, one, 13)
    assert {"paper.receipt_confirmed", "paper.returned", "legal.effective"} <= set(types)


async def test_a_letter_that_nobody_collects_is_served_where_the_law_says_so(service: Service):
    unit = await service.unit()
    changed = units_pb2.Unit(name=unit, legal_profile="it-2020")
    await service.units.UpdateUnit(
        units_pb2.UpdateUnitRequest(unit=changed, update_mask=FieldMask(paths=["legal_profile"]))
    )
    message = await letter_to_nobody(service, unit=unit)
    await compose(service)
    letter = await claim_of(service, message)
    for state in ("POSTED", "DEPOSITED"):
        await report(service, letter, state)
    waiting = await read(service, message)
    assert (ways(waiting)["PAPER"], waiting.legal_effect.state) == ("DEPOSITED", LegalEffect.STATE_LAPSED)
    await service.pass_time(now() + timedelta(days=21))
    served = (await read(service, message)).legal_effect
    assert (served.state, served.basis) == (LegalEffect.STATE_EFFECTIVE, LegalEffect.BASIS_TERM)
    days = served.effective_time.ToDatetime(UTC) - now()
    assert timedelta(days=19) < days <= timedelta(days=20)
    expected = ["paper.posted", "paper.deposited", "legal.effective"]
    assert (await types_of(service, message, 7))[-3:] == expected


async def test_one_known_by_postal_address_only_gets_a_letter_and_nobody_a_mailbox(service: Service):
    unit = await service.unit()
    asked = request(unit, person())
    asked.message.recipient.postal_address.CopyFrom(HOME)
    service.act_as(service.city)
    message = await service.messages.SendMessage(asked)
    assert ways(message) == {"PAPER": "QUEUED"}
    assert await service.messages.SendMessage(asked) == await read(service, message)
    asked.idempotency_key = "elsewhere"
    asked.message.paper.address.recipient_name = "Another"
    with pytest.raises(InvalidArgument) as refused:
        await service.messages.SendMessage(asked)
    assert refused.value.violations[0][0] == "message.paper.address"
    await compose(service)
    assert (await claim_of(service, message)).page_count == 1


async def test_attachments_may_go_to_a_postal_address_without_a_word(service: Service):
    unit, attachment = await service.unit(), await pdf(service, document(pages=2))
    service.act_as(service.city)
    message = Message(recipient=messages_pb2.Recipient(postal_address=HOME), attachments=[Use(attachment=attachment)])
    asked = messages_pb2.SendMessageRequest(parent=unit, idempotency_key="a", message=message)
    sent = await service.messages.SendMessage(asked)
    await compose(service)
    assert (await claim_of(service, sent)).page_count == 1 + 1 + 2
    del message.attachments[:]
    service.act_as(service.city)
    with pytest.raises(InvalidArgument) as refused:
        await service.messages.SendMessage(
            messages_pb2.SendMessageRequest(parent=unit, idempotency_key="b", message=message)
        )
    assert refused.value.violations[0][0] == "message.title"


async def test_a_mailbox_that_is_open_gets_no_letter(service: Service):
    unit = await service.unit()
    identifier, _ = await service.resident()
    message = await send(service, unit, identifier, policy())
    assert ways(message) == {"ELECTRONIC": "AVAILABLE"}
    await service.pass_time(now() + 400 * DAY)
    assert ways(await read(service, message)) == {"ELECTRONIC": "AVAILABLE"}


async def test_without_a_paper_part_or_with_one_that_is_never_used_nobody_without_a_mailbox_is_written_to(
    service: Service, tables
):
    unit = await service.unit()
    before = await tables()
    for paper in (Paper(), policy("NEVER")):
        with pytest.raises(FailedPrecondition) as refused:
            await send(service, unit, person(), paper)
        assert refused.value.reason == "MAILBOX_NOT_ACTIVE"
    assert await tables() == before


@pytest.mark.parametrize("opened", [False, True])
async def test_what_stays_unread_goes_on_paper_and_what_is_read_does_not(service: Service, opened: bool):
    unit = await service.unit()
    identifier, mailbox = await service.resident()
    message = await send(service, unit, identifier, unread())
    if opened:
        service.act_as(service.parties.name_of(identifier))
        await open_(service, mailbox, message)
    await service.pass_time(now() + 2 * DAY)
    await compose(service, now() + 3 * DAY)
    if opened:
        assert ways(await read(service, message)) == {"ELECTRONIC": "OPENED"}
        return
    assert ways(await read(service, message)) == {"ELECTRONIC": "AVAILABLE", "PAPER": "QUEUED"}
    await service.database.execute(
        "update letter set wait_time = now(), create_time = now() where wait_time is not null"
    )
    await report(service, await claim_of(service, message), "SUBMITTED")
    assert ways(await read(service, message)) == {"ELECTRONIC": "SUPERSEDED", "PAPER": "SUBMITTED"}
    service.act_as(service.parties.name_of(identifier))
    assert (await open_(service, mailbox, message)).bodies[0].text == "Granted."
    assert ways(await read(service, message)) == {"ELECTRONIC": "SUPERSEDED", "PAPER": "SUBMITTED"}


async def test_hours_of_working_days_are_counted_by_the_units_country(service: Service):
    unit = await service.unit()
    identifier, _ = await service.resident()
    message = await send(service, unit, identifier, unread(timedelta(hours=400), working_hours=True))
    released, profile = message.release_time.ToDatetime(UTC), PROFILES["fi-2010"]
    due = profile.calendar.after(released, timedelta(hours=400), zone=profile.zone)
    assert due > released + timedelta(hours=400 + 2 * 48), "two weekends at least"
    await service.pass_time(due - timedelta(minutes=1))
    assert "PAPER" not in ways(await read(service, message))
    await service.pass_time(due)
    assert ways(await read(service, message))["PAPER"] == "QUEUED"


async def test_a_verifiable_message_without_a_receipt_goes_on_paper_where_its_sender_says_so(service: Service):
    unit = await service.unit()
    identifier, _ = await service.resident()
    message = await send(service, unit, identifier, policy("IF_LAPSED"), kind=Message.KIND_VERIFIABLE)
    await service.pass_time(now() + 9 * DAY)
    assert ways(await read(service, message)) == {"ELECTRONIC": "AVAILABLE", "PAPER": "QUEUED"}


async def test_the_sender_decides_and_may_say_then_where_the_letter_goes(service: Service):
    unit = await service.unit()
    identifier, _ = await service.resident()
    paper = policy("SENDER_DECIDES")
    paper.ClearField("address")
    message = await send(service, unit, identifier, paper, kind=Message.KIND_VERIFIABLE)
    await service.pass_time(now() + 9 * DAY)
    asked = messages_pb2.SendOnPaperRequest(name=message.name)
    service.act_as(service.city)
    with pytest.raises(InvalidArgument) as refused:
        await service.messages.SendOnPaper(asked)
    assert refused.value.violations[0][0] == "address"
    assert "PAPER" not in ways(await read(service, message))
    asked.address.CopyFrom(HOME)
    sent = await service.messages.SendOnPaper(asked)
    assert ways(sent)["PAPER"] == "QUEUED"
    assert await service.messages.SendOnPaper(asked) == sent
    await compose(service)
    assert (await claim_of(service, message)).page_count == 1


async def test_what_has_been_erased_cannot_be_sent_on_paper(service: Service):
    unit = await service.unit()
    message = await send(service, unit, person(), policy("SENDER_DECIDES"))
    await service.mailboxes.EraseMailbox(
        mailboxes_pb2.EraseMailboxRequest(name=message.recipient.mailbox, justification="on request")
    )
    with pytest.raises(FailedPrecondition) as refused:
        await service.messages.SendOnPaper(messages_pb2.SendOnPaperRequest(name=message.name))
    assert refused.value.reason == "MAILBOX_CLOSED"
    assert "PAPER" not in ways(await read(service, message))


async def test_sending_on_paper_is_for_the_sender_alone_and_for_policies_that_leave_it_to_it(service: Service):
    unit = await service.unit()
    identifier, _ = await service.resident()
    message = await send(service, unit, identifier, unread())
    asked = messages_pb2.SendOnPaperRequest(name=message.name)
    with pytest.raises(FailedPrecondition) as refused:
        await service.messages.SendOnPaper(asked)
    assert refused.value.reason == "MESSAGE_STATE"
    service.act_as("organisations/other")
    with pytest.raises(NotFound):
        await service.messages.SendOnPaper(asked)


async def test_a_mailbox_that_closes_before_the_release_gets_a_letter_in_its_place(service: Service):
    unit = await service.unit()
    identifier, mailbox = await service.resident()
    asked = request(unit, identifier)
    asked.message.paper.CopyFrom(policy())
    asked.message.publish_time.CopyFrom(timestamp(now() + DAY))
    service.act_as(service.city)
    message = await service.messages.SendMessage(asked)
    await service.database.execute("update mailbox set state = 3 where mailbox_id = $1", mailbox.split("/")[1])
    await service.pass_time(now() + 2 * DAY)
    assert ways(await read(service, message)) == {"ELECTRONIC": "UNREACHABLE", "PAPER": "QUEUED"}


async def test_one_who_opens_a_mailbox_finds_what_went_on_paper_and_stops_what_has_not_gone(service: Service):
    unit, identifier = await service.unit(), person()
    gone = await send(service, unit, identifier, policy(), key="gone")
    await compose(service)
    await report(service, await claim_of(service, gone), "POSTED")
    waits = await send(service, unit, identifier, policy(), key="waits")
    party = service.parties.name_of(identifier)
    service.act_as(party)
    listed = await service.mailboxes.ListMailboxes(mailboxes_pb2.ListMailboxesRequest())
    assert list(listed.mailboxes) == [], "nobody has a mailbox who has not opened one"
    with pytest.raises(NotFound):
        await service.mailboxes.GetMailbox(mailboxes_pb2.GetMailboxRequest(name=gone.recipient.mailbox))
    mailbox = await service.mailboxes.OpenMailbox(mailboxes_pb2.OpenMailboxRequest())
    assert mailbox.legal_basis == mailboxes_pb2.Mailbox.LEGAL_BASIS_CONSENT
    assert mailbox.kind == mailboxes_pb2.Mailbox.KIND_PERSON
    for message, text in ((gone, "SUPERSEDED"), (waits, "")):
        assert (await open_(service, mailbox.name, message)).bodies[0].text == "Granted.", text
    assert ways(await read(service, gone)) == {"ELECTRONIC": "UNREACHABLE", "PAPER": "POSTED"}
    assert ways(await read(service, waits)) == {"ELECTRONIC": "OPENED", "PAPER": "SUPERSEDED"}
    await compose(service)
    assert await claim(service) == []


# What is printed


async def test_a_letter_holds_the_address_page_and_the_attachments_that_go_on_paper(service: Service):
    three = await pdf(service, document(pages=3))
    machine = await pdf(service, b'{"a": 1}', media_type="application/json", file_name="a.json")
    left_out = await pdf(service, document(pages=5))
    uses = [
        Use(attachment=three, role=Use.ROLE_MAIN),
        Use(attachment=machine, role=Use.ROLE_TECHNICAL),
        Use(attachment=left_out, excluded_from_paper=True),
    ]
    duplex = await letter_to_nobody(service, attachments=uses, key="duplex")
    simplex_paper = policy(options=messages_pb2.LetterOptions(single_sided=True, cost_centre="4711"))
    simplex = await letter_to_nobody(service, simplex_paper, attachments=uses, key="simplex")
    own_page = policy(options=messages_pb2.LetterOptions(has_address_page=True))
    own = await letter_to_nobody(service, own_page, attachments=uses, key="own")
    await compose(service)
    found = {letter.name: letter for letter in await claim(service)}
    letters = [found[f"letters/{message.name.split('/')[3]}"] for message in (duplex, simplex, own)]
    assert [letter.page_count for letter in letters] == [1 + 1 + 3, 1 + 3, 3]
    assert [letter.options.cost_centre for letter in letters] == ["", "4711", ""]
    for letter in letters:
        with await printed(service, letter) as content:
            assert len(content.pages) == letter.page_count


async def test_a_letter_is_for_the_print_house_that_claimed_it(service: Service):
    message = await letter_to_nobody(service)
    await compose(service)
    letter = await claim_of(service, message)
    asked = letters_pb2.GetLetterRequest(name=letter.name)
    shown = await service.letters.GetLetter(asked)
    assert (shown.attachment, shown.claim) == (letter.attachment, "")
    for party in (OTHER_HOUSE, service.city):
        service.act_as(party)
        with pytest.raises(NotFound):
            await service.letters.GetLetter(asked)
        with pytest.raises(NotFound):
            await download(service, letter.attachment)
    service.act_as(PRINT_HOUSE)
    with pytest.raises(NotFound):
        await service.attachments.DeleteAttachment(attachments_pb2.DeleteAttachmentRequest(name=letter.attachment))


async def test_who_sent_on_paper_and_who_printed_is_on_the_recipients_list(service: Service):
    unit, identifier = await service.unit(), person()
    message = await send(service, unit, identifier, policy("SENDER_DECIDES"))
    await service.messages.SendOnPaper(messages_pb2.SendOnPaperRequest(name=message.name))
    await compose(service)
    letter = await claim_of(service, message)
    await download(service, letter.attachment)
    service.act_as(service.parties.name_of(identifier))
    mailbox = await service.mailboxes.OpenMailbox(mailboxes_pb2.OpenMailboxRequest())
    listed = await service.mailboxes.ListAccesses(mailboxes_pb2.ListAccessesRequest(parent=mailbox.name))
    looks = [(look.method, look.actor.party) for look in listed.accesses if look.message]
    assert looks == [("DownloadAttachment", PRINT_HOUSE), ("SendOnPaper", service.city)]


async def test_a_letter_whose_mailbox_is_erased_is_not_printed(service: Service):
    unit = await service.unit()
    made, not_made = [await letter_to_nobody(service, unit=unit, key=key) for key in ("made", "not-made")]
    await service.spool.next(now=now())
    for message in (made, not_made):
        await service.mailboxes.EraseMailbox(
            mailboxes_pb2.EraseMailboxRequest(name=message.recipient.mailbox, justification="on request")
        )
    await compose(service)
    assert await claim(service) == []
    for message in (made, not_made):
        assert ways(await read(service, message))["PAPER"] == "FAILED"


async def test_a_letter_that_cannot_be_made_fails_and_its_sender_hears_of_it(service: Service):
    attachment = await pdf(service, document(pages=7))  # of its own: equal content would share what is deleted here
    message = await letter_to_nobody(service, attachments=[Use(attachment=attachment)])
    await service.blobs.delete(UUID(attachment.split("/")[1]))
    at = now()
    for _ in range(11):
        await compose(service, at)
        at += timedelta(hours=1)
    assert ways(await read(service, message))["PAPER"] == "FAILED"
    assert (await types_of(service, message, 5))[-1] == "paper.failed"


# What did not arrive

ELSEWHERE = PostalAddress(
    recipient_name="Aino Ántá", street_address="Uusi tie 3", postal_code="99980", locality="UTSJOKI", country_code="FI"
)


async def first_page(service: Service, letter: Letter) -> set[str]:
    service.act_as(PRINT_HOUSE)
    return {text for _, _, text in words(await download(service, letter.attachment))}


async def test_a_letter_that_failed_goes_to_the_corrected_address_when_its_sender_says_so(service: Service):
    message = await letter_to_nobody(service)
    await compose(service)
    first = await claim_of(service, message)
    assert HOME.street_address in await first_page(service, first)
    await report(service, first, "FAILED")
    assert ways(await read(service, message))["PAPER"] == "FAILED"
    assert (await types_of(service, message, 5))[-1] == "paper.failed"

    asked = messages_pb2.SendOnPaperRequest(name=message.name, address=ELSEWHERE)
    sent = await service.messages.SendOnPaper(asked)
    assert ways(sent)["PAPER"] == "QUEUED"
    assert await service.messages.SendOnPaper(asked) == sent, "asked again, nothing changes"
    late = await report(service, first, "SUBMITTED")
    assert "LETTER_CLAIM_LOST" in str(late.refusals[0].status), "the failed one is not to be printed after all"
    await compose(service)
    second = await claim_of(service, message)
    printed_there = await first_page(service, second)
    assert ELSEWHERE.street_address in printed_there
    assert HOME.street_address not in printed_there
    await report(service, second, "POSTED")
    assert ways(await read(service, message))["PAPER"] == "POSTED"
    assert (await types_of(service, message, 7))[-2:] == ["paper.queued", "paper.posted"]
    service.act_as(service.city)
    assert ways(await service.messages.SendOnPaper(asked))["PAPER"] == "POSTED", "what was posted is not sent again"


@pytest.mark.parametrize("known", ["by the message", "since it was sent on paper"])
async def test_a_letter_under_way_is_not_sent_to_another_address(service: Service, known: str):
    if known == "by the message":
        message = await letter_to_nobody(service)
    else:
        identifier, _ = await service.resident()
        paper = policy("SENDER_DECIDES")
        paper.ClearField("address")
        message = await send(service, await service.unit(), identifier, paper)
        await service.messages.SendOnPaper(messages_pb2.SendOnPaperRequest(name=message.name, address=HOME))
    before = await read(service, message)
    service.act_as(service.city)
    for asked in (messages_pb2.SendOnPaperRequest(name=message.name, address=to) for to in (HOME, None)):
        assert await service.messages.SendOnPaper(asked) == before, "the same again"
    with pytest.raises(FailedPrecondition) as refused:
        await service.messages.SendOnPaper(messages_pb2.SendOnPaperRequest(name=message.name, address=ELSEWHERE))
    assert (refused.value.reason, refused.value.metadata) == ("MESSAGE_STATE", {"state": "QUEUED"})
    await compose(service)
    assert HOME.street_address in await first_page(service, await claim_of(service, message))


async def test_the_corrected_address_has_to_fit_and_to_be_of_use(service: Service):
    attachment = await pdf(service, document())
    own_page = policy(options=messages_pb2.LetterOptions(has_address_page=True))
    own = await letter_to_nobody(service, own_page, attachments=[Use(attachment=attachment)])
    plain = await letter_to_nobody(service)
    await compose(service)
    for letter in await claim(service):
        await report(service, letter, "FAILED")
    wide = PostalAddress(recipient_name="x" * 200, street_address="A 1", postal_code="00100", locality="HELSINKI")
    for message, to, reason in ((own, ELSEWHERE, "FIELD_INVALID"), (plain, wide, "ADDRESS_DOES_NOT_FIT")):
        service.act_as(service.city)
        with pytest.raises(InvalidArgument) as refused:
            await service.messages.SendOnPaper(messages_pb2.SendOnPaperRequest(name=message.name, address=to))
        assert refused.value.reason == reason
        assert ways(await read(service, message))["PAPER"] == "FAILED"
    again = await service.messages.SendOnPaper(messages_pb2.SendOnPaperRequest(name=own.name))
    assert ways(again)["PAPER"] == "QUEUED", "without another address it is tried as it was"


async def test_a_letter_that_came_back_is_followed_by_a_new_message_where_its_sender_says_so(service: Service):
    unit, identifier, attachment = await service.unit(), person(), await pdf(service, document())
    uses = [Use(attachment=attachment)]
    first = await send(service, unit, identifier, policy(), attachments=uses)
    await compose(service)
    letter = await claim_of(service, first)
    await report(service, letter, "POSTED")
    await report(service, letter, "RETURNED")
    back = await read(service, first)
    assert (ways(back)["PAPER"], back.legal_effect.state) == ("RETURNED", messages_pb2.LegalEffect.STATE_LAPSED)
    assert (await types_of(service, first, 6))[-1] == "paper.returned"
    with pytest.raises(FailedPrecondition) as refused:
        await service.messages.SendOnPaper(messages_pb2.SendOnPaperRequest(name=first.name, address=ELSEWHERE))
    assert (refused.value.reason, refused.value.metadata) == ("MESSAGE_STATE", {"state": "RETURNED"})

    corrected = policy()
    corrected.address.CopyFrom(ELSEWHERE)
    second = await send(
        service, unit, identifier, corrected, key="letter-1.2", in_reply_to=first.name, attachments=uses
    )
    assert second.thread == first.thread
    await compose(service)
    (letter,) = await claim(service)
    assert letter.name.split("/")[1] == second.name.split("/")[3]
    assert ELSEWHERE.street_address in await first_page(service, letter)
    await report(service, letter, "POSTED")
    assert (ways(await read(service, first))["PAPER"], ways(await read(service, second))["PAPER"]) == (
        "RETURNED",
        "POSTED",
    )


# Refusals


@pytest.mark.parametrize(
    ("content", "fields", "defect"),
    [
        (document(change=on_open), {}, "ACTIVE"),
        (document(size=(612, 792)), {}, "PAGE_SIZE"),
        (document(pages=101), {}, "TOO_LARGE"),
        (b'{"a": 1}', {"media_type": "application/json", "file_name": "a.json"}, "NOT_PDF"),
    ],
)
async def test_what_cannot_be_printed_is_refused_at_once(service: Service, tables, content, fields, defect):
    attachment, unit = await pdf(service, content, **fields), await service.unit()
    identifier, _ = await service.resident()
    before = await tables()
    for trigger in ("IF_UNREACHABLE", "SENDER_DECIDES"):
        with pytest.raises(InvalidArgument) as refused:
            await send(service, unit, identifier, policy(trigger), attachments=[Use(attachment=attachment)])
        assert (refused.value.reason, refused.value.metadata) == (
            "PDF_NOT_PRINTABLE",
            {"attachment": attachment, "defect": defect},
        )
    assert await tables() == before
    left_out = [Use(attachment=attachment, excluded_from_paper=True)]
    assert (await send(service, unit, identifier, policy(), attachments=left_out)).name


async def test_an_encrypted_pdf_is_refused_at_once(service: Service):
    locked = document(encryption=pikepdf.Encryption(owner="o", user="u"))
    attachment = await pdf(service, locked)
    with pytest.raises(InvalidArgument) as refused:
        await letter_to_nobody(service, attachments=[Use(attachment=attachment)])
    assert refused.value.metadata["defect"] == "ENCRYPTED"


async def test_pdfs_that_are_too_many_together_are_refused(service: Service):
    halves = [Use(attachment=await pdf(service, document(pages=50))) for _ in range(2)]
    with pytest.raises(InvalidArgument) as refused:
        await letter_to_nobody(service, attachments=halves)
    assert refused.value.metadata == {"attachment": halves[1].attachment, "defect": "TOO_LARGE"}


@pytest.mark.parametrize(
    ("field", "value", "at"),
    [
        ("recipient_name", "W" * 60, "recipient_name"),
        ("street_address", "Kotikatu 1\nHELSINKI", "street_address"),
        ("locality", "北京", "locality"),
        ("country_code", "ZZ", "country_code"),
    ],
)
async def test_an_address_that_does_not_fit_the_window_is_refused(service: Service, tables, field, value, at):
    unit, address = await service.unit(), PostalAddress()
    address.CopyFrom(HOME)
    setattr(address, field, value)
    before = await tables()
    paper = policy()
    paper.address.CopyFrom(address)
    with pytest.raises(InvalidArgument) as refused:
        await letter_to_nobody(service, paper, unit=unit)
    assert (refused.value.reason, refused.value.metadata["field"]) == (
        "ADDRESS_DOES_NOT_FIT",
        f"message.paper.address.{at}",
    )
    assert value not in str(refused.value)
    asked = request(unit, person())
    asked.message.recipient.postal_address.CopyFrom(address)
    with pytest.raises(InvalidArgument) as refused:
        await service.messages.SendMessage(asked)
    assert refused.value.metadata["field"] == f"message.recipient.postal_address.{at}"
    decided = policy("SENDER_DECIDES", return_address=address)
    with pytest.raises(InvalidArgument) as refused:
        await letter_to_nobody(service, decided, unit=unit)
    assert refused.value.reason == "ADDRESS_DOES_NOT_FIT"
    assert await tables() == before


@pytest.mark.parametrize("text", ["שלום", "😀", "a\x07b", "x\n" * 4_000])
async def test_a_text_that_cannot_be_printed_is_refused(service: Service, text: str):
    unit = await service.unit()
    asked = request(unit, person())
    asked.message.paper.CopyFrom(policy())
    asked.message.bodies[0].text = text
    service.act_as(service.city)
    with pytest.raises(InvalidArgument) as refused:
        await service.messages.SendMessage(asked)
    assert (refused.value.reason, refused.value.metadata) == ("TEXT_NOT_PRINTABLE", {"language": "en"})


@pytest.mark.parametrize(
    ("paper", "field"),
    [
        (Paper(trigger=Paper.TRIGGER_IF_UNREACHABLE), "message.paper.address"),
        (policy("IF_UNREAD"), "message.paper.unread_after"),
        (policy("IF_LAPSED"), "message.paper.trigger"),
        (policy(options=messages_pb2.LetterOptions(has_address_page=True)), "message.paper.options.has_address_page"),
    ],
)
async def test_a_policy_that_cannot_work_is_refused(service: Service, paper: Paper, field: str):
    with pytest.raises(InvalidArgument) as refused:
        await letter_to_nobody(service, paper)
    assert (refused.value.reason, refused.value.violations[0][0]) == ("FIELD_INVALID", field)


# Claims and reports


async def test_a_letter_is_claimed_by_one_print_house_at_a_time(service: Service):
    unit = await service.unit()
    for number in range(20):
        await letter_to_nobody(service, unit=unit, key=f"letter-{number}")
    await compose(service)

    async def pull(house: str) -> list[Letter]:
        claimed: list[Letter] = await claim(service, house=house, most=7)
        return claimed

    shares = await asyncio.gather(*(pull(f"organisations/house-{number}") for number in range(4)))
    names = [letter.name for share in shares for letter in share]
    assert len(names) == len(set(names)) == 20
    assert await claim(service) == []


async def test_a_print_house_that_dies_loses_its_claim_and_may_not_print_any_more(service: Service):
    message = await letter_to_nobody(service)
    await compose(service)
    lost = await claim_of(service, message, lease=timedelta(seconds=1))
    assert await claim(service) == []
    await asyncio.sleep(1.1)
    again = await claim_of(service, message, house=OTHER_HOUSE)
    refused = await report(service, lost, "SUBMITTED")
    assert "RESOURCE_NOT_FOUND" in str(refused.refusals[0].status)
    assert (await report(service, again, "SUBMITTED", house=OTHER_HOUSE)).letters[0].state == Delivery.STATE_SUBMITTED


async def test_the_same_print_house_is_told_by_its_claims_apart(service: Service):
    message = await letter_to_nobody(service)
    await compose(service)
    lost = await claim_of(service, message, lease=timedelta(seconds=1))
    await asyncio.sleep(1.1)
    again = await claim_of(service, message)
    assert again.claim != lost.claim
    for state in ("SUBMITTED", "POSTED", "FAILED"):
        refused = await report(service, lost, state)
        assert "LETTER_CLAIM_LOST" in str(refused.refusals[0].status)
    assert ways(await read(service, message))["PAPER"] == "QUEUED"
    await report(service, again, "SUBMITTED")
    assert ways(await read(service, message))["PAPER"] == "SUBMITTED"


async def test_a_claim_that_lapsed_is_good_as_long_as_nobody_else_has_the_letter(service: Service):
    message = await letter_to_nobody(service)
    await compose(service)
    letter = await claim_of(service, message, lease=timedelta(seconds=1))
    await asyncio.sleep(1.1)
    await service.pass_time(now())
    assert not (await report(service, letter, "SUBMITTED")).refusals
    assert await claim(service, house=OTHER_HOUSE) == []


async def test_reports_may_come_again_and_in_any_order(service: Service):
    message = await letter_to_nobody(service)
    await compose(service)
    letter = await claim_of(service, message)
    posted = now()
    await report(service, letter, "POSTED", time=posted, cost="0.9", cost_currency="EUR")
    for state in ("SUBMITTED", "POSTED", "PRINTED", "SUBMITTED"):
        answer = await report(service, letter, state, time=posted)
        assert (list(answer.refusals), answer.letters[0].state) == ([], Delivery.STATE_POSTED)
    told = await types_of(service, message, 5)
    assert told == ["message.accepted", "delivery.unreachable", "paper.queued", "legal.lapsed", "paper.posted"]
    assert (await read(service, message)).deliveries[1].cost == "0.9"


async def test_a_refused_report_stops_no_other(service: Service):
    unit = await service.unit()
    messages = [await letter_to_nobody(service, unit=unit, key=f"letter-{number}") for number in range(3)]
    await compose(service)
    letters = {letter.name: letter for letter in await claim(service)}
    one, other, third = [letters[f"letters/{message.name.split('/')[3]}"] for message in messages]

    def made(letter: Letter, **fields) -> letters_pb2.ReportLettersRequest.Report:
        return letters_pb2.ReportLettersRequest.Report(
            letter=letter.name, claim=letter.claim, state=Delivery.STATE_SUBMITTED, **fields
        )

    service.act_as(PRINT_HOUSE)
    unknown = Letter(name="letters/00000000-0000-7000-8000-000000000000", claim=one.claim)
    answer = await service.letters.ReportLetters(
        letters_pb2.ReportLettersRequest(
            reports=[
                made(one, time=timestamp(now() + DAY)),
                made(other, time=timestamp(now())),
                made(unknown, time=timestamp(now())),
                made(third, time=timestamp(now() - DAY)),
                made(third, time=timestamp(now()), cost="1"),
            ]
        )
    )
    assert [refusal.index for refusal in answer.refusals] == [0, 2, 3, 4]
    reasons = ["TIME_INVALID", "RESOURCE_NOT_FOUND", "TIME_INVALID", "FIELD_INVALID"]
    for refusal, reason in zip(answer.refusals, reasons, strict=True):
        assert reason in str(refusal.status)
    states = [letter.state for letter in answer.letters]
    assert states == [Delivery.STATE_QUEUED, Delivery.STATE_SUBMITTED, 0, Delivery.STATE_QUEUED, Delivery.STATE_QUEUED]


async def test_a_view_stops_a_letter_that_waits_also_once_its_pdf_is_there(service: Service):
    unit = await service.unit()
    identifier, mailbox = await service.resident()
    message = await send(service, unit, identifier, unread())
    await service.pass_time(now() + 2 * DAY)
    await compose(service, now() + 3 * DAY)
    await service.database.execute("update letter set wait_time = now() where wait_time is not null")
    service.act_as(service.parties.name_of(identifier))
    await open_(service, mailbox, message)
    assert await claim(service) == []
    assert ways(await read(service, message)) == {"ELECTRONIC": "OPENED", "PAPER": "SUPERSEDED"}
    expected = ["message.accepted", "delivery.available", "paper.queued", "delivery.opened", "paper.superseded"]
    assert await types_of(service, message, 5) == expected


async def test_a_delegates_view_stops_a_letter_as_the_recipients_own_does(service: Service):
    unit = await service.unit()
    identifier, mailbox = await service.resident()
    message = await send(service, unit, identifier, unread())
    await service.pass_time(now() + 2 * DAY)
    daughter = service.parties.name_of(person())
    service.act_for(service.parties.name_of(identifier), actor=daughter, right=Right(mandates=("mandates/1",)))
    await open_(service, mailbox, message)
    seen = await read(service, message)
    assert ways(seen) == {"ELECTRONIC": "OPENED", "PAPER": "SUPERSEDED"}
    assert seen.deliveries[0].actor.acting_party == daughter


async def test_withdrawn_a_letter_that_waits_is_not_printed(service: Service):
    message = await letter_to_nobody(service)
    await compose(service)
    await service.messages.WithdrawMessage(messages_pb2.WithdrawMessageRequest(name=message.name))
    assert await claim(service) == []
    assert ways(await read(service, message))["PAPER"] == "WITHDRAWN"


async def test_the_pdf_of_a_posted_letter_is_forgotten_after_some_days(service: Service):
    message = await letter_to_nobody(service)
    await compose(service)
    letter = await claim_of(service, message)
    await report(service, letter, "SUBMITTED")
    expires = "select expire_time from attachment where attachment_id = $1"
    attachment_id = letter.attachment.split("/")[1]
    assert await service.database.fetchval(expires, attachment_id) is None
    await report(service, letter, "POSTED")
    assert await service.database.fetchval(expires, attachment_id) > now() + 6 * DAY


# Races


async def test_a_letter_goes_once_or_is_seen_however_timers_viewers_and_print_houses_race(service: Service):
    """Of everything at once, with each killed at a random moment; then whoever is left ends it."""
    random.seed(20)
    unit, cases = await service.unit(), []
    for number in range(24):
        identifier, mailbox = await service.resident()
        message = await send(service, unit, identifier, unread(timedelta(milliseconds=1)), key=f"letter-{number}")
        cases.append((message, mailbox, service.parties.name_of(identifier)))
    submitted: list[str] = []

    async def print_house(number: int) -> None:
        house = f"organisations/house-{number % 3}"
        while True:
            for letter in await claim(service, house=house, most=5, lease=timedelta(seconds=1)):
                if random.random() < 0.3:
                    continue  # forgets it
                answer = await report(service, letter, "SUBMITTED", house=house)
                if not answer.refusals:
                    submitted.append(letter.name)
                    await report(service, letter, "POSTED", house=house)
            await asyncio.sleep(0.01)

    async def viewer() -> None:
        for message, mailbox, party in random.sample(cases, len(cases) // 2):
            service.act_as(party)
            await open_(service, mailbox, message)
            await asyncio.sleep(0.01)

    async def timer() -> None:
        while True:
            await clock.once(database=service.database, outbox=service.outbox, now=now())
            await service.spool.next(now=now())
            await asyncio.sleep(0.005)

    async def killed(work) -> None:
        task = asyncio.create_task(work)
        await asyncio.sleep(random.random() * 0.4)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    for _ in range(6):
        await asyncio.gather(
            *(killed(work) for work in (timer(), timer(), viewer(), *(print_house(n) for n in range(3))))
        )
    await asyncio.sleep(1.1)  # the last leases end
    await service.pass_time(now())
    await service.database.execute("update letter set compose_time = now() where compose_time is not null")
    await compose(service)
    for letter in await claim(service):
        if not (await report(service, letter, "SUBMITTED")).refusals:
            submitted.append(letter.name)
            await report(service, letter, "POSTED")
    for message, _, _ in cases:
        known = ways(await read(service, message))
        name = f"letters/{message.name.split('/')[3]}"
        alive = [way for way, state in known.items() if state in {"OPENED", "SUBMITTED", "POSTED"}]
        assert len(alive) == 1, known
        assert submitted.count(name) <= (alive == ["PAPER"]), known  # less, where it died before it heard the answer


async def test_one_process_leads_the_clock_and_another_takes_over(service: Service):
    unit = await service.unit()
    leaders = [asyncio.create_task(clock.run(database=service.database, outbox=service.outbox)) for _ in range(2)]
    try:
        for key in ("first", "second"):
            identifier, _ = await service.resident()
            message = await send(service, unit, identifier, unread(timedelta(milliseconds=1)), key=key)
            async with asyncio.timeout(20):
                while "PAPER" not in ways(await read(service, message)):
                    await asyncio.sleep(0.1)
            locks = "select count(*) from pg_locks where locktype = 'advisory' and granted and pid <> pg_backend_pid()"
            assert await service.database.fetchval(locks) >= 1
            leaders[0].cancel()
            await asyncio.gather(leaders[0], return_exceptions=True)
    finally:
        for task in leaders:
            task.cancel()
        await asyncio.gather(*leaders, return_exceptions=True)
