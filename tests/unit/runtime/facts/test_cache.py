"""How new the facts in memory are known to be."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import pytest
from solmu.authorisations.v1.watch_pb2 import WatchRequest, WatchResponse

from services.runtime.errors import FailedPrecondition, Fault, Unavailable
from services.runtime.facts import cache
from services.runtime.facts.cache import OLDEST, FactCache
from services.runtime.facts.table import FactTable
from services.runtime.facts.tokens import token
from services.runtime.server import Tasks
from tests.unit.runtime.facts.facts import COMPANY, FIRM, NOW, PERSON, mandate, question, theme

EPOCH = b"\x01" * 8
Part = WatchResponse


class Link:
    """The facts' origin, whose stream and answers a test lets through one by one, and a clock that it sets."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.newest: str | Fault = token(EPOCH, 1)
        self.asked = 0
        self.requests: list[WatchRequest] = []
        self.parts: asyncio.Queue[WatchResponse | Fault | None] = asyncio.Queue()

    async def watch(self, request: WatchRequest) -> AsyncGenerator[WatchResponse]:
        self.requests.append(request)
        while (part := await self.parts.get()) is not None:
            if isinstance(part, Fault):
                raise part
            yield part

    async def head(self) -> str:
        self.asked += 1
        if isinstance(self.newest, Fault):
            raise self.newest
        return self.newest

    def clock(self) -> float:
        return self.time

    async def settle(self) -> None:
        """Until the newest revision was asked for once more, and everything has been taken."""
        asked = self.asked
        while self.asked < asked + 2 or not self.parts.empty():
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "HEAD_INTERVAL", 0.01)
    monkeypatch.setattr(cache, "RETRY_INTERVAL", 0.01)


@asynccontextmanager
async def following(link: Link) -> AsyncIterator[FactCache]:
    facts = FactCache(source=link, clock=link.clock)
    async with Tasks(asyncio.Event()) as tasks:
        tasks.start(facts.run())
        yield facts


def snapshot(revision: int, *changes: object) -> list[WatchResponse]:
    at = token(EPOCH, revision)
    return [
        Part(kind=Part.KIND_SNAPSHOT, consistency_token=at, changes=[theme(), *changes]),  # type: ignore[list-item]
        Part(kind=Part.KIND_SNAPSHOT_END, consistency_token=at),
    ]


def changes(revision: int, *facts: object, whole: bool = True, after: int | None = None) -> WatchResponse:
    return Part(
        kind=Part.KIND_CHANGES if whole else Part.KIND_CHANGES_PART,
        consistency_token=token(EPOCH, revision),
        previous_consistency_token=token(EPOCH, revision - 1 if after is None else after),
        changes=facts,  # type: ignore[arg-type]
    )


def tell(link: Link, *parts: WatchResponse | Fault | None) -> None:
    for part in parts:
        link.parts.put_nowait(part)


def allowed(facts: FactTable | None, principal: str = COMPANY) -> bool:
    assert facts is not None
    verdict = facts.judge(question(principal=principal), now=NOW)
    assert not isinstance(verdict, Fault)
    return verdict.allowed


async def test_facts_are_as_new_as_the_moment_at_which_the_newest_revision_was_asked_for():
    link = Link()
    async with following(link) as facts:
        assert facts.current() is None
        tell(link, *snapshot(1, mandate(PERSON, COMPANY)))
        await link.settle()
        assert allowed(facts.current())
        link.newest = Unavailable("UNAVAILABLE", "cut off")
        await link.settle()
        link.time += OLDEST - 0.001
        assert allowed(facts.current())
        link.time += 0.001
        assert facts.current() is None
        with pytest.raises(Unavailable) as refusal:
            await facts.reach(patience=0.01)
        assert refusal.value.reason == "NOT_FRESH"
        link.newest = token(EPOCH, 1)
        await link.settle()
        assert allowed(facts.current())


