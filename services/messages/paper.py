"""When a message goes on paper: pure rules.

There is one letter of a message at most, ever. What it takes the place of, and
what stops it, are matters of the course (`course.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum

from services.messages.legal import Fact, Facts, Kind, Profile
from services.runtime.errors import InvalidArgument

MAX_UNREAD = timedelta(days=366)
"""The longest that a message may wait to be read: what is longer is a mistake, or was meant as a due time."""


class Trigger(IntEnum):
    """What sends a message on paper; numbers as in the contract."""

    NEVER = 1
    IF_UNREACHABLE = 2
    IF_UNREAD = 3
    IF_LAPSED = 4
    SENDER_DECIDES = 5


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A sender's policy for one message."""

    trigger: Trigger
    unread_after: timedelta | None = None
    """How long it may stay unread, with IF_UNREAD."""
    working_hours: bool = False
    """Whether that counts the hours of working days only, by the profile's calendar."""

    @property
    def any(self) -> bool:
        """Whether there is a paper part at all."""
        return self.trigger is not Trigger.NEVER

    def due_time(
        self, profile: Profile, kind: Kind, facts: Facts, *, release_time: datetime, unreachable: bool
    ) -> datetime | None:
        """When the message goes on paper, unless it is seen or withdrawn before; None where time does not send it."""
        if not self.any or self.trigger is Trigger.SENDER_DECIDES:
            return None
        if unreachable:
            return release_time
        available = facts.get(Fact.AVAILABLE)
        if self.trigger is Trigger.IF_LAPSED:
            return profile.lapse_time(kind, facts)
        if self.trigger is not Trigger.IF_UNREAD or self.unread_after is None or available is None:
            return None
        if self.working_hours:
            return profile.calendar.after(available, self.unread_after, zone=profile.zone)
        return available + self.unread_after


NEVER = Policy(trigger=Trigger.NEVER)


def check(policy: Policy, *, kind: Kind, profile: Profile) -> None:
    """Raises InvalidArgument for a policy that could never do what it says.

    FIELD_INVALID: a time without IF_UNREAD or none with it, IF_LAPSED for what
    cannot lapse; TIME_INVALID: a time that is not within MAX_UNREAD.
    """
    if (policy.trigger is Trigger.IF_UNREAD) != (policy.unread_after is not None):
        raise _invalid("message.paper.unread_after", "is given with TRIGGER_IF_UNREAD, and with no other trigger")
    if policy.working_hours and policy.trigger is not Trigger.IF_UNREAD:
        raise _invalid("message.paper.working_hours", "is given with TRIGGER_IF_UNREAD, and with no other trigger")
    if policy.unread_after is not None and not timedelta() < policy.unread_after <= MAX_UNREAD:
        field, what = "message.paper.unread_after", f"is not within {MAX_UNREAD.days} days"
        raise InvalidArgument("TIME_INVALID", f"{field} {what}", violations=[(field, what)], field=field)
    if policy.trigger is Trigger.IF_LAPSED and (kind is not Kind.VERIFIABLE or profile.verifiable_lapse_days is None):
        raise _invalid("message.paper.trigger", f"is IF_LAPSED, and under {profile.name} the message cannot lapse")


def _invalid(field: str, what: str) -> InvalidArgument:
    return InvalidArgument("FIELD_INVALID", f"{field} {what}", violations=[(field, what)])
