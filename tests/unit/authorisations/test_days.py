"""Days become instants once, in the node's time zone."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.authorisations import days
from services.runtime.errors import InvalidArgument

HELSINKI = ZoneInfo("Europe/Helsinki")
ZONES = [ZoneInfo(name) for name in ("Europe/Helsinki", "America/Sao_Paulo", "America/Havana", "Atlantic/Azores")]
DAYS = st.dates(date(1990, 1, 1), date(2060, 1, 1))
NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)


def hours(day: str) -> float:
    period = days.mandate_period(day, day, now=NOW, zone=HELSINKI)
    assert period.end is not None
    return (period.end - period.start).total_seconds() / 3600


def test_a_day_is_as_long_as_the_clock_change_makes_it():
    assert (hours("2026-03-29"), hours("2026-03-30"), hours("2026-10-25")) == (23, 24, 25)


@given(DAYS, st.sampled_from(ZONES))
def test_days_meet_without_gap_or_overlap_and_begin_on_the_day(day: date, zone: ZoneInfo):
    start, next_start = days.first_instant(day, zone), days.first_instant(day + timedelta(days=1), zone)
    assert timedelta(hours=22) < next_start - start < timedelta(hours=26)
    assert start.astimezone(zone).date() == day
    assert (start - timedelta(microseconds=1)).astimezone(zone).date() == day - timedelta(days=1)


def test_without_a_first_day_it_holds_from_now_on():
    period = days.mandate_period("", "2026-03-20", now=NOW, zone=HELSINKI)
    assert (period.start, period.first_day) == (NOW, date(2026, 3, 20))


def test_today_is_that_of_the_zone():
    late = datetime(2026, 3, 20, 23, tzinfo=UTC)  # the 21st in Helsinki
    assert days.mandate_period("2026-03-21", "2026-03-21", now=late, zone=HELSINKI).start == late
    with pytest.raises(InvalidArgument):
        days.mandate_period("2026-03-20", "2026-03-21", now=late, zone=HELSINKI)


@pytest.mark.parametrize(
    ("first", "last", "field"),
    [
        ("2026-03-19", "2026-04-01", "validity.first_day"),
        ("2026-02-30", "2026-04-01", "validity.first_day"),
        ("2026-04-02", "2026-04-01", "validity.last_day"),
        ("", "", "validity.last_day"),
        ("", "2026-13-01", "validity.last_day"),
        ("", "9999-12-31", "validity.last_day"),
    ],
)
def test_a_period_that_cannot_be_is_refused_by_its_field(first: str, last: str, field: str):
    with pytest.raises(InvalidArgument) as refusal:
        days.mandate_period(first, last, now=NOW, zone=HELSINKI)
    assert (refusal.value.reason, refusal.value.metadata) == ("VALIDITY_INVALID", {"field": field})


@pytest.mark.parametrize(
    ("first", "months", "last"),
    [
        (date(2026, 1, 1), 12, date(2026, 12, 31)),
        (date(2026, 1, 31), 1, date(2026, 2, 28)),
        (date(2024, 2, 29), 12, date(2025, 2, 28)),
        (date(2026, 2, 28), 1, date(2026, 3, 27)),
    ],
)
def test_a_term_of_months_ends_the_day_before_or_with_the_month(first: date, months: int, last: date):
    assert days.latest_last_day(first, months) == last


@given(DAYS, st.integers(1, 300))
def test_a_longer_term_ends_later(first: date, months: int):
    assert first <= days.latest_last_day(first, months) < days.latest_last_day(first, months + 1)


def test_an_age_is_reached_with_the_birthday_and_leap_days_in_february():
    assert days.reaches_age(date(2008, 6, 1), 18, HELSINKI) == datetime(2026, 5, 31, 21, tzinfo=UTC)
    assert days.reaches_age(date(2008, 2, 29), 18, HELSINKI) == datetime(2026, 2, 27, 22, tzinfo=UTC)
