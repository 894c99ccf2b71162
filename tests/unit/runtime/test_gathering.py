import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from services.runtime import gathering
from services.runtime.gathering import Gathering, in_order


class Halver:
    """Halves numbers; keeps its batches, and waits in each until it is let go."""

    def __init__(self, error: type[Exception] = ValueError) -> None:
        self.batches: list[list[int]] = []
        self.go = asyncio.Event()
        self.error = error

    async def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        await self.go.wait()
        if any(number % 2 for number in numbers):
            raise self.error("odd")
        return [number // 2 for number in numbers]


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_lone_question_goes_at_once():
    halver = Halver()
    halver.go.set()
    assert await Gathering(halver).ask(8) == 4
    assert halver.batches == [[8]]


async def test_what_is_asked_meanwhile_goes_with_the_next_batch():
    halver = Halver()
    gathered = Gathering(halver, most=3)
    asked = [asyncio.create_task(gathered.ask(0))]
    await turns()
    asked += [asyncio.create_task(gathered.ask(number)) for number in (2, 4, 6, 8)]
    await turns()
    assert halver.batches == [[0]]
    halver.go.set()
    assert await asyncio.gather(*asked) == [0, 1, 2, 3, 4]
    assert halver.batches == [[0], [2, 4, 6], [8]]


async def test_one_batch_is_under_way_at_a_time():
    halver = Halver()
    gathered = Gathering(halver, most=1)
    asked = [asyncio.create_task(gathered.ask(number)) for number in (2, 4)]
    await turns()
    assert halver.batches == [[2]]
    halver.go.set()
    assert await asyncio.gather(*asked) == [1, 2]


async def test_a_batch_waits_for_as_many_as_the_one_before_had(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gathering, "LINGER", 600.0)
    monkeypatch.setattr(gathering, "MAX_LINGER", 600.0)
    halver = Halver()
    halver.go.set()
    busy = Gathering(halver)
    await asyncio.gather(busy.ask(2), busy.ask(4))
    first = asyncio.create_task(busy.ask(6))
    await turns()
    assert halver.batches == [[2, 4]]
    assert await asyncio.wait_for(busy.ask(8), 60) == 4
    assert await first == 3
    assert halver.batches == [[2, 4], [6, 8]]


async def test_it_waits_a_little_while_only():
    halver = Halver()
    halver.go.set()
    busy = Gathering(halver)
    await asyncio.gather(busy.ask(2), busy.ask(4))
    assert await asyncio.wait_for(busy.ask(6), 60) == 3
    assert await asyncio.wait_for(busy.ask(8), 60) == 4
    assert halver.batches == [[2, 4], [6], [8]]


async def test_nobody_pays_for_the_fault_of_another():
    halver = Halver()
    halver.go.set()
    gathered = Gathering(halver)
    two, three, four = await asyncio.gather(*(gathered.ask(n) for n in (2, 3, 4)), return_exceptions=True)
    assert (two, four) == (1, 2)
    assert isinstance(three, ValueError)
    assert halver.batches == [[2, 3, 4], [2], [3], [4]]


async def test_a_database_that_is_away_is_not_asked_again_for_each():
    halver = Halver(ConnectionError)
    halver.go.set()
    gathered = Gathering(halver)
    answers = await asyncio.gather(*(gathered.ask(n) for n in (2, 3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [ConnectionError, ConnectionError]
    assert halver.batches == [[2, 3]]


async def test_a_caller_who_has_gone_does_not_keep_others_from_their_answers():
    halver = Halver()
    gathered = Gathering(halver)
    gone, stays = (asyncio.create_task(gathered.ask(number)) for number in (2, 4))
    await turns()
    gone.cancel()
    halver.go.set()
    assert await stays == 2
    assert await gathered.ask(6) == 3


async def test_who_begins_may_go_on_and_look_later():
    halver = Halver()
    halver.go.set()
    begun = Gathering(halver).begin(8)
    await turns()
    assert halver.batches == [[8]]
    assert begun.result() == 4


async def numbers(*values: int, then: Exception | None = None) -> AsyncIterator[int]:
    for value in values:
        yield value
    if then:
        raise then


async def test_a_stream_is_asked_side_by_side_and_answered_in_its_order():
    started: list[int] = []
    last = asyncio.Event()

    async def late_first(number: int) -> int:
        started.append(number)
        if number == 3:
            last.set()
        await last.wait()
        return number * 10

    assert [answer async for answer in in_order(late_first, numbers(1, 2, 3))] == [10, 20, 30]
    assert started == [1, 2, 3]


async def test_a_stream_is_asked_as_much_at_once_as_there_is_room_for():
    under_way: list[int] = []
    most = 0

    async def ask(number: int) -> int:
        nonlocal most
        under_way.append(number)
        most = max(most, sum(under_way))
        await turns()
        under_way.remove(number)
        return number

    asked = (3, 4, 2, 50, 1, 9)
    answers = in_order(ask, numbers(*asked), at_once=10, size=lambda number: number)
    assert [answer async for answer in answers] == list(asked)
    assert most == 50
    most = 0
    assert [answer async for answer in in_order(ask, numbers(3, 4, 2, 9), at_once=10, size=lambda n: n)] == [3, 4, 2, 9]
    assert most == 9


async def test_a_stream_that_breaks_gives_its_answers_first():
    async def same(number: int) -> int:
        return number

    answers = in_order(same, numbers(1, 2, then=LookupError()))
    assert [await anext(answers), await anext(answers)] == [1, 2]
    with pytest.raises(LookupError):
        await anext(answers)


async def test_a_reader_that_leaves_ends_what_is_under_way():
    ended = asyncio.Event()

    async def hang(number: int) -> int:
        if number == 1:
            return number
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return number

    answers = in_order(hang, numbers(1, 2))
    assert await anext(answers) == 1
    await turns()
    await answers.aclose()
    await asyncio.wait_for(ended.wait(), 5)
