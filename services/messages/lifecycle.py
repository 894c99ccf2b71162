"""Where a message itself is: pure rules.

    ACCEPTED -> AWAITING_ATTACHMENTS -> SCHEDULED -> RELEASED -> CLOSED

Steps are left out where there is nothing to wait for. REJECTED is reached from
before the release, and after it where another node refuses a message to a unit
there; WITHDRAWN from anywhere but REJECTED and CLOSED, which is where a message
ends whose unit keeps it no longer (`retention.py`). What becomes of a
message on each way to its recipient, and whether it has been served, are other
machines (`deliveries.py`, `legal.py`).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import IntEnum

from services.runtime.errors import FailedPrecondition, InvalidArgument


class State(IntEnum):
    """States of a message; numbers as in the contract."""

    ACCEPTED = 1
    AWAITING_ATTACHMENTS = 2
    SCHEDULED = 3
    RELEASED = 4
    CLOSED = 5
    REJECTED = 6
    WITHDRAWN = 7


FOLLOWING: dict[State, frozenset[State]] = {
    State.ACCEPTED: frozenset(
        {State.AWAITING_ATTACHMENTS, State.SCHEDULED, State.RELEASED, State.REJECTED, State.WITHDRAWN}
    ),
    State.AWAITING_ATTACHMENTS: frozenset({State.SCHEDULED, State.RELEASED, State.REJECTED, State.WITHDRAWN}),
    State.SCHEDULED: frozenset({State.RELEASED, State.WITHDRAWN}),
    State.RELEASED: frozenset({State.CLOSED, State.REJECTED, State.WITHDRAWN}),
    State.CLOSED: frozenset(),
    State.REJECTED: frozenset(),
    State.WITHDRAWN: frozenset(),
}
"""What may follow a state."""

MAX_SCHEDULE = timedelta(days=366)
"""How far ahead a publish time may lie: what is later is a mistake, or belongs into the case system."""

MAX_DUE = timedelta(days=10 * 366)
"""How far ahead a due time may lie."""


def moved(state: State, to: State) -> State:
    """`to`, where it may follow. Raises FailedPrecondition, MESSAGE_STATE."""
    if to not in FOLLOWING[state]:
        raise FailedPrecondition("MESSAGE_STATE", "the state of the message does not allow it", state=state.name)
    return to


def accepted(publish_time: datetime | None, *, now: datetime) -> State:
    """Where a message goes that has nothing to wait for but its publish time."""
    waits = publish_time is not None and publish_time > now
    return moved(State.ACCEPTED, State.SCHEDULED if waits else State.RELEASED)


def check_times(publish_time: datetime | None, due_time: datetime | None, *, now: datetime) -> None:
    """Raises InvalidArgument, TIME_INVALID, for times that contradict each other or lie too far away.

    A publish time that has passed is none: the message is released at once, so
    that a request that was held up on its way is not refused.
    """
    if publish_time is not None and publish_time > now + MAX_SCHEDULE:
        raise _invalid("message.publish_time", f"lies more than {MAX_SCHEDULE.days} days ahead")
    if due_time is None:
        return
    if due_time <= max(now, publish_time or now):
        raise _invalid("message.due_time", "lies before the recipient can have the message")
    if due_time > now + MAX_DUE:
        raise _invalid("message.due_time", f"lies more than {MAX_DUE.days} days ahead")


def _invalid(field: str, what: str) -> InvalidArgument:
    return InvalidArgument("TIME_INVALID", f"{field} {what}", violations=[(field, what)], field=field)
