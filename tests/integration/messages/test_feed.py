"""The feed: every event of a unit, in one order, each once, from any cursor on."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import pytest
from solmu.messages.v1 import feed_pb2, inbox_pb2, messages_pb2

from services.messages import housekeeping
from services.messages.feed import KEPT_DAYS, cursor, sequence
from services.runtime.errors import FailedPrecondition, InvalidArgument, NotFound
from tests.integration.messages.conftest import Service
from tests.integration.messages.test_sending import request

PATIENCE = 20


async def page(service: Service, unit: str, **fields) -> feed_pb2.ListEventsResponse:
    return await service.feeds.ListEvents(feed_pb2.ListEventsRequest(parent=unit, **fields))


async def events_of(service: Service, unit: str, count: int) -> list[feed_pb2.Event]:
    found: list[feed_pb2.Event] = []
    async with asyncio.timeout(PATIENCE):
        async with aclosing(service.feeds.StreamEvents(feed_pb2.StreamEventsRequest(parent=unit))) as stream:
            async for event in stream:
                found.append(event)
                if len(found) == count:
                    return found
    raise AssertionError


async def test_a_sender_sees_what_happens(service: Service):
    unit = await service.unit()
    identifier, mailbox = await service.resident()
    service.act_as(service.city)
    sent = await service.messages.SendMessage(request(unit, identifier))
    service.act_as(service.parties.name_of(identifier))
    name = f"{mailbox}/messages/{sent.name.split('/')[3]}"
    await service.inbox.OpenInboxMessage(inbox_pb2.OpenInboxMessageRequest(name=name))
    await service.inbox.OpenInboxMessage(inbox_pb2.OpenInboxMessageRequest(name=name))
    service.act_as(service.city)
    events = await events_of(service, unit, 3)
    assert [event.type for event in events] == ["message.accepted", "delivery.available", "delivery.opened"]
    assert {event.message for event in events} == {sent.name}
    assert {(event.idempotency_key, event.correlation_id) for event in events} == {("decision-1", "corr-1")}
    assert len({event.id for event in events}) == 3


async def test_pages_go_on_from_any_cursor(service: Service):
    unit = await service.unit()
    identifier, _ = await service.resident()
    service.act_as(service.city)
    for number in range(4):
        await service.messages.SendMessage(request(unit, identifier, key=f"k{number}"))
    whole = await events_of(service, unit, 8)
    paged: list[feed_pb2.Event] = []
    at = ""
    while len(paged) < 8:
        answer = await page(service, unit, cursor=at, page_size=3)
        paged += answer.events
        at = answer.next_cursor
    assert [event.id for event in paged] == [event.id for event in whole]
    for position in (0, 3, 7):
        rest = await page(service, unit, cursor=whole[position].cursor)
        assert [event.id for event in rest.events] == [event.id for event in whole[position + 1 :]]
    end = await page(service, unit, cursor=at)
    assert (list(end.events), end.next_cursor) == ([], at)


async def test_types_can_be_chosen_and_the_cursor_still_moves(service: Service):
    unit = await service.unit()
    identifier, _ = await service.resident()
    service.act_as(service.city)
    await service.messages.SendMessage(request(unit, identifier))
    whole = await events_of(service, unit, 2)
    chosen = await page(service, unit, types=["delivery.opened"])
    assert (list(chosen.events), chosen.next_cursor) == ([], whole[-1].cursor)
    of_a_later_release = await page(service, unit, types=["delivery.teleported", "delivery.available"])
    assert [event.type for event in of_a_later_release.events] == ["delivery.available"]


async def test_events_of_a_type_that_nobody_here_knows_go_by_all_ways(service: Service):
    unit = await service.unit()
    identifier, _ = await service.resident()
    service.act_as(service.city)
    await service.messages.SendMessage(request(unit, identifier))
    first, _ = await events_of(service, unit, 2)
    later = feed_pb2.Event(id=first.id, type="delivery.teleported", message=first.message)
    await service.database.execute(
        "update feed_event set type = 'delivery.teleported', event = $3 where unit_id = $1 and sequence = $2",
        unit.split("/")[1],
        sequence(first.cursor, unit=unit.split("/")[1]),
        later.SerializeToString() + b"\xfa\x3e\x01x",  # and a field 1007
    )
    (streamed, _), listed = await events_of(service, unit, 2), (await page(service, unit)).events[0]
    (chosen,) = (await page(service, unit, types=["delivery.teleported"])).events
    assert streamed == listed == chosen
    assert (chosen.type, chosen.id, chosen.message) == ("delivery.teleported", first.id, first.message)


async def test_events_are_kept_for_more_than_sixty_days_and_then_forgotten(service: Service):
    assert KEPT_DAYS >= 60
    unit = await service.unit()
    identifier, _ = await service.resident()
    service.act_as(service.city)
    await service.messages.SendMessage(request(unit, identifier))
    old, young = await events_of(service, unit, 2)
    now = datetime.now(UTC)
    for event, days in ((old, KEPT_DAYS + 1), (young, KEPT_DAYS - 1)):
        await service.database.execute(
            "update feed_event set time = $3 where unit_id = $1 and sequence = $2",
            unit.split("/")[1],
            sequence(event.cursor, unit=unit.split("/")[1]),
            now - timedelta(days=days),
        )
    await housekeeping.once(database=service.database, outbox=service.outbox, now=now)
    assert [event.id for event in (await page(service, unit)).events] == [young.id]


async def test_a_cursor_belongs_to_its_unit(service: Service):
    unit, other = await service.unit(), await service.unit()
    for wrong in (cursor(other.split("/")[1], 1), "nonsense", "ä", "AAAA"):
        with pytest.raises(InvalidArgument) as refused:
            await page(service, unit, cursor=wrong)
        assert refused.value.reason == "CURSOR_INVALID"
    service.act_as("organisations/aaaaaaaaaaaaaaaaaaaaaaaaaa")
    with pytest.raises(NotFound):
        await page(service, unit)


async def test_a_gap_is_told_rather_than_passed_over(service: Service):
    unit = await service.unit()
    identifier, _ = await service.resident()
    service.act_as(service.city)
    await service.messages.SendMessage(request(unit, identifier))
    await service.messages.SendMessage(request(unit, identifier, key="k2"))
    whole = await events_of(service, unit, 4)
    await service.database.execute("delete from feed_event where unit_id = $1 and sequence <= 3", unit.split("/")[1])
    with pytest.raises(FailedPrecondition) as refused:
        await page(service, unit, cursor=whole[0].cursor)
    assert refused.value.reason == "CURSOR_EXPIRED"
    again = await page(service, unit, cursor=refused.value.metadata["oldest"])
    assert [event.id for event in again.events] == [whole[3].id]


async def test_places_have_no_gaps_and_no_message_is_overtaken_whoever_writes(service: Service):
    """New messages tell the feed themselves, what becomes of them is told by the outbox: at the same time, here."""
    units = [await service.unit() for _ in range(2)]
    identifier, _ = await service.resident()
    service.act_as(service.city)

    async def send_and_withdraw(unit: str, number: int) -> None:
        sent = await service.messages.SendMessage(request(unit, identifier, key=f"k{number}"))
        await service.messages.WithdrawMessage(messages_pb2.WithdrawMessageRequest(name=sent.name))

    await asyncio.gather(*(send_and_withdraw(unit, number) for number in range(30) for unit in units))
    for unit in units:
        events = await events_of(service, unit, 90)
        assert [sequence(event.cursor, unit=unit.split("/")[1]) for event in events] == list(range(1, 91))
        of_each: dict[str, list[str]] = {}
        for event in events:
            of_each.setdefault(event.message, []).append(event.type)
        assert list(of_each.values()) == [["message.accepted", "delivery.available", "message.withdrawn"]] * 30
