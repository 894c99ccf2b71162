"""When a mailbox takes messages: pure rules."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from uuid import UUID

from services.runtime.errors import FailedPrecondition


class State(IntEnum):
    """States of a mailbox; numbers as in the contract."""

    OPEN = 1
    OPTED_OUT = 2
    CLOSED = 3
    ERASED = 4


@dataclass(frozen=True)
class Mailbox:
    """A mailbox as a message finds it."""

    mailbox_id: UUID
    state: State
    data_key: bytes
    """Under which its content is sealed; wrapped."""
    opt_out_end_time: datetime | None = None

    def reachable(self, *, now: datetime) -> bool:
        """Whether a message would be delivered electronically now. An opt-out ends by itself."""
        if self.state is State.OPTED_OUT:
            return self.opt_out_end_time is not None and self.opt_out_end_time <= now
        return self.state is State.OPEN


def receiving(mailbox: Mailbox | None, *, now: datetime) -> Mailbox:
    """The mailbox, where it takes messages. Raises FailedPrecondition, MAILBOX_NOT_ACTIVE."""
    if mailbox is None or not mailbox.reachable(now=now):
        raise FailedPrecondition("MAILBOX_NOT_ACTIVE", "the recipient has no mailbox that is open")
    return mailbox
