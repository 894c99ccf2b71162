"""Tells senders that another than its owner closed a mailbox in which messages of theirs lie unopened.

Nothing else becomes of those messages: they are where they were, and have the effect that the law gives them. Whether
one is withdrawn, or sent on paper to the estate, is for its sender to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from solmu.messages.v1 import events_pb2

from services.messages import message_store
from services.messages.course import Course
from services.messages.mailboxes import Closing
from services.messages.servicers import courses
from services.runtime import outbox
from services.runtime.database import Connection, Row
from services.runtime.outbox import Event, Outbox


async def tell(
    transaction: Connection, to: Outbox, mailbox_ids: Sequence[UUID], *, reason: Closing, now: datetime
) -> None:
    """Adds an event for each message in these mailboxes that waits there to be opened."""
    rows = await message_store.waiting_in(transaction, mailbox_ids) if mailbox_ids else []
    known = await courses.of(transaction, rows)
    await to.append(
        transaction, [event(row, course, reason.name, now=now) for row, course in zip(rows, known, strict=True)]
    )


def event(row: Row, course: Course, ground: str, *, now: datetime) -> Event:
    """What the sender of a message in a mailbox is told."""
    assert course.electronic is not None
    told = events_pb2.MailboxClosed(
        reference=courses.reference(row), delivery=courses.delivery(course.electronic), reason=ground
    )
    return outbox.event(told, now=now)
