"""When a resident is told of a message, and when not."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.messages import legal
from services.messages.notifications import rules
from services.messages.notifications.rules import Channel, Kind, QuietHours
from services.messages.profiles import PROFILES

FINLAND, NORWAY = PROFILES["fi-2010"], PROFILES["no-2014"]
HELSINKI = ZoneInfo("Europe/Helsinki")
NIGHT = QuietHours(time(21), time(8))
SIESTA = QuietHours(time(13), time(15))
NONE = QuietHours(time(9), time(9))


def local(day: int, hour: int, minute: int = 0, *, month: int = 11) -> datetime:
    return datetime(2026, month, day, hour, minute, tzinfo=HELSINKI).astimezone(UTC)


@pytest.mark.parametrize(
    ("quiet", "now", "allowed"),
    [
        (NIGHT, local(21, 20, 59), local(21, 20, 59)),
        (NIGHT, local(21, 21), local(22, 8)),
        (NIGHT, local(21, 23, 30), local(22, 8)),
        (NIGHT, local(22, 0), local(22, 8)),
        (NIGHT, local(22, 7, 59), local(22, 8)),
        (NIGHT, local(22, 8), local(22, 8)),
        (SIESTA, local(21, 12, 59), local(21, 12, 59)),
        (SIESTA, local(21, 14), local(21, 15)),
        (SIESTA, local(21, 15), local(21, 15)),
        (NONE, local(21, 9), local(21, 9)),
        (None, local(21, 3), local(21, 3)),
        # The clock goes forward at 3:00 on 29 March and back at 4:00 on 25 October.
        (NIGHT, local(28, 22, month=3), local(29, 8, month=3)),
        (NIGHT, local(24, 22, month=10), local(25, 8, month=10)),
    ],
)
def test_quiet_hours_put_off_until_their_end(quiet: QuietHours | None, now: datetime, allowed: datetime):
    assert rules.allowed(now, quiet, HELSINKI) == allowed


TIMES = st.times().map(lambda at: at.replace(second=0, microsecond=0))


@given(st.integers(0, 4 * 366 * 24 * 60), TIMES, TIMES)
def test_what_was_put_off_is_sent_within_a_day_and_then_at_once(minutes: int, start: time, end: time):
    now, quiet = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes), QuietHours(start, end)
    allowed = rules.allowed(now, quiet, HELSINKI)
    assert now <= allowed <= now + timedelta(hours=25)
    if allowed > now:
        assert allowed.astimezone(HELSINKI).time() == end or end.hour == 3  # an hour that a day in March does not have


def test_reminders_come_as_late_as_the_kind_of_message_allows():
    now = local(21, 12)
    assert rules.planned(legal.Kind.ORDINARY, FINLAND, available=now) == [
        (Kind.NEW, now),
        (Kind.REMINDER, now + timedelta(days=7)),
    ]
    assert rules.planned(legal.Kind.VERIFIABLE, FINLAND, available=now)[1] == (Kind.REMINDER, now + timedelta(days=3))
    week = (Kind.REMINDER, now + timedelta(days=7))
    for kind in (legal.Kind.ORDINARY, legal.Kind.VERIFIABLE):
        assert rules.planned(kind, NORWAY, available=now)[1] == week, "told once more after a week, by law"
    assert rules.planned(legal.Kind.INFORMATION, FINLAND, available=now) == [(Kind.NEW, now)]


def test_what_is_no_news_or_not_wanted_is_not_sent():
    for kind in (Kind.NEW, Kind.REMINDER):
        assert rules.wanted(kind, none=False, no_reminder=False, unopened=True)
        assert not rules.wanted(kind, none=True, no_reminder=False, unopened=True)
        assert not rules.wanted(kind, none=False, no_reminder=False, unopened=False)
    assert rules.wanted(Kind.NEW, none=False, no_reminder=True, unopened=True)
    assert not rules.wanted(Kind.REMINDER, none=False, no_reminder=True, unopened=True)


def test_tries_come_further_and_further_apart_and_end():
    now = local(21, 12)
    tries = [rules.next_try(number, now=now) for number in range(1, len(rules.RETRIES) + 2)]
    assert tries[-1] is None
    found = [at for at in tries if at is not None]
    assert len(found) == len(rules.RETRIES)
    assert all(earlier < later for earlier, later in pairwise(found))


def test_an_sms_comes_by_day_unless_its_owner_says_otherwise():
    assert rules.USUAL_QUIET_HOURS.keys() == {Channel.SMS}
    assert rules.allowed(local(21, 6), rules.USUAL_QUIET_HOURS[Channel.SMS], HELSINKI) == local(21, 9)
