"""When a mailbox takes messages: pure rules."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import IntEnum
from typing import NamedTuple
from uuid import UUID

from services.runtime.errors import FailedPrecondition, InvalidArgument

MAX_OPT_OUT = timedelta(days=186)
"""The longest time without electronic delivery: half a year, as at Suomi.fi; then it is to be asked for again."""

BIN = timedelta(days=60)
"""How long a message that was thrown away can be taken back, as in Suomi.fi Messages."""


class State(IntEnum):
    """States of a mailbox; numbers as in the contract."""

    OPEN = 1
    OPTED_OUT = 2
    CLOSED = 3
    ERASED = 4


class Closing(IntEnum):
    """Why a mailbox is closed; numbers as in the contract."""

    OWNER = 1
    DEATH = 2
    DISSOLUTION = 3
    DECISION = 4


class Mailbox(NamedTuple):
    """A mailbox as a message finds it."""

    mailbox_id: UUID
    state: State
    data_key: bytes
    """Under which its content is sealed; wrapped."""
    opt_out_end_time: datetime | None = None

    def reachable(self, *, now: datetime, despite_opt_out: bool = False) -> bool:
        """Whether a message would be delivered electronically now. An opt-out ends by itself.

        `despite_opt_out`: it is one that an opt-out does not stop (`legal.Profile`).
        """
        if self.state is State.OPTED_OUT:
            return despite_opt_out or (self.opt_out_end_time is not None and self.opt_out_end_time <= now)
        return self.state is State.OPEN


def receiving(mailbox: Mailbox | None, *, now: datetime, despite_opt_out: bool = False) -> Mailbox:
    """The mailbox, where it takes messages. Raises FailedPrecondition, MAILBOX_NOT_ACTIVE."""
    if mailbox is None or not mailbox.reachable(now=now, despite_opt_out=despite_opt_out):
        raise FailedPrecondition("MAILBOX_NOT_ACTIVE", "the recipient has no mailbox that is open")
    return mailbox


def closed(state: State, *, obligatory: bool) -> State:
    """The state of a mailbox once it is closed. Raises FailedPrecondition, MAILBOX_OBLIGATORY, MAILBOX_CLOSED."""
    return _left(state, State.CLOSED, obligatory=obligatory)


def opted_out(state: State, *, obligatory: bool, end_time: datetime, now: datetime) -> State:
    """The state of a mailbox once its owner has opted out.

    Raises InvalidArgument, TIME_INVALID, for an end that has passed or lies
    more than MAX_OPT_OUT ahead; FailedPrecondition, MAILBOX_OBLIGATORY, and
    MAILBOX_CLOSED where there is no delivery to stop.
    """
    if not now < end_time <= now + MAX_OPT_OUT:
        what = f"is not within {MAX_OPT_OUT.days} days from now"
        raise InvalidArgument("TIME_INVALID", f"end_time {what}", violations=[("end_time", what)], field="end_time")
    if state is State.CLOSED:
        raise FailedPrecondition("MAILBOX_CLOSED", "the mailbox is closed; nothing is delivered to it")
    return _left(state, State.OPTED_OUT, obligatory=obligatory)


def _left(state: State, to: State, *, obligatory: bool) -> State:
    if state is State.ERASED:
        raise FailedPrecondition("MAILBOX_CLOSED", "the mailbox has been erased")
    if obligatory:
        raise FailedPrecondition("MAILBOX_OBLIGATORY", "the owner must have this mailbox by law; it stays open")
    return to
