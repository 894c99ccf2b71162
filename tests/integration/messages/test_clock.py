"""A clock that jumps: nothing moves and nothing is deleted by it, it is told, and it goes on once time can be trusted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import prometheus_client
import pytest
from solmu.messages.v1 import attachments_pb2, messages_pb2

from services.messages import clock, housekeeping
from services.messages.clock import HOLD, Reading
from services.runtime.errors import NotFound
from tests.integration.messages.conftest import Service
from tests.integration.messages.test_attachments import reserve
from tests.integration.messages.test_courses import read, send

Message = messages_pb2.Message
PATIENCE = 30.0
"""Seconds that a few looks at the clock may take."""


class Clocks:
    """The clocks of a machine that is its database's too, to be set and waited for."""

    def __init__(self) -> None:
        self.wrong = timedelta()
        """How far they are from the true time."""
        self.waited = timedelta()
        """Time that has passed besides."""
        self.looks = 0

    async def read(self, _: object) -> Reading:
        self.looks += 1
        running = timedelta(seconds=self.looks) + self.waited
        time = datetime.now(UTC) + self.waited + self.wrong
        return Reading(time, time, running)

    async def looked_at(self) -> None:
        """Waits until what follows from the next look has been done."""
        async with asyncio.timeout(PATIENCE):
            after = self.looks + 2
            while self.looks < after:
                await asyncio.sleep(0.01)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks()
    monkeypatch.setattr(clock, "read", clocks.read)
    for module in (clock, housekeeping):
        monkeypatch.setattr(module, "INTERVAL", 0.02)
    return clocks


@contextlib.asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def held() -> float | None:
    return prometheus_client.REGISTRY.get_sample_value("solmu_clock_held")


async def test_a_message_waits_out_a_clock_that_jumps_and_the_metric_tells(service: Service, clocks: Clocks):
    message, *_ = await send(service, publish_time=datetime.now(UTC) + timedelta(hours=1))
    async with running(clock.run(database=service.database, outbox=service.outbox)):
        await clocks.looked_at()
        assert held() == 0
        clocks.wrong = timedelta(days=1)
        await clocks.looked_at()
        assert ((await read(service, message)).state, held()) == (Message.STATE_SCHEDULED, 1)
        clocks.wrong = timedelta()  # set right: one more jump
        await clocks.looked_at()
        assert held() == 1
        clocks.waited += HOLD + timedelta(minutes=1)
        await clocks.looked_at()
        assert ((await read(service, message)).state, held()) == (Message.STATE_SCHEDULED, 0)
        clocks.waited += timedelta(hours=1)
        await clocks.looked_at()
        assert (await read(service, message)).state == Message.STATE_RELEASED
        clocks.wrong = timedelta(days=1)
        await clocks.looked_at()
        assert held() == 1
    assert held() == 0, "who leads tells, nobody else"


async def test_nothing_is_deleted_by_a_clock_that_jumps(service: Service, clocks: Clocks):
    await service.unit()
    unused = attachments_pb2.GetAttachmentRequest(name=(await reserve(service)).name)
    async with running(housekeeping.run(database=service.database, outbox=service.outbox)):
        await clocks.looked_at()
        clocks.wrong = timedelta(days=2)
        await clocks.looked_at()
        assert await service.attachments.GetAttachment(unused)
        clocks.waited += HOLD
        await clocks.looked_at()
        with pytest.raises(NotFound):
            await service.attachments.GetAttachment(unused)
