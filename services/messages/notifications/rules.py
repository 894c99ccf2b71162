"""When a resident is told of a message, and when not: pure rules.

A notification is a courtesy beside the message: nothing of a message's course
or legal effect rests on whether one was sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from enum import IntEnum
from zoneinfo import ZoneInfo

from services.messages import legal


class Channel(IntEnum):
    """How a resident is told; numbers as they are kept."""

    EMAIL = 1
    SMS = 2


class Kind(IntEnum):
    """What a notification is about; numbers as they are kept."""

    NEW = 1
    """A message has come."""
    REMINDER = 2
    """It has not been opened since."""
    CODE = 3
    """The code that confirms contact details."""


RETRIES = (
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=6),
    timedelta(hours=24),
)
"""How long after each try that failed the next one comes; after the last of them there is none."""

CODE_LIFE = timedelta(minutes=30)
"""How long a code can be given: e-mail may take minutes."""

CODE_TRIES = 5
"""Wrong codes before a code is void: 5 guesses at 6 digits succeed once in 200,000 times."""

CODES_A_DAY = 10
"""Changes of contact details per mailbox and day: each sends something to an address that may be anybody's."""


@dataclass(frozen=True)
class QuietHours:
    """Hours of every day in which nothing is sent, in local time; they may span midnight. Equal times: none."""

    start: time
    end: time


USUAL_QUIET_HOURS: Mapping[Channel, QuietHours] = {Channel.SMS: QuietHours(time(20), time(9))}
"""For those who have not said otherwise: an SMS comes between 9 and 20, as Digipost sends them; e-mail at any time."""


def planned(kind: legal.Kind, profile: legal.Profile, *, available: datetime) -> list[tuple[Kind, datetime]]:
    """What is to be sent about a message that has become available, and when; reminders as its profile has them."""
    days = profile.reminder_days.get(kind)
    return [(Kind.NEW, available), *([(Kind.REMINDER, available + timedelta(days=days))] if days else [])]


def wanted(kind: Kind, *, none: bool, no_reminder: bool, unopened: bool) -> bool:
    """Whether a notification that is due is still to be sent: as the sender has it, and while it is news."""
    return unopened and not none and not (kind is Kind.REMINDER and no_reminder)


def allowed(now: datetime, quiet: QuietHours | None, zone: ZoneInfo) -> datetime:
    """The first moment from now on that is not within quiet hours."""
    if quiet is None or quiet.start == quiet.end:
        return now
    local = now.astimezone(zone)
    clock = local.time()
    spans_midnight = quiet.start > quiet.end
    late = clock >= quiet.start
    early = clock < quiet.end
    if not (late or early if spans_midnight else late and early):
        return now
    day = local.date() + timedelta(days=1) if spans_midnight and late else local.date()
    return datetime.combine(day, quiet.end, zone).astimezone(UTC)


def next_try(tries: int, *, now: datetime) -> datetime | None:
    """When to try again after so many tries that failed, the last of them now; None: never."""
    return now + RETRIES[tries - 1] if tries <= len(RETRIES) else None
