"""The working days of each country, as data.

A day is a working day unless it is a Saturday, a Sunday, or one of the
holidays here; those that always fall on a weekend are left out. A change of law
is a new entry with its years: what has been counted once stays countable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

DAY = timedelta(days=1)
FRIDAY, SATURDAY = 4, 5


@dataclass(frozen=True)
class Holiday:
    """A day off, by year."""

    in_year: Callable[[int], date]
    since: int = 0
    """The first year in which it is one."""
    until: int = 9999
    """The last."""


@dataclass(frozen=True)
class Calendar:
    """A country's holidays."""

    source: str
    """What they are taken from."""
    holidays: tuple[Holiday, ...]

    def working(self, day: date) -> bool:
        """Whether it is a working day."""
        return day.weekday() < SATURDAY and day not in _days_off(self, day.year)

    def after(self, instant: datetime, duration: timedelta, *, zone: ZoneInfo) -> datetime:
        """The moment at which that many hours of working days have passed; each counts from midnight to midnight."""
        local = instant.astimezone(zone)
        while True:
            midnight = datetime.combine(local.date() + DAY, time.min, tzinfo=zone)
            left = midnight.astimezone(instant.tzinfo) - instant
            if self.working(local.date()):
                if duration <= left:
                    return instant + duration
                duration -= left
            instant, local = instant + left, midnight


def easter(year: int) -> date:
    """Easter Sunday of the Gregorian calendar (the anonymous algorithm, as Meeus gives it)."""
    century, place = divmod(year, 100)
    leaps, rest = divmod(century, 4)
    moon = (19 * (year % 19) + century - leaps - (century - (century + 8) // 25 + 1) // 3 + 15) % 30
    week = (32 + 2 * rest + 2 * (place // 4) - moon - place % 4) % 7
    month, day = divmod(moon + week - 7 * ((year % 19 + 11 * moon + 22 * week) // 451) + 114, 31)
    return date(year, month, day + 1)


def _fixed(month: int, day: int) -> Callable[[int], date]:
    return lambda year: date(year, month, day)


def _easter(days: int) -> Callable[[int], date]:
    return lambda year: easter(year) + days * DAY


def _first(weekday: int, month: int, day: int) -> Callable[[int], date]:
    """The first such day of the week, from that day of the year on."""

    def in_year(year: int) -> date:
        start = date(year, month, day)
        return start + (weekday - start.weekday()) % 7 * DAY

    return in_year


NEW_YEAR, EPIPHANY, FIRST_OF_MAY = _fixed(1, 1), _fixed(1, 6), _fixed(5, 1)
MAUNDY_THURSDAY, GOOD_FRIDAY, EASTER_MONDAY = _easter(-3), _easter(-2), _easter(1)
ASCENSION, WHIT_MONDAY = _easter(39), _easter(50)
CHRISTMAS_EVE, CHRISTMAS, SAINT_STEPHEN = _fixed(12, 24), _fixed(12, 25), _fixed(12, 26)

FINLAND = Calendar(
    "Act on the Calculation of Statutory Time Limits 150/1930, section 5: holidays, Independence Day, May Day, and the"
    " eves of Christmas and Midsummer",
    (
        Holiday(NEW_YEAR),
        Holiday(EPIPHANY),
        Holiday(GOOD_FRIDAY),
        Holiday(EASTER_MONDAY),
        Holiday(FIRST_OF_MAY),
        Holiday(ASCENSION),
        Holiday(_first(FRIDAY, 6, 19)),  # Midsummer Eve
        Holiday(_fixed(12, 6)),  # Independence Day
        Holiday(CHRISTMAS_EVE),
        Holiday(CHRISTMAS),
        Holiday(SAINT_STEPHEN),
    ),
)

NORWAY = Calendar(
    "Lov om helligdager og helligdagsfred (1995-02-24-12), section 2; lov om 1 og 17 mai (1947-04-26-1)",
    (
        Holiday(NEW_YEAR),
        Holiday(MAUNDY_THURSDAY),
        Holiday(GOOD_FRIDAY),
        Holiday(EASTER_MONDAY),
        Holiday(FIRST_OF_MAY),
        Holiday(_fixed(5, 17)),  # Constitution Day
        Holiday(ASCENSION),
        Holiday(WHIT_MONDAY),
        Holiday(CHRISTMAS),
        Holiday(SAINT_STEPHEN),
    ),
)

DENMARK = Calendar(
    "The holidays of the national church; the Great Day of Prayer until its abolition by lov nr. 214 of 2023",
    (
        Holiday(NEW_YEAR),
        Holiday(MAUNDY_THURSDAY),
        Holiday(GOOD_FRIDAY),
        Holiday(EASTER_MONDAY),
        Holiday(_easter(26), until=2023),  # Great Day of Prayer
        Holiday(ASCENSION),
        Holiday(WHIT_MONDAY),
        Holiday(CHRISTMAS),
        Holiday(SAINT_STEPHEN),
    ),
)

ITALY = Calendar(
    "Legge 260/1949, with the changes since; San Francesco by legge 151/2025",
    (
        Holiday(NEW_YEAR),
        Holiday(EPIPHANY),
        Holiday(EASTER_MONDAY),
        Holiday(_fixed(4, 25)),  # Liberation Day
        Holiday(FIRST_OF_MAY),
        Holiday(_fixed(6, 2)),  # Republic Day
        Holiday(_fixed(8, 15)),  # Assumption
        Holiday(_fixed(10, 4), since=2026),  # San Francesco
        Holiday(_fixed(11, 1)),  # All Saints
        Holiday(_fixed(12, 8)),  # Immaculate Conception
        Holiday(CHRISTMAS),
        Holiday(SAINT_STEPHEN),
    ),
)


@lru_cache(maxsize=64)
def _days_off(calendar: Calendar, year: int) -> frozenset[date]:
    return frozenset(one.in_year(year) for one in calendar.holidays if one.since <= year <= one.until)
