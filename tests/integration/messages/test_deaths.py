"""Mailboxes of those who have died, and others that somebody else than their owner closes."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from solmu.authorisations.v1.events_pb2 import DeathsChanged, RegisterImported
from solmu.messages.v1 import inbox_pb2, mailboxes_pb2, messages_pb2
from solmu.types.v1.types_pb2 import NationalIdentifier

from services.messages.deaths import Deaths
from services.runtime.errors import FailedPrecondition, NotFound
from services.runtime.jetstream import Received
from tests.integration.messages.conftest import Service, organisation, person
from tests.integration.messages.print_house import policy, read, ways
from tests.integration.messages.test_courses import open_, types_of
from tests.integration.messages.test_feed import events_of
from tests.integration.messages.test_mailboxes import ahead, opt_out
from tests.integration.messages.test_sending import request

Mailbox = mailboxes_pb2.Mailbox
Closing = Mailbox.Closing
RECORD = "registers/population/records/1"


async def hears(service: Service, *said: DeathsChanged.Death) -> None:
    """Has the service hear of deaths, among other events of authorisations."""
    events = [
        Received("authorisations", uuid.uuid4(), event.DESCRIPTOR.full_name, event.SerializeToString(), now(), "")
        for event in (RegisterImported(name="registers/population/imports/1"), DeathsChanged(deaths=said))
    ]
    async with service.database.transaction() as transaction:
        await Deaths(outbox=service.outbox, vault=service.vault).handle(transaction, events)
    service.outbox.wake()


def now() -> datetime:
    return datetime.now(UTC)


def death(service: Service, identifier: NationalIdentifier, record: str = RECORD) -> DeathsChanged.Death:
    return DeathsChanged.Death(person=service.parties.name_of(identifier), record=record)


async def mailbox_of(service: Service, identifier: NationalIdentifier, mailbox: str) -> Mailbox:
    service.act_as(service.parties.name_of(identifier))
    return await service.mailboxes.GetMailbox(mailboxes_pb2.GetMailboxRequest(name=mailbox))


async def discontinue(
    service: Service,
    owner: NationalIdentifier,
    reason: Closing.Reason.ValueType = Closing.REASON_DECISION,
    reference: str = "HEL 2026-001",
) -> Mailbox:
    service.act_as(service.city, client="operator")
    asked = mailboxes_pb2.DiscontinueMailboxRequest(owner=owner, reason=reason, reference=reference)
    return await service.mailboxes.DiscontinueMailbox(asked)


async def refused(attempt: Any) -> str:
    with pytest.raises(FailedPrecondition) as refusal:
        await attempt
    return refusal.value.reason


async def test_a_death_closes_the_mailbox_and_names_the_register_as_its_ground(service: Service):
    unit = await service.unit()
    (identifier, mailbox), (_, other) = await service.resident(), await service.resident()
    service.act_as(service.city)
    await service.messages.SendMessage(request(unit, identifier))
    await hears(service, death(service, identifier))
    closed = await mailbox_of(service, identifier, mailbox)
    assert (closed.state, closed.closing.reason) == (Mailbox.STATE_CLOSED, Closing.REASON_DEATH)
    assert (closed.closing.reference, closed.closing.HasField("time"), closed.unread_count) == (RECORD, True, 1)
    service.act_as(service.city)
    assert await refused(service.messages.SendMessage(request(unit, identifier, key="later"))) == "MAILBOX_NOT_ACTIVE"
    service.act_as(service.parties.name_of(identifier))
    assert await refused(service.mailboxes.OpenMailbox(mailboxes_pb2.OpenMailboxRequest())) == "MAILBOX_CLOSED"
    audited = "select method, actor from audit_record where mailbox_id = $1"
    (noted,) = await service.database.fetch(audited, uuid.UUID(mailbox.split("/")[1]))
    assert tuple(noted) == ("DeathsChanged", b"")
    states = "select state from mailbox where mailbox_id = $1"
    assert await service.database.fetchval(states, uuid.UUID(other.split("/")[1])) == Mailbox.STATE_OPEN


async def test_what_was_to_come_goes_as_its_sender_foresaw_and_what_is_there_stays(service: Service):
    unit = await service.unit()
    identifier, mailbox = await service.resident()
    tomorrow = now() + timedelta(days=1)
    other = await service.unit()
    asked = {key: request(unit, identifier, key=key) for key in ("delivered", "on paper")}
    asked["nowhere"] = request(other, identifier)
    for key, paper in (("on paper", policy()), ("nowhere", None)):
        asked[key].message.publish_time.FromDatetime(tomorrow)
        if paper is not None:
            asked[key].message.paper.CopyFrom(paper)
    service.act_as(service.city)
    sent = {key: await service.messages.SendMessage(each) for key, each in asked.items()}
    await hears(service, death(service, identifier))
    await service.pass_time(tomorrow + timedelta(minutes=1))
    found = {key: ways(await read(service, message)) for key, message in sent.items()}
    assert found == {
        "delivered": {"ELECTRONIC": "AVAILABLE"},
        "on paper": {"ELECTRONIC": "UNREACHABLE", "PAPER": "QUEUED"},
        "nowhere": {"ELECTRONIC": "UNREACHABLE"},
    }
    expected = ["message.accepted", "message.released", "delivery.unreachable"]
    assert await types_of(service, sent["nowhere"], 3) == expected, "its sender hears of it"
    service.act_as(service.parties.name_of(identifier))
    page = await service.inbox.ListInboxMessages(inbox_pb2.ListInboxMessagesRequest(parent=mailbox))
    delivered = sent["delivered"].name.split("/")[3]
    assert f"{mailbox}/messages/{delivered}" in [one.name for one in page.messages]


async def test_a_death_that_no_register_records_any_more_gives_the_mailbox_back_as_it_was(service: Service):
    (identifier, mailbox), (away, hers) = await service.resident(), await service.resident()
    service.act_as(service.parties.name_of(away))
    await opt_out(service, hers, ahead(days=30))
    await hears(service, death(service, identifier), death(service, away))
    await hears(service, death(service, identifier), death(service, identifier, ""), death(service, away, ""))
    opened = await mailbox_of(service, identifier, mailbox)
    assert (opened.state, opened.HasField("closing")) == (Mailbox.STATE_OPEN, False)
    still = await mailbox_of(service, away, hers)
    assert (still.state, still.HasField("opt_out_end_time")) == (Mailbox.STATE_OPTED_OUT, True)


async def test_what_its_owner_or_an_authority_closed_stays_as_they_left_it(service: Service):
    (closed, mailbox), (decided, another) = await service.resident(), await service.resident()
    service.act_as(service.parties.name_of(closed))
    await service.mailboxes.CloseMailbox(mailboxes_pb2.CloseMailboxRequest(name=mailbox))
    await discontinue(service, decided, reason=Closing.REASON_DEATH, reference="certificate of death")
    for record in (RECORD, ""):
        await hears(service, death(service, closed, record), death(service, decided, record))
    assert (await mailbox_of(service, closed, mailbox)).closing.reason == Closing.REASON_OWNER
    kept = await mailbox_of(service, decided, another)
    assert (kept.state, kept.closing.reference) == (Mailbox.STATE_CLOSED, "certificate of death")


async def test_an_authority_closes_a_mailbox_on_a_ground_that_it_names(service: Service):
    identifier, mailbox = await service.resident()
    closed = await discontinue(service, identifier)
    assert (closed.name, closed.state, closed.closing.reason) == (
        mailbox,
        Mailbox.STATE_CLOSED,
        Closing.REASON_DECISION,
    )
    service.act_as(service.parties.name_of(identifier))
    assert await refused(service.mailboxes.OpenMailbox(mailboxes_pb2.OpenMailboxRequest())) == "MAILBOX_CLOSED"
    listed = await service.mailboxes.ListAccesses(mailboxes_pb2.ListAccessesRequest(parent=mailbox))
    assert "DiscontinueMailbox" in [one.method for one in listed.accesses]
    audited = "select reason from audit_record where mailbox_id = $1 and method = 'DiscontinueMailbox'"
    assert await service.database.fetchval(audited, uuid.UUID(mailbox.split("/")[1])) == "HEL 2026-001"
    service.act_as(service.city, client="operator")
    asked = mailboxes_pb2.CreateMailboxRequest(
        owner=identifier, kind=Mailbox.KIND_PERSON, legal_basis=Mailbox.LEGAL_BASIS_STATUTE
    )
    again = await service.mailboxes.CreateMailbox(asked)
    assert (again.name, again.state, again.HasField("closing")) == (mailbox, Mailbox.STATE_OPEN, False)


async def test_a_dissolved_company_loses_a_mailbox_that_it_had_to_have(service: Service):
    company = organisation()
    service.act_as(service.city, client="operator")
    asked = mailboxes_pb2.CreateMailboxRequest(
        owner=company, kind=Mailbox.KIND_COMPANY, legal_basis=Mailbox.LEGAL_BASIS_OBLIGATION
    )
    await service.mailboxes.CreateMailbox(asked)
    closed = await discontinue(service, company, reason=Closing.REASON_DISSOLUTION, reference="trade register")
    assert (closed.state, closed.closing.reason) == (Mailbox.STATE_CLOSED, Closing.REASON_DISSOLUTION)


async def test_what_is_not_there_or_erased_is_not_discontinued(service: Service):
    with pytest.raises(NotFound):
        await discontinue(service, person())
    identifier, mailbox = await service.resident()
    service.act_as(service.city, client="operator")
    await service.mailboxes.EraseMailbox(mailboxes_pb2.EraseMailboxRequest(name=mailbox, justification="decision"))
    assert await refused(discontinue(service, identifier)) == "MAILBOX_CLOSED"


async def test_a_letter_to_one_who_has_died_and_had_no_mailbox_still_goes(service: Service):
    unit, identifier = await service.unit(), person()
    await hears(service, death(service, identifier))
    asked = request(unit, identifier)
    asked.message.paper.CopyFrom(policy())
    service.act_as(service.city)
    message = await service.messages.SendMessage(asked)
    assert ways(message) == {"ELECTRONIC": "UNREACHABLE", "PAPER": "QUEUED"}
    assert message.state == messages_pb2.Message.STATE_RELEASED


async def test_no_mailbox_is_opened_while_a_register_has_the_death_on_record(service: Service):
    identifier, opening = person(), mailboxes_pb2.OpenMailboxRequest()
    await hears(service, death(service, identifier))
    service.act_as(service.parties.name_of(identifier))
    assert await refused(service.mailboxes.OpenMailbox(opening)) == "MAILBOX_CLOSED"
    service.act_as(service.city, client="operator")
    asked = mailboxes_pb2.CreateMailboxRequest(
        owner=identifier, kind=Mailbox.KIND_PERSON, legal_basis=Mailbox.LEGAL_BASIS_STATUTE
    )
    assert await refused(service.mailboxes.CreateMailbox(asked)) == "MAILBOX_CLOSED"
    await hears(service, death(service, identifier, ""))
    service.act_as(service.parties.name_of(identifier))
    assert (await service.mailboxes.OpenMailbox(opening)).state == Mailbox.STATE_OPEN


async def test_what_its_owner_closed_is_not_opened_after_the_owners_death(service: Service):
    (identifier, mailbox), opening = await service.resident(), mailboxes_pb2.OpenMailboxRequest()
    await service.mailboxes.CloseMailbox(mailboxes_pb2.CloseMailboxRequest(name=mailbox))
    await hears(service, death(service, identifier))
    service.act_as(service.parties.name_of(identifier))
    assert await refused(service.mailboxes.OpenMailbox(opening)) == "MAILBOX_CLOSED"
    await hears(service, death(service, identifier, ""))
    kept = await mailbox_of(service, identifier, mailbox)
    assert (kept.state, kept.closing.reason) == (Mailbox.STATE_CLOSED, Closing.REASON_OWNER)
    assert (await service.mailboxes.OpenMailbox(opening)).name == mailbox


async def test_a_mailbox_opened_as_its_owners_death_is_told_is_closed(service: Service):
    identifier = person()
    service.act_as(service.parties.name_of(identifier))
    async with service.database.transaction() as transaction:
        said = DeathsChanged(deaths=[death(service, identifier)])
        event = Received("authorisations", uuid.uuid4(), said.DESCRIPTOR.full_name, said.SerializeToString(), now(), "")
        await Deaths(outbox=service.outbox, vault=service.vault).handle(transaction, [event])
        opening = asyncio.create_task(service.mailboxes.OpenMailbox(mailboxes_pb2.OpenMailboxRequest()))
        waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%into mailbox%'"
        async with asyncio.timeout(60):
            while not await service.database.fetchval(waits):
                await asyncio.sleep(0.01)
    assert await refused(opening) == "MAILBOX_CLOSED"


@pytest.mark.parametrize("ground", ["DEATH", "DECISION"])
async def test_senders_are_told_of_a_closed_mailbox_in_which_their_messages_wait(service: Service, ground: str):
    unit, other = await service.unit(), await service.unit()
    (identifier, mailbox), (neighbour, hers) = await service.resident(), await service.resident()
    service.act_as(service.city)
    waiting = await service.messages.SendMessage(request(unit, identifier, key="waiting"))
    read_before = await service.messages.SendMessage(request(unit, identifier, key="read"))
    await service.messages.SendMessage(request(other, neighbour))
    service.act_as(service.parties.name_of(identifier))
    await open_(service, f"{mailbox}/messages/{read_before.name.split('/')[3]}")
    for _ in range(2):  # said again, it is told once
        if ground == "DEATH":
            await hears(service, death(service, identifier))
        else:
            await discontinue(service, identifier)
    service.act_as(service.city)
    later = await service.messages.SendMessage(request(unit, neighbour, key="later"))
    service.act_as(service.parties.name_of(neighbour))
    await open_(service, f"{hers}/messages/{later.name.split('/')[3]}")
    service.act_as(service.city)
    events = await events_of(service, unit, 9)
    assert (events[-1].type, events[-1].message) == ("delivery.opened", later.name), "all before it has been told"
    told = [event for event in events if event.type == "delivery.mailbox_closed"]
    assert [(event.message, event.reason) for event in told] == [(waiting.name, ground)]
    assert (told[0].idempotency_key, told[0].delivery.state) == ("waiting", messages_pb2.Delivery.STATE_AVAILABLE)
    assert "delivery.mailbox_closed" not in [event.type for event in await events_of(service, other, 2)]
