"""Mailboxes: closed, opted out of, found in bulk, erased for good; and on record each time."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from solmu.messages.v1 import attachments_pb2, inbox_pb2, mailboxes_pb2, messages_pb2, units_pb2
from solmu.types.v1.types_pb2 import NationalIdentifier

from services.messages.mailboxes import MAX_OPT_OUT
from services.runtime.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound
from tests.integration.messages.conftest import Service, organisation, person
from tests.integration.messages.test_attachments import download, reserve, unique, upload
from tests.integration.messages.test_sending import request

Mailbox = mailboxes_pb2.Mailbox


def ahead(**difference: float) -> Timestamp:
    result = Timestamp()
    result.FromDatetime(datetime.now(UTC) + timedelta(**difference))
    return result


async def opt_out(service: Service, mailbox: str, end: Timestamp) -> Mailbox:
    return await service.mailboxes.OptOut(mailboxes_pb2.OptOutRequest(name=mailbox, end_time=end))


async def look_up(service: Service, unit: str, *identifiers: NationalIdentifier):
    asked = mailboxes_pb2.LookUpMailboxesRequest(unit=unit, identifiers=identifiers)
    return list((await service.mailboxes.LookUpMailboxes(asked)).results)


async def test_a_closed_mailbox_can_be_read_and_takes_nothing_new(service: Service):
    unit = await service.unit()
    identifier, mailbox = await service.resident()
    service.act_as(service.city)
    await service.messages.SendMessage(request(unit, identifier))

    service.act_as(service.parties.name_of(identifier))
    closed = await service.mailboxes.CloseMailbox(mailboxes_pb2.CloseMailboxRequest(name=mailbox))
    assert closed.state == Mailbox.STATE_CLOSED
    assert await service.mailboxes.CloseMailbox(mailboxes_pb2.CloseMailboxRequest(name=mailbox)) == closed
    page = await service.inbox.ListInboxMessages(inbox_pb2.ListInboxMessagesRequest(parent=mailbox))
    assert len(page.messages) == 1

    service.act_as(service.city)
    with pytest.raises(FailedPrecondition) as refused:
        await service.messages.SendMessage(request(unit, identifier, key="later"))
    assert refused.value.reason == "MAILBOX_NOT_ACTIVE"

    service.act_as(service.parties.name_of(identifier))
    again = await service.mailboxes.OpenMailbox(mailboxes_pb2.OpenMailboxRequest())
    assert (again.name, again.state) == (mailbox, Mailbox.STATE_OPEN)


async def test_closing_respects_the_etag(service: Service):
    identifier, mailbox = await service.resident()
    service.act_as(service.parties.name_of(identifier))
    known = await service.mailboxes.GetMailbox(mailboxes_pb2.GetMailboxRequest(name=mailbox))
    await opt_out(service, mailbox, ahead(days=3))
    with pytest.raises(Aborted) as refused:
        await service.mailboxes.CloseMailbox(mailboxes_pb2.CloseMailboxRequest(name=mailbox, etag=known.etag))
    assert refused.value.reason == "ETAG_MISMATCH"


async def test_an_opt_out_stops_delivery_until_its_end(service: Service):
    unit = await service.unit()
    identifier, mailbox = await service.resident()
    service.act_as(service.parties.name_of(identifier))
    end = ahead(days=30)
    out = await opt_out(service, mailbox, end)
    assert out.state == Mailbox.STATE_OPTED_OUT
    assert abs(out.opt_out_end_time.ToDatetime() - end.ToDatetime()) < timedelta(milliseconds=1)

    service.act_as(service.city)
    with pytest.raises(FailedPrecondition) as refused:
        await service.messages.SendMessage(request(unit, identifier))
    assert refused.value.reason == "MAILBOX_NOT_ACTIVE"
    assert [one.reachable for one in await look_up(service, unit, identifier)] == [False]

    await service.database.execute(
        "update mailbox set opt_out_end_time = now() - interval '1 second' where mailbox_id = $1",
        uuid.UUID(mailbox.split("/")[1]),
    )
    assert [one.reachable for one in await look_up(service, unit, identifier)] == [True]
    await service.messages.SendMessage(request(unit, identifier))


async def test_in_norway_an_opt_out_is_from_decisions_and_not_from_information(service: Service):
    unit = await service.unit()
    norwegian = units_pb2.Unit(name=unit, legal_profile="no-2014")
    mask = FieldMask(paths=["legal_profile"])
    await service.units.UpdateUnit(units_pb2.UpdateUnitRequest(unit=norwegian, update_mask=mask))
    finnish = await service.unit()
    identifier, mailbox = await service.resident()
    service.act_as(service.parties.name_of(identifier))
    await opt_out(service, mailbox, ahead(days=30))

    async def send(to: str, kind: messages_pb2.Message.Kind.ValueType, *, key: str, later: bool = False):
        asked = request(to, identifier, key=key)
        asked.message.kind = kind
        if later:
            asked.message.publish_time.CopyFrom(ahead(hours=1))
        service.act_as(service.city)
        return await service.messages.SendMessage(asked)

    information, decision = messages_pb2.Message.KIND_INFORMATION, messages_pb2.Message.KIND_ORDINARY
    for to, kind in ((unit, decision), (finnish, information)):
        with pytest.raises(FailedPrecondition) as refused:
            await send(to, kind, key="refused")
        assert refused.value.reason == "MAILBOX_NOT_ACTIVE"
    sent = [await send(unit, information, key="now"), await send(unit, information, key="later", later=True)]
    await service.pass_time(datetime.now(UTC) + timedelta(hours=2))
    for one in sent:
        shown = await service.messages.GetMessage(messages_pb2.GetMessageRequest(name=one.name))
        assert [way.state for way in shown.deliveries] == [messages_pb2.Delivery.STATE_AVAILABLE]


@pytest.mark.parametrize("days", [-1, MAX_OPT_OUT.days + 1])
async def test_an_opt_out_lies_in_the_near_future(service: Service, days: int):
    identifier, mailbox = await service.resident()
    service.act_as(service.parties.name_of(identifier))
    with pytest.raises(InvalidArgument) as refused:
        await opt_out(service, mailbox, ahead(days=days))
    assert refused.value.reason == "TIME_INVALID"


async def test_a_mailbox_that_the_law_demands_stays_open(service: Service):
    identifier = person()
    service.act_as(service.city)
    created = await service.mailboxes.CreateMailbox(
        mailboxes_pb2.CreateMailboxRequest(
            owner=identifier, kind=Mailbox.KIND_COMPANY, legal_basis=Mailbox.LEGAL_BASIS_OBLIGATION
        )
    )
    service.act_as(service.parties.name_of(identifier))
    for act in (
        service.mailboxes.CloseMailbox(mailboxes_pb2.CloseMailboxRequest(name=created.name)),
        opt_out(service, created.name, ahead(days=3)),
    ):
        with pytest.raises(FailedPrecondition) as refused:
            await act
        assert refused.value.reason == "MAILBOX_OBLIGATORY"


@pytest.mark.parametrize("kind", [Mailbox.KIND_COMPANY, Mailbox.KIND_AUTHORITY])
async def test_companies_and_authorities_have_mailboxes_too_on_the_basis_that_is_said(
    service: Service, kind: mailboxes_pb2.Mailbox.Kind.ValueType
):
    unit, owner = await service.unit(), organisation()
    created = await service.mailboxes.CreateMailbox(
        mailboxes_pb2.CreateMailboxRequest(
            owner=owner,
            kind=kind,
            legal_basis=Mailbox.LEGAL_BASIS_STATUTE,
            legal_basis_reference="571/2016, 5 §",
        )
    )
    sent = await service.messages.SendMessage(request(unit, owner))
    assert sent.recipient.mailbox == created.name
    service.act_as(service.parties.name_of(owner))
    shown = await service.mailboxes.GetMailbox(mailboxes_pb2.GetMailboxRequest(name=created.name))
    assert (shown.kind, shown.unread_count) == (kind, 1)
    assert (shown.legal_basis, shown.legal_basis_reference) == (Mailbox.LEGAL_BASIS_STATUTE, "571/2016, 5 §")
    closed = await service.mailboxes.CloseMailbox(mailboxes_pb2.CloseMailboxRequest(name=created.name))
    assert closed.state == Mailbox.STATE_CLOSED


async def test_what_others_own_is_not_there(service: Service):
    _, mailbox = await service.resident()
    service.act_as(service.parties.name_of(person()))
    for act in (
        service.mailboxes.CloseMailbox(mailboxes_pb2.CloseMailboxRequest(name=mailbox)),
        opt_out(service, mailbox, ahead(days=3)),
    ):
        with pytest.raises(NotFound):
            await act


async def test_a_look_up_answers_in_order_and_refuses_single_codes(service: Service):
    unit = await service.unit()
    (first, _), (second, _) = await service.resident(), await service.resident()
    wrong = NationalIdentifier(scheme=NationalIdentifier.SCHEME_FI_HETU, value="131052-308U")
    service.act_as(service.city)
    results = await look_up(service, unit, first, person(), wrong, second, first)
    assert [one.index for one in results] == [0, 1, 2, 3, 4]
    assert [one.reachable for one in results] == [True, False, False, True, True]
    assert [one.refusal for one in results] == ["", "", "IDENTIFIER_INVALID", "", ""]


async def test_a_look_up_is_on_the_owners_list_and_in_the_audit_record(service: Service):
    unit = await service.unit()
    identifier, mailbox = await service.resident()
    service.act_as(service.city, client="permits")
    await look_up(service, unit, identifier, identifier, person())
    record = await service.database.fetchrow(
        "select method, unit_id, asked, found from audit_record where unit_id = $1", unit.split("/")[1]
    )
    assert record is not None
    assert tuple(record) == ("LookUpMailboxes", unit.split("/")[1], 3, 1)
    service.act_as(service.parties.name_of(identifier))
    accesses = (await service.mailboxes.ListAccesses(mailboxes_pb2.ListAccessesRequest(parent=mailbox))).accesses
    assert [(one.method, one.actor.party, one.actor.client, one.unit) for one in accesses][:-1] == [
        ("LookUpMailboxes", service.city, "clients/permits", unit)
    ]


async def test_a_look_up_may_be_for_any_unit_of_an_organisation_that_has_one(service: Service):
    await service.unit()
    identifier, _ = await service.resident()
    service.act_as(service.city)
    assert [one.reachable for one in await look_up(service, "", identifier, person())] == [True, False]
    count = "select count(*) from audit_record where unit_id is null and asked = 2 and found = 1"
    assert await service.database.fetchval(count) == 1
    service.act_as(service.parties.name_of(person()))
    with pytest.raises(NotFound):
        await look_up(service, "", identifier)


async def test_a_look_up_is_for_units_of_ones_own(service: Service):
    unit = await service.unit()
    identifier, mailbox = await service.resident()
    service.act_as("organisations/aaaaaaaaaaaaaaaaaaaaaaaaaa")
    with pytest.raises(NotFound):
        await look_up(service, unit, identifier)
    service.act_as(service.parties.name_of(identifier))
    accesses = await service.mailboxes.ListAccesses(mailboxes_pb2.ListAccessesRequest(parent=mailbox))
    assert [one.method for one in accesses.accesses] == ["OpenMailbox"]


async def test_ten_thousand_codes_are_looked_up_in_one_call(service: Service):
    unit = await service.unit()
    identifier, _ = await service.resident()
    service.act_as(service.city)
    ytunnus = NationalIdentifier(scheme=NationalIdentifier.SCHEME_FI_YTUNNUS, value="2617416-4")
    results = await look_up(service, unit, *[ytunnus] * 9_999, identifier)
    assert [one.index for one in results if one.reachable] == [9_999]


async def test_an_erased_mailbox_cannot_be_opened_by_anyone(service: Service):
    unit = await service.unit()
    identifier, mailbox = await service.resident()
    service.act_as(service.city)
    sent = await service.messages.SendMessage(request(unit, identifier))
    asked = mailboxes_pb2.EraseMailboxRequest(name=mailbox, justification="decision 7/2026")
    erased = await service.mailboxes.EraseMailbox(asked)
    assert erased.state == Mailbox.STATE_ERASED
    assert (await service.mailboxes.EraseMailbox(asked)).state == Mailbox.STATE_ERASED

    seen = await service.messages.GetMessage(messages_pb2.GetMessageRequest(name=sent.name))
    assert (seen.title, list(seen.bodies), seen.correlation_id) == ("", [], "corr-1")
    mailbox_id = uuid.UUID(mailbox.split("/")[1])
    assert await service.database.fetchval("select data_key from mailbox where mailbox_id = $1", mailbox_id) is None
    reasons = await service.database.fetch("select reason from audit_record where mailbox_id = $1", mailbox_id)
    assert [row["reason"] for row in reasons] == ["decision 7/2026"]

    service.act_as(service.parties.name_of(identifier))
    with pytest.raises(NotFound):
        await service.mailboxes.GetMailbox(mailboxes_pb2.GetMailboxRequest(name=mailbox))
    with pytest.raises(FailedPrecondition) as refused:
        await service.mailboxes.OpenMailbox(mailboxes_pb2.OpenMailboxRequest())
    assert refused.value.reason == "MAILBOX_CLOSED"


async def test_erasing_takes_the_attachments_that_nobody_else_has(service: Service):
    unit = await service.unit()
    (first, mailbox), (second, _) = await service.resident(), await service.resident()
    contents = unique(), unique()
    own, shared = [await upload(service, await reserve(service, content), content) for content in contents]
    for identifier, attachments in ((first, (own, shared)), (second, (shared,))):
        asked = request(unit, identifier)
        for attachment in attachments:
            asked.message.attachments.add(attachment=attachment.name)
        sent = await service.messages.SendMessage(asked)
        if identifier is first:
            erased = sent
    await service.mailboxes.EraseMailbox(mailboxes_pb2.EraseMailboxRequest(name=mailbox, justification="asked for"))

    assert await service.stored(own.name) == []
    assert await download(service, shared.name) == contents[1]
    with pytest.raises(NotFound):
        await service.attachments.GetAttachment(attachments_pb2.GetAttachmentRequest(name=own.name))
    seen = await service.messages.GetMessage(messages_pb2.GetMessageRequest(name=erased.name))
    assert [use.file_name for use in seen.attachments] == ["", "päätös.pdf"]


async def test_a_mailbox_that_is_not_there_cannot_be_erased(service: Service):
    service.act_as(service.city)
    with pytest.raises(NotFound):
        await service.mailboxes.EraseMailbox(
            mailboxes_pb2.EraseMailboxRequest(name=f"mailboxes/{uuid.uuid4()}", justification="x")
        )
