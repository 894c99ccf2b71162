"""Messages by number, for protocols whose ids are numbers."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from solmu.messages.v1 import numbers_pb2

from services.messages.servicers.numbers import Numbers
from services.runtime.errors import InvalidArgument, NotFound
from tests.integration.messages.conftest import Service
from tests.integration.messages.test_sending import request


async def messages(service: Service, count: int) -> list[str]:
    unit = await service.unit()
    identifier, _ = await service.resident()
    service.act_as(service.city)
    return [(await service.messages.SendMessage(request(unit, identifier, key=str(n)))).name for n in range(count)]


async def numbers(service: Service, *names: str) -> list[int]:
    asked = numbers_pb2.NumberMessagesRequest(names=names)
    return list((await Numbers(database=service.database).NumberMessages(asked)).numbers)


async def find(service: Service, number: int) -> str:
    return (await Numbers(database=service.database).FindMessage(numbers_pb2.FindMessageRequest(number=number))).name


async def test_a_message_keeps_the_number_that_it_was_given(service: Service):
    first, second, third = await messages(service, 3)
    known = await numbers(service, second)
    given = await numbers(service, first, second, third)
    assert given[1] == known[0]
    assert len(set(given)) == 3
    assert [await find(service, number) for number in given] == [first, second, third]


async def test_all_who_ask_at_once_get_the_same_number(service: Service):
    names = await messages(service, 5)
    answers = await asyncio.gather(*(numbers(service, *names) for _ in range(8)))
    assert all(answer == answers[0] for answer in answers)
    assert 0 not in answers[0]


async def test_what_does_not_exist_has_no_number_and_no_number_leads_to_it(service: Service):
    (name,) = await messages(service, 1)
    unit, _, _ = name.partition("/messages/")
    nowhere = f"{unit}/messages/{uuid.uuid4()}"
    assert (await numbers(service, nowhere, name))[0] == 0
    with pytest.raises(InvalidArgument):
        await numbers(service, f"{unit}/messages/{'0' * 36}")
    with pytest.raises(NotFound):
        await find(service, 1 << 62)
