"""What was judged in a consumer is delivered once each, and nothing is judged that cannot be."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from solmu.authorisations.v1.checks_pb2 import DECISION_DENIED, RecordChecksRequest

from services.runtime.errors import Unavailable
from services.runtime.facts import recording
from services.runtime.facts.checking import Reason, Verdict
from services.runtime.facts.recording import Recording
from services.runtime.facts.wire import request as asked
from services.runtime.server import Tasks
from tests.unit.runtime.facts.facts import question

DENIED = Verdict(allowed=False, reason=Reason.NO_RIGHT)
POSITION = "0" * 32


class Service:
    """Takes what is delivered while it may, and notes each time that an entry came."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.away = False
        self.loses_answers = False
        self.entries: Counter[str] = Counter()
        self.under_way = self.most_under_way = 0
        self.newest = RecordChecksRequest.JudgedCheck()

    async def record(self, request: RecordChecksRequest) -> None:
        if self.away:
            raise Unavailable("UNAVAILABLE", "away")
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.may.wait()
        finally:
            self.under_way -= 1
        self.entries.update(one.response.audit_record for one in request.checks)
        self.newest = request.checks[-1]
        if self.loses_answers:
            raise Unavailable("UNAVAILABLE", "the answer was lost")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "INTERVAL", 0.01)
    monkeypatch.setattr(recording, "BATCH", 10)
    monkeypatch.setattr(recording, "MOST_WAITING", 50)


@asynccontextmanager
async def delivering(service: Service) -> AsyncIterator[Recording]:
    records = Recording(service.record)
    async with Tasks(asyncio.Event()) as tasks:
        tasks.start(records.run())
        yield records


async def fill(records: Recording, service: Service) -> int:
    """Notes until there is no room and deliveries wait for the service; returns how many."""
    count = 0
    async with asyncio.timeout(20):
        while not records.full or service.under_way < recording.AT_ONCE:
            if records.full:
                await asyncio.sleep(0.001)
            else:
                await records.note(question(), DENIED, POSITION)
                count += 1
    return count


async def test_who_checks_waits_for_room_while_the_service_takes_records():
    service = Service()
    async with delivering(service) as records:
        count = await fill(records, service)
        assert service.most_under_way == recording.AT_ONCE
        waiting = asyncio.create_task(records.room())
        await asyncio.sleep(0)
        assert not waiting.done()
        service.may.set()
        async with asyncio.timeout(20):
            assert await waiting
        await records.note(question(), DENIED, POSITION)
    assert (len(service.entries), set(service.entries.values())) == (count + 1, {1})


async def test_there_is_no_room_while_the_service_is_away(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recording, "PATIENCE", 1e6)
    service = Service()
    service.away = True
    async with delivering(service) as records:
        while not records.full:
            await records.note(question(), DENIED, POSITION)
        async with asyncio.timeout(20):
            assert not await records.room()
            service.away = False
            service.may.set()
            while not await records.room():
                await asyncio.sleep(0.001)


async def test_there_is_no_room_after_a_while_where_the_service_hangs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recording, "PATIENCE", 0.01)
    service = Service()
    async with delivering(service) as records:
        await fill(records, service)
        async with asyncio.timeout(20):
            assert not await records.room()
        service.may.set()


async def test_an_entry_whose_answer_was_lost_comes_again_by_its_name():
    service = Service()
    service.may.set()
    service.loses_answers = True
    async with delivering(service) as records:
        for _ in range(3):
            await records.note(question(), DENIED, POSITION)
        async with asyncio.timeout(20):
            while not service.entries or min(service.entries.values()) < 2:
                await asyncio.sleep(0.001)
        service.loses_answers = False
    assert len(service.entries) == 3


async def test_what_waits_is_delivered_when_the_process_stops(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recording, "INTERVAL", 1e6)
    service = Service()
    service.may.set()
    async with delivering(service) as records:
        await asyncio.sleep(0.01)
        await records.note(question(), DENIED, POSITION)
        assert not service.entries
    assert len(service.entries) == 1
    assert service.newest.check == asked(question())
    assert (service.newest.response.decision, service.newest.response.consistency_token) == (DECISION_DENIED, POSITION)
