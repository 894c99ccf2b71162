"""Which readings of the clocks are trusted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.messages.clock import HOLD, Reading, Watch

START = datetime(2026, 3, 2, 12, tzinfo=UTC)
SECOND, DAY = timedelta(seconds=1), timedelta(days=1)


def reading(running: timedelta, *, here: timedelta = timedelta(), database: timedelta = timedelta()) -> Reading:
    """A reading so long after the start, with clocks that are wrong by so much."""
    return Reading(START + running + here, START + running + database, running)


def test_clocks_that_keep_step_are_trusted():
    watch = Watch()
    assert all(watch.trusts(reading(number * SECOND)) for number in range(100))
    assert watch.trusts(reading(5 * DAY)), "however long nobody looked"
    assert watch.trusts(reading(5 * DAY + SECOND, here=20 * SECOND)), "nor are they kept in step to the second"


@pytest.mark.parametrize("jump", [DAY, -DAY, 365 * DAY])
def test_after_a_jump_of_both_clocks_nothing_moves_for_a_while(jump):
    """On one machine the database has the same clock."""
    watch = Watch()
    assert watch.trusts(reading(SECOND))
    jumped = {"here": jump, "database": jump}
    assert not watch.trusts(reading(2 * SECOND, **jumped))
    assert not watch.trusts(reading(HOLD, **jumped))
    assert watch.trusts(reading(2 * SECOND + HOLD, **jumped)), "then it is taken to have been set right"


def test_a_jump_that_is_set_right_in_time_has_moved_nothing():
    watch = Watch()
    assert watch.trusts(reading(SECOND))
    assert not watch.trusts(reading(60 * SECOND, here=DAY, database=DAY))
    assert not watch.trusts(reading(120 * SECOND))
    assert watch.trusts(reading(120 * SECOND + HOLD))


@pytest.mark.parametrize("wrong", [{"here": DAY}, {"database": -DAY}])
def test_as_long_as_the_clocks_disagree_nothing_moves_from_the_start_on(wrong):
    watch = Watch()
    assert not any(watch.trusts(reading(number * 300 * SECOND, **wrong)) for number in range(50))
    assert not watch.trusts(reading(50 * 300 * SECOND))
    assert watch.trusts(reading(50 * 300 * SECOND + HOLD))
