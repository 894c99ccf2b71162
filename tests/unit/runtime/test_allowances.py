"""How many calls a client may make."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime import allowances
from services.runtime.allowances import Allowances
from services.runtime.errors import ResourceExhausted


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.floats(0, 3), max_size=80), st.integers(1, 20), st.integers(1, 20))
def test_never_more_than_burst_and_rate_together(pauses: list[float], rate: int, burst: int):
    clock = Clock()
    buckets = Allowances(rate=rate, burst=burst, clock=clock)
    taken = 0
    for pause in pauses:
        clock.now += pause
        try:
            left = buckets.take("a")
        except ResourceExhausted as refused:
            assert refused.reason == "RATE_LIMITED"
            assert refused.retry_after is not None
            assert 0 < refused.retry_after <= 1 / rate
        else:
            taken += 1
            assert 0 <= left < burst
    assert taken <= burst + rate * (clock.now - 100.0) + 1e-6


def test_who_waits_as_told_is_let_through():
    clock = Clock()
    buckets = Allowances(rate=3, burst=1, clock=clock)
    buckets.take("a")
    with pytest.raises(ResourceExhausted) as refused:
        buckets.take("a")
    assert refused.value.retry_after is not None
    clock.now += refused.value.retry_after + 1e-9
    assert buckets.take("a") == 0


def test_a_clock_that_jumps_back_takes_nothing_away():
    clock = Clock()
    buckets = Allowances(rate=1, burst=2, clock=clock)
    buckets.take("a")
    clock.now -= 50
    assert buckets.take("a") == 0


def test_one_client_does_not_use_up_anothers_calls():
    buckets = Allowances(rate=1, burst=1, clock=Clock())
    buckets.take("a")
    assert buckets.take("b") == 0


def test_a_client_is_told_what_is_left_when_it_runs_low():
    buckets = Allowances(rate=5, burst=10)
    assert buckets.headers(5) == ()
    assert buckets.headers(4) == (("ratelimit-limit", "10"), ("ratelimit-remaining", "4"), ("ratelimit-reset", "2"))


def test_idle_clients_are_forgotten_and_busy_ones_are_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(allowances, "MAX_CLIENTS", 3)
    clock = Clock()
    buckets = Allowances(rate=1, burst=1, clock=clock)
    for client in "abc":
        buckets.take(client)
    clock.now += 0.5
    buckets.take("d")
    with pytest.raises(ResourceExhausted):
        buckets.take("a")
    clock.now += 1
    buckets.take("e")
    assert set(buckets._buckets) == {"e"}
