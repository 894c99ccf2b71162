"""Whether somebody may write to a unit: pure rules."""

from __future__ import annotations

from datetime import datetime

from services.messages import deliveries
from services.messages.course import Course
from services.runtime.errors import FailedPrecondition


def check_reply(course: Course, *, readers: bool, end_time: datetime | None, now: datetime) -> None:
    """Raises FailedPrecondition where a message takes no reply now.

    `readers` and `end_time` are its reply policy. MESSAGE_WITHDRAWN,
    RECEIPT_NOT_CONFIRMED while the content is locked, REPLY_NOT_ALLOWED.
    """
    if course.withdraw_time is not None:
        raise FailedPrecondition("MESSAGE_WITHDRAWN", "the sender has withdrawn the message")
    if course.electronic is not None and deliveries.locked(course.electronic, verifiable=course.verifiable):
        raise FailedPrecondition("RECEIPT_NOT_CONFIRMED", "receipt has to be confirmed first")
    if not readers:
        raise FailedPrecondition("REPLY_NOT_ALLOWED", "the message takes no replies")
    if end_time is not None and end_time <= now:
        raise FailedPrecondition("REPLY_NOT_ALLOWED", "the time for a reply is over")


def check_new(*, accepts_new_messages: bool) -> None:
    """Raises FailedPrecondition, REPLY_NOT_ALLOWED, where a unit is written to by nobody whom it did not write to."""
    if not accepts_new_messages:
        raise FailedPrecondition("REPLY_NOT_ALLOWED", "the unit takes replies only")
