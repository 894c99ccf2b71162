"""What becomes of a message on its way to a mailbox: pure rules.

Electronic delivery goes QUEUED -> AVAILABLE -> OPENED; see the state machines
in `proto/solmu/messages/v1/messages.proto`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum

from services.runtime.errors import FailedPrecondition


class State(IntEnum):
    """States of a delivery that this release reaches; numbers as in the contract."""

    QUEUED = 1
    AVAILABLE = 2
    OPENED = 3
    WITHDRAWN = 7


@dataclass(frozen=True)
class Delivery:
    """An electronic delivery."""

    state: State
    open_time: datetime | None = None


def opened(delivery: Delivery, *, now: datetime) -> Delivery:
    """The delivery once it has been opened. Opening again changes nothing: the first time counts."""
    if delivery.state is State.OPENED:
        return delivery
    if delivery.state is State.WITHDRAWN:
        raise FailedPrecondition("MESSAGE_WITHDRAWN", "the sender has withdrawn the message")
    if delivery.state is not State.AVAILABLE:
        raise FailedPrecondition("MESSAGE_STATE", "the message is not available yet", state=delivery.state.name)
    return replace(delivery, state=State.OPENED, open_time=now)
