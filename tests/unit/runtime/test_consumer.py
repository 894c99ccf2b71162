"""What a consumer tells of itself before anything has come."""

from __future__ import annotations

import prometheus_client
import pytest
from nats.aio.client import Client

from services.runtime.consumer import OUTCOMES, Consumer
from services.runtime.telemetry import Telemetry


async def test_what_has_not_happened_yet_is_told_as_none() -> None:
    told = prometheus_client.REGISTRY.get_sample_value
    publisher = "of-a-test"
    assert told("solmu_events_pending", {"publisher": publisher}) is None
    Consumer(
        service="messages",
        publisher=publisher,
        database=None,  # type: ignore[arg-type]  # nothing is read
        nats=Client(),
        handle=lambda *_: pytest.fail("there is no event"),
        telemetry=Telemetry(),
    )
    assert told("solmu_events_pending", {"publisher": publisher}) == 0
    assert {told("solmu_events_handled_total", {"publisher": publisher, "outcome": one}) for one in OUTCOMES} == {0}