async def test_a_stream_that_is_held_up_makes_facts_old_though_the_origin_answers():
    link = Link()
    async with following(link) as facts:
        tell(link, *snapshot(1, mandate(PERSON, COMPANY)))
        await link.settle()
        link.newest = token(EPOCH, 2)
        await link.settle()
        link.time += OLDEST
        await link.settle()
        assert facts.current() is None
        tell(link, Part(kind=Part.KIND_HEARTBEAT, consistency_token=token(EPOCH, 1)))
        await link.settle()
        assert facts.current() is None, "a heartbeat that was held up says nothing of now"
        tell(link, changes(2))
        await link.settle()
        assert allowed(facts.current())


async def test_a_revision_is_waited_for_and_one_that_was_never_given_is_refused():
    link = Link()
    async with following(link) as facts:
        tell(link, *snapshot(1))
        await link.settle()
        link.newest = token(EPOCH, 2)
        waiting = asyncio.create_task(facts.reach(link.newest, patience=5))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        tell(link, changes(2, mandate(PERSON, COMPANY)))
        assert allowed(await waiting)
        for wrong in (token(EPOCH, 3), token(b"\x02" * 8, 1), "nonsense"):
            with pytest.raises(Fault) as refusal:
                await facts.reach(wrong, patience=5)
            assert refusal.value.reason == "CONSISTENCY_TOKEN_UNKNOWN"


async def test_a_large_transaction_takes_effect_at_its_end():
    link = Link()
    async with following(link) as facts:
        tell(link, *snapshot(1), changes(2, mandate(PERSON, COMPANY), whole=False))
        await link.settle()
        assert facts.current() is None, "half of a transaction is no revision"
        tell(link, changes(2, mandate(PERSON, FIRM)))
        link.newest = token(EPOCH, 2)
        await link.settle()
        assert allowed(facts.current())
        assert allowed(facts.current(), FIRM)


async def test_half_of_a_large_transaction_is_not_kept_when_the_stream_ends():
    link = Link()
    async with following(link) as facts:
        tell(link, *snapshot(1), changes(2, mandate(PERSON, COMPANY), whole=False), None)
        await link.settle()
        assert not link.requests[-1].after_consistency_token
        assert facts.current() is None
        tell(link, *snapshot(1))
        await link.settle()
        assert not allowed(facts.current())


async def test_after_a_gap_or_an_end_the_stream_goes_on_from_the_last_revision():
    link = Link()
    async with following(link) as facts:
        tell(link, *snapshot(1), changes(4, mandate(PERSON, COMPANY), after=3))
        await link.settle()
        assert facts.position == token(EPOCH, 1)
        tell(link, changes(2), Unavailable("UNAVAILABLE", "cut off"))
        await link.settle()
        tell(link, None)
        await link.settle()
        positions = [request.after_consistency_token for request in link.requests]
        assert positions == ["", token(EPOCH, 1), token(EPOCH, 2), token(EPOCH, 2)]


async def test_where_the_position_is_gone_a_snapshot_replaces_everything():
    link = Link()
    async with following(link) as facts:
        tell(link, *snapshot(1, mandate(PERSON, COMPANY)), FailedPrecondition("WATCH_POSITION_GONE", "gone"))
        await link.settle()
        tell(link, *snapshot(9, mandate(PERSON, FIRM)))
        link.newest = token(EPOCH, 9)
        await link.settle()
        assert not link.requests[-1].after_consistency_token
        assert not allowed(facts.current())
        assert allowed(facts.current(), FIRM)


async def test_a_node_that_was_restored_has_other_facts_and_the_old_ones_judge_nothing():
    link = Link()
    async with following(link) as facts:
        tell(link, *snapshot(5, mandate(PERSON, COMPANY)))
        link.newest = token(EPOCH, 5)
        await link.settle()
        link.newest = token(b"\x00" * 8, 3)
        await link.settle()
        link.time += OLDEST
        await link.settle()
        assert facts.current() is None
