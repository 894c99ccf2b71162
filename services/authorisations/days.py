"""Days, ages and terms: where the calendar becomes instants. Pure rules.

Periods are written in days of the node's time zone and held to in instants,
half-open and computed once. Where the arithmetic of months meets a day that the
month lacks, its last day stands for it (Finland: Act 150/1930, section 3).
"""

from __future__ import annotations

import calendar
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from services.runtime.errors import InvalidArgument


@dataclass(frozen=True, kw_only=True)
class Period:
    """From when until when something holds, as it was written and as it is held to."""

    first_day: date
    last_day: date | None
    start: datetime
    """The first instant at which it holds."""
    end: datetime | None
    """The first at which it holds no longer; None for no end."""


def first_instant(day: date, zone: ZoneInfo) -> datetime:
    """The first instant of a day, in UTC; right where a clock change skips midnight or repeats it."""
    return datetime.combine(day, time(), tzinfo=zone).astimezone(UTC)


def parse(text: str, *, field: str) -> date:
    """A day in ISO 8601. Raises InvalidArgument, VALIDITY_INVALID, for one that the calendar lacks."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidArgument("VALIDITY_INVALID", "there is no such day", field=field) from None


def mandate_period(first_day: str, last_day: str, *, now: datetime, zone: ZoneInfo) -> Period:
    """The period of a new mandate: from a day to come, or from now on, to a last day.

    Raises InvalidArgument, VALIDITY_INVALID.
    """
    today = now.astimezone(zone).date()
    first = parse(first_day, field="validity.first_day") if first_day else today
    if not last_day:
        raise InvalidArgument("VALIDITY_INVALID", "a mandate needs a last day", field="validity.last_day")
    last = parse(last_day, field="validity.last_day")
    if first < today:
        raise InvalidArgument("VALIDITY_INVALID", "the period begins in the past", field="validity.first_day")
    if last < first:
        raise InvalidArgument("VALIDITY_INVALID", "the period is empty", field="validity.last_day")
    start = first_instant(first, zone) if first_day else now
    return Period(
        first_day=first, last_day=last, start=max(start, now) if first == today else start, end=_end(last, zone)
    )


def record_period(first_day: str, last_day: str, *, as_of: datetime, zone: ZoneInfo) -> Period:
    """The period of a register's record: without a first day from `as_of` on, without a last day without end.

    Raises InvalidArgument, VALIDITY_INVALID.
    """
    first = parse(first_day, field="validity.first_day") if first_day else None
    last = parse(last_day, field="validity.last_day") if last_day else None
    start = first_instant(first, zone) if first else as_of
    end = _end(last, zone) if last else None
    if end is not None and end <= start:
        raise InvalidArgument("VALIDITY_INVALID", "the period is empty", field="validity.last_day")
    return Period(first_day=first or as_of.astimezone(zone).date(), last_day=last, start=start, end=end)


def not_before(period: Period, instant: datetime) -> Period:
    """The period, from an instant on where its first day has come. Raises InvalidArgument, VALIDITY_INVALID."""
    if period.end is not None and period.end <= instant:
        raise InvalidArgument("VALIDITY_INVALID", "the period is over", field="validity.last_day")
    return replace(period, start=max(period.start, instant))


def add_months(day: date, months: int) -> date:
    """The same day so many months later, or that month's last day where it lacks it."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return date(year, month + 1, min(day.day, calendar.monthrange(year, month + 1)[1]))


def latest_last_day(first_day: date, months: int) -> date:
    """The last day of a term of so many months that begins on a day: 12 from 1 January end on 31 December."""
    corresponding = add_months(first_day, months)
    return corresponding if corresponding.day < first_day.day else corresponding - timedelta(days=1)


@lru_cache(maxsize=65_536)
def reaches_age(birth_day: date, age: int, zone: ZoneInfo) -> datetime:
    """The first instant of a birthday. Who was born on 29 February has it on the 28th in other years."""
    return first_instant(add_months(birth_day, age * 12), zone)


def _end(last_day: date, zone: ZoneInfo) -> datetime:
    try:
        return first_instant(last_day + timedelta(days=1), zone)
    except OverflowError:
        raise InvalidArgument("VALIDITY_INVALID", "the period is too long", field="validity.last_day") from None
