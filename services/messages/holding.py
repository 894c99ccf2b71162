"""Messages that wait until their attachments have been found clean: pure rules."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum

from services.runtime.errors import FailedPrecondition


class State(IntEnum):
    """States of an attachment; numbers as in the contract."""

    RESERVED = 1
    UPLOADED = 2
    SCANNING = 3
    CLEAN = 4
    INFECTED = 5
    SCAN_FAILED = 6
    PURGED = 7


def waits(state: State | None, *, attachment: str) -> bool:
    """Whether a message with this attachment, None where it is not the sender's, has to wait.

    Raises FailedPrecondition: ATTACHMENT_NOT_READY, ATTACHMENT_INFECTED,
    ATTACHMENT_SCAN_FAILED.
    """
    if state is State.INFECTED:
        raise FailedPrecondition("ATTACHMENT_INFECTED", "malware was found in an attachment", attachment=attachment)
    if state is State.SCAN_FAILED:
        raise FailedPrecondition("ATTACHMENT_SCAN_FAILED", "an attachment could not be scanned", attachment=attachment)
    if state not in (State.SCANNING, State.CLEAN):
        raise FailedPrecondition(
            "ATTACHMENT_NOT_READY",
            "an attachment does not exist, is not the sender's, or has not all of its content",
            attachment=attachment,
        )
    return state is State.SCANNING


@dataclass(frozen=True)
class Outcome:
    """What becomes of a message that waited: released, or refused for a documented reason."""

    rejection: str = ""


def settled(states: Collection[State], *, deliverable: bool) -> Outcome | None:
    """What becomes of a message with attachments in these states; None while it has to wait on.

    One bad attachment decides at once. `deliverable`: whether there is a way to
    the recipient now, since the mailbox may have been closed meanwhile.
    """
    if State.INFECTED in states:
        return Outcome("ATTACHMENT_INFECTED")
    if State.SCAN_FAILED in states:
        return Outcome("ATTACHMENT_SCAN_FAILED")
    if any(state is not State.CLEAN for state in states):
        return None
    if not deliverable:
        return Outcome("MAILBOX_NOT_ACTIVE")
    return Outcome()
