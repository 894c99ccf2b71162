"""What becomes of new messages: reckoned once for all that are accepted alike at one moment.

The course of a new message, the events that tell of it and the answer to its
sender follow from its terms and the moment; ids and content are all that
differs. So they are made once, and filled in for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

from solmu.messages.v1 import events_pb2, feed_pb2, messages_pb2
from solmu.types.v1 import types_pb2

from services.messages import course, deliveries, feed, lifecycle, paper
from services.messages.course import Course, wake_time
from services.messages.deliveries import Delivery
from services.messages.legal import Kind
from services.messages.notifications import rules
from services.messages.paper import Policy
from services.messages.profiles import PROFILES
from services.messages.servicers import courses, names

Message = messages_pb2.Message

MESSAGE, ELECTRONIC = UUID(int=0), UUID(int=1)
"""In place of the ids that differ: of the message and its letter, and of the delivery to its mailbox."""

REMEMBERED = 64
"""Outcomes kept at a time: those of the calls under way."""


class Terms(NamedTuple):
    """What the course of a new message follows from, beside the moment."""

    kind: Kind
    profile: str
    electronic: bool = True
    """Whether it goes to a mailbox; not where only a postal address is known."""
    abroad: bool = False
    """Whether that mailbox is looked for on other nodes."""
    reachable: bool = True
    """Whether the mailbox takes messages."""
    waits: bool = False
    """Whether one of its attachments has not been judged yet."""
    paper: Policy = paper.NEVER
    publish_time: datetime | None = None
    due_time: datetime | None = None


@dataclass(frozen=True)
class Told:
    """An event as it stands in the feed, but for what is of one message only: that is appended, by which it merges."""

    type: str
    channel: int | None
    """Of the delivery that it tells of."""
    event: bytes


@dataclass(frozen=True, eq=False)
class Outcome:
    """What has become of a new message; the ids stand for others."""

    course: Course
    wake_time: datetime | None
    told: Sequence[feed.Payload]
    """Its events."""
    events: Sequence[Told]
    """The same, as they stand in the feed."""
    notices: Sequence[tuple[int, datetime]]
    """What notifications of it are due, and when (notifications/rules.py)."""
    answer: Message
    """What of the answer to the sender is the node's own."""
    now: datetime
    """When it was accepted."""


@lru_cache(maxsize=REMEMBERED)
def accepted(terms: Terms, now: datetime) -> Outcome:
    """What becomes of a message from a unit. Raises what `course.accepted` does."""
    before = Course(
        message_id=MESSAGE,
        kind=terms.kind,
        profile=PROFILES[terms.profile],
        state=lifecycle.State.ACCEPTED,
        electronic=_electronic(terms, now=now),
        paper=terms.paper,
        publish_time=terms.publish_time,
        due_time=terms.due_time,
    )
    after = course.waiting(before) if terms.waits else course.accepted(before, reachable=terms.reachable, now=now)
    about = events_pb2.MessageReference()
    told = [events_pb2.MessageAccepted(reference=about), *courses.told(about, before, after)]
    available = after.electronic is not None and after.electronic.state is deliveries.State.AVAILABLE
    notices = rules.planned(terms.kind, PROFILES[terms.profile], available=now) if available else []
    return _outcome(after, told, notices, direction=Message.DIRECTION_OUTBOUND, now=now)


def received(profile: str, author: types_pb2.Actor, now: datetime) -> Outcome:
    """What becomes of a message to a unit."""
    arrived = course.received(MESSAGE, PROFILES[profile], deliveries.electronic(ELECTRONIC, now=now), now=now)
    told = [events_pb2.InboundReceived(reference=events_pb2.MessageReference(), author=author)]
    return _outcome(arrived, told, [], direction=Message.DIRECTION_INBOUND, now=now)


def _electronic(terms: Terms, *, now: datetime) -> Delivery | None:
    if terms.abroad:
        return deliveries.abroad(ELECTRONIC, now=now)
    return deliveries.electronic(ELECTRONIC, now=now) if terms.electronic else None


def _outcome(
    known: Course,
    told: Sequence[feed.Payload],
    notices: Sequence[tuple[int, datetime]],
    *,
    direction: Message.Direction.ValueType,
    now: datetime,
) -> Outcome:
    answer = Message(
        direction=direction,
        state=int(known.state),  # type: ignore[arg-type]  # numbers as in the contract
        deliveries=[courses.delivery(way) for way in known.deliveries],
        legal_effect=courses.legal_effect(known),
        create_time=names.timestamp(now),
        release_time=names.timestamp(known.release_time),
    )
    events = [_told(feed.event_of(payload, time=now)) for payload in told]
    return Outcome(known, wake_time(known), told, events, notices, answer, now)


def _told(event: feed_pb2.Event) -> Told:
    channel = event.delivery.channel if event.HasField("delivery") else None
    return Told(event.type, channel, event.SerializeToString())
