"""What every way of telling a resident takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol
from uuid import UUID

from services.messages.notifications.texts import Notice


class Outcome(Enum):
    """What became of one try."""

    SENT = "sent"
    """It was taken over for delivery."""
    REFUSED = "refused"
    """It will not be taken, however often it is tried: the address is wrong."""
    FAILED = "failed"
    """It was not taken this time."""


@dataclass(frozen=True)
class Outgoing:
    """One notification on its way out."""

    notification_id: UUID
    """The same at every try, so that a repeat can be known as one."""
    to: str
    """An e-mail address, or a telephone number as ITU-T E.164 has it."""
    notice: Notice


class Port(Protocol):
    """A way of telling residents."""

    async def send(self, notifications: Sequence[Outgoing]) -> list[Outcome]:
        """Tries each once, and says what became of it, in the same order. Raises nothing for what fails."""
