"""When and why a message counts as served: pure rules.

The effect is the earliest of what the profile's rules make of what happened,
by when it happened and not by when the node heard of it. Later evidence moves
it earlier (`legal.corrected`), never later. The rules themselves are data
(`profiles.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime, time, timedelta
from enum import Enum, IntEnum
from zoneinfo import ZoneInfo

from services.messages.calendars import Calendar


class Kind(IntEnum):
    """What a message is to its recipient; numbers as in the contract."""

    ORDINARY = 1
    VERIFIABLE = 2
    INFORMATION = 3


class State(IntEnum):
    """States of the effect; numbers as in the contract."""

    PENDING = 1
    EFFECTIVE = 2
    LAPSED = 3
    NONE = 4


class Basis(IntEnum):
    """Why a message counts as served; numbers as in the contract."""

    NOT_SERVED = 0
    RECEIPT = 1
    VIEWED = 2
    THIRD_DAY = 3
    AVAILABLE = 4
    PAPER_DEEMED = 5
    PAPER_RECEIPT = 6
    TERM = 7


class Fact(Enum):
    """What can happen to a message that a rule may rest on."""

    AVAILABLE = "available in the mailbox"
    VIEWED = "opened"
    RECEIPT = "receipt confirmed by the recipient"
    POSTED = "letter posted"
    PAPER_DEPOSITED = "letter waits to be collected, and its recipient was told"
    PAPER_RECEIPT = "letter receipted"
    PAPER_RETURNED = "letter came back"


Facts = Mapping[Fact, datetime]
"""When each thing first happened."""


@dataclass(frozen=True)
class Rule:
    """A fact, and after how many days it makes a message served, on which basis.

    0 days: at the instant of the fact. Else at the beginning of that day, the
    day of the fact not counted, in the profile's zone.
    """

    fact: Fact
    basis: Basis
    days: int = 0
    day_ends: int = 24
    """The hour from which on what happens counts as of the next day."""
    _: KW_ONLY
    source: str
    """Act and section that the rule is taken from."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A country's rules of service in one version. A version never changes once messages were sent under it."""

    name: str
    """Country and year, such as "fi-2010"."""
    zone: ZoneInfo
    """Whose days are counted."""
    calendar: Calendar
    """Which of them are working days."""
    ordinary: tuple[Rule, ...]
    verifiable: tuple[Rule, ...]
    verifiable_lapse_days: int | None = None
    """Days after which a verifiable message without a receipt has to go another way; None: never."""
    information_despite_opt_out: bool = False
    """Whether who has opted out of electronic delivery still gets there what is for information."""
    reminder_days: Mapping[Kind, int] = field(default_factory=lambda: {Kind.ORDINARY: 7, Kind.VERIFIABLE: 3})
    """Days for which a message may stay unopened before its recipient is told again; as in Suomi.fi Messages, where no
    law has them. Messages for information have no reminder."""

    @property
    def country(self) -> str:
        """ISO 3166-1 code of the country whose rules they are."""
        return self.name[:2].upper()

    def rules(self, kind: Kind) -> tuple[Rule, ...]:
        """The rules for a kind of message; information has none."""
        return {Kind.ORDINARY: self.ordinary, Kind.VERIFIABLE: self.verifiable, Kind.INFORMATION: ()}[kind]

    def despite_opt_out(self, kind: Kind) -> bool:
        """Whether a message of this kind goes to the mailbox of one who has opted out."""
        return kind is Kind.INFORMATION and self.information_despite_opt_out

    def day_after(self, instant: datetime, days: int, *, day_ends: int = 24) -> datetime:
        """The beginning of the day that many days after an instant's day, which ends at an hour."""
        local = instant.astimezone(self.zone)
        day = local.date() + timedelta(days=days + (local.hour >= day_ends))
        return datetime.combine(day, time.min, tzinfo=self.zone).astimezone(instant.tzinfo)

    def lapse_time(self, kind: Kind, facts: Facts) -> datetime | None:
        """When a message lapses unless its receipt is confirmed before; None where it cannot."""
        if kind is not Kind.VERIFIABLE or self.verifiable_lapse_days is None or Fact.AVAILABLE not in facts:
            return None
        return self.day_after(facts[Fact.AVAILABLE], self.verifiable_lapse_days + 1)


@dataclass(frozen=True)
class Effect:
    """The legal effect. While it is pending, `time` is when it will come by what is known, where that can be said."""

    state: State
    time: datetime | None = None
    basis: Basis = Basis.NOT_SERVED


PENDING = Effect(State.PENDING)
NONE = Effect(State.NONE)


def effect(
    before: Effect, profile: Profile, kind: Kind, facts: Facts, *, unreachable: bool, withdrawn: bool, now: datetime
) -> Effect:
    """The effect by all that is known now.

    `unreachable` says that the message could not get into a mailbox. What is
    effective stays so, and is never moved later: neither by facts nor by a
    withdrawal. An effect that has not come yet ends with the withdrawal, and
    that of a letter with its return.
    """
    if kind is Kind.INFORMATION:
        return NONE
    earliest = min(_candidates(profile, kind, facts), key=lambda found: found[0], default=None)
    if before.state is State.EFFECTIVE:
        assert before.time is not None
        if earliest is None or earliest[0] >= before.time:
            return before
        return Effect(State.EFFECTIVE, *earliest)
    if earliest is not None and earliest[0] <= now and before.state is not State.NONE:
        return Effect(State.EFFECTIVE, *earliest)
    if withdrawn:
        return NONE
    lapse = profile.lapse_time(kind, facts)
    state = State.LAPSED if unreachable or (lapse is not None and lapse <= now) else State.PENDING
    return Effect(state) if earliest is None else Effect(state, *earliest)


def wake_time(current: Effect, profile: Profile, kind: Kind, facts: Facts) -> datetime | None:
    """When the effect changes by itself; None where only something that happens can change it."""
    if current.state not in (State.PENDING, State.LAPSED):
        return None
    times = [current.time] if current.state is State.LAPSED else [current.time, profile.lapse_time(kind, facts)]
    return min((moment for moment in times if moment is not None), default=None)


def _candidates(profile: Profile, kind: Kind, facts: Facts) -> Iterator[tuple[datetime, Basis]]:
    returned = facts.get(Fact.PAPER_RETURNED)
    for rule in profile.rules(kind):
        if (happened := facts.get(rule.fact)) is None:
            continue
        served = happened if rule.days == 0 else profile.day_after(happened, rule.days, day_ends=rule.day_ends)
        if rule.fact is Fact.POSTED and returned is not None and returned < served:
            continue
        yield served, rule.basis
