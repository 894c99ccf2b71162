"""The course of a message: its four machines side by side, moved by what happens and by time. Pure rules.

Each function takes a course and returns what it has become; what differs
between the two is what is stored and told. `moved_on` does all that time does,
and may be called at any moment and any number of times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from services.messages import deliveries, legal, lifecycle, paper
from services.messages.deliveries import Delivery
from services.messages.legal import Effect, Fact, Kind, Profile
from services.messages.lifecycle import State
from services.messages.paper import Policy
from services.runtime.errors import FailedPrecondition


@dataclass(frozen=True, kw_only=True)
class Course:
    """Where a message is, on all counts."""

    message_id: UUID
    """Of the letter too: there is one at most."""
    kind: Kind
    profile: Profile
    state: State
    electronic: Delivery | None
    """To a mailbox, here or on another node; None where only a postal address is known."""
    paper: Policy = paper.NEVER
    letter: Delivery | None = None
    effect: Effect = legal.PENDING
    publish_time: datetime | None = None
    release_time: datetime | None = None
    withdraw_time: datetime | None = None
    due_time: datetime | None = None
    rejection: str | None = None
    """Why it was refused after it had been accepted: a documented reason."""
    due_passed: bool = False
    """Whether the due time has passed, and was looked at."""

    @property
    def verifiable(self) -> bool:
        """Whether the content is locked until receipt is confirmed."""
        return self.kind is Kind.VERIFIABLE

    @property
    def seen(self) -> bool:
        """Whether the recipient has done what the due time asks: confirmed a verifiable message, opened another."""
        return self.electronic is not None and self.electronic.open_time is not None

    @property
    def abroad(self) -> bool:
        """Whether the mailbox is on another node."""
        return self.electronic is not None and self.electronic.channel is deliveries.Channel.EXCHANGE

    @property
    def unreachable(self) -> bool:
        """Whether the message could not get into a mailbox."""
        return self.electronic is None or self.electronic.state is deliveries.State.UNREACHABLE

    @property
    def deliveries(self) -> tuple[Delivery, ...]:
        """Those that there are."""
        return tuple(delivery for delivery in (self.electronic, self.letter) if delivery is not None)


def facts(course: Course) -> dict[Fact, datetime]:
    """What happened to a message that its legal effect may rest on."""
    return dict(_facts(course))


def _facts(course: Course) -> Iterator[tuple[Fact, datetime]]:
    known = []
    if (way := course.electronic) is not None:
        known += [
            (Fact.AVAILABLE, way.available_time),
            (Fact.VIEWED, way.open_time),
            (Fact.RECEIPT, way.receipt_time),
        ]
    if (way := course.letter) is not None:
        known += [
            (Fact.POSTED, way.post_time),
            (Fact.PAPER_DEPOSITED, way.deposit_time),
            (Fact.PAPER_RECEIPT, way.receipt_time),
            (Fact.PAPER_RETURNED, way.return_time),
        ]
    return ((fact, time) for fact, time in known if time is not None)


def accepted(course: Course, *, reachable: bool, now: datetime) -> Course:
    """A new message: released at once, or waiting for its publish time."""
    lifecycle.check_times(course.publish_time, course.due_time, now=now)
    if lifecycle.accepted(course.publish_time, now=now) is State.SCHEDULED:
        return _judged(replace(course, state=State.SCHEDULED), now=now)
    return moved_on(_released(course, reachable=reachable, now=now), reachable=reachable, now=now)


def waiting(course: Course) -> Course:
    """A new message whose attachments have not all been judged."""
    return replace(course, state=lifecycle.moved(course.state, State.AWAITING_ATTACHMENTS))


def cleared(course: Course, *, reachable: bool, now: datetime) -> Course:
    """A message that had waited, once all of its attachments have been found clean."""
    if course.publish_time is not None and course.publish_time > now:
        return replace(course, state=lifecycle.moved(course.state, State.SCHEDULED))
    return moved_on(_released(course, reachable=reachable, now=now), reachable=reachable, now=now)


def rejected(course: Course, reason: str) -> Course:
    """A message that had waited, once it is refused."""
    return replace(course, state=lifecycle.moved(course.state, State.REJECTED), rejection=reason, effect=legal.NONE)


def received(message_id: UUID, profile: Profile, electronic: Delivery, *, now: datetime) -> Course:
    """A message to a unit: it has arrived when it is available there, which is its receipt."""
    return Course(
        message_id=message_id,
        kind=Kind.ORDINARY,
        profile=profile,
        state=State.RELEASED,
        electronic=deliveries.released(electronic, reachable=True, now=now),
        effect=Effect(legal.State.EFFECTIVE, now, legal.Basis.AVAILABLE),
        release_time=now,
    )


def refused_there(course: Course, reason: str, *, now: datetime) -> Course:
    """A message to a unit on another node, which seemed to have arrived, once that node has refused it.

    One that has been settled otherwise meanwhile stays as it is.
    """
    if course.state is not State.RELEASED or course.electronic is None:
        return course
    way = replace(course.electronic, state=deliveries.State.UNREACHABLE, update_time=now)
    return replace(rejected(course, reason), electronic=way)


def moved_on(course: Course, *, reachable: bool, now: datetime) -> Course:
    """The course after all that has come due by now. `reachable`: whether the mailbox takes messages at this moment."""
    if course.state is State.SCHEDULED and course.publish_time is not None and course.publish_time <= now:
        course = _released(course, reachable=reachable, now=now)
    if course.release_time is None:
        return course
    if course.due_time is not None and course.due_time <= now and course.withdraw_time is None:
        course = replace(course, due_passed=True)
    course = _unclaimed(course, now=now)
    if (due := paper_due_time(course)) is not None and due <= now:
        course = _on_paper(course, now=now)
    return _judged(course, now=now)


def opened(course: Course, *, actor: bytes, now: datetime) -> Course:
    """The course once the recipient has opened the message. Raises what `deliveries.opened` does."""
    return _seen(course, deliveries.opened, actor=actor, now=now)


def confirmed(course: Course, *, actor: bytes, now: datetime) -> Course:
    """The course once the recipient has confirmed receipt. Raises what `deliveries.confirmed` does."""
    return _seen(course, deliveries.confirmed, actor=actor, now=now)


def heard(course: Course, report: deliveries.Report, *, now: datetime) -> Course:
    """The course once the node that has the mailbox says what became of the message there.

    What is heard late counts from when it happened: a message that was opened
    before its withdrawal arrived has the effect that it had by then.
    """
    if course.electronic is None or course.release_time is None:
        return course
    seen = report.open_time is not None or report.receipt_time is not None
    before, course = course, _unclaimed(course, now=now)
    letter = course.letter and (deliveries.stopped(course.letter, now=now) if seen else course.letter)
    assert course.electronic is not None
    electronic = deliveries.heard(
        course.electronic, report, replaced=letter is not None and letter.goes and seen, now=now
    )
    if electronic == course.electronic:
        return before
    course = replace(course, electronic=electronic, letter=letter)
    if course.withdraw_time is not None and course.effect.state is legal.State.NONE:
        return _judged(replace(course, effect=legal.PENDING), now=_last_seen(electronic) or course.withdraw_time)
    return moved_on(course, reachable=False, now=now)


def _last_seen(delivery: Delivery) -> datetime | None:
    return max((time for time in (delivery.open_time, delivery.receipt_time) if time is not None), default=None)


def withdrawn(course: Course, *, now: datetime) -> Course:
    """The course once the sender has withdrawn the message; withdrawing again changes nothing.

    Raises FailedPrecondition, MESSAGE_STATE, where it was rejected.
    """
    if course.state is State.WITHDRAWN:
        return course
    course = _unclaimed(course, now=now)
    course = replace(
        course,
        state=lifecycle.moved(course.state, State.WITHDRAWN),
        withdraw_time=now,
        electronic=course.electronic and deliveries.withdrawn(course.electronic, now=now),
        letter=course.letter and deliveries.withdrawn(course.letter, now=now),
    )
    return _judged(course, now=now)


# Paper


def paper_due_time(course: Course) -> datetime | None:
    """When the message goes on paper by its policy; None where it does not, or has."""
    if course.letter is not None or course.release_time is None or course.withdraw_time is not None or course.seen:
        return None
    return course.paper.due_time(
        course.profile,
        course.kind,
        facts(course),
        release_time=course.release_time,
        unreachable=course.unreachable,
    )


def sent_on_paper(course: Course, *, now: datetime) -> Course:
    """The course once the sender has the message sent on paper; asking again changes nothing.

    A letter that failed is tried again, whatever the policy: it was never posted.
    Raises FailedPrecondition: MESSAGE_WITHDRAWN; MESSAGE_STATE where the policy
    does not leave it to the sender, the message has been seen or is not
    released yet, or its letter was posted and did not arrive.
    """
    letter = course.letter
    if letter is not None and letter.state in (deliveries.State.RETURNED, deliveries.State.UNRESOLVED):
        raise FailedPrecondition(
            "MESSAGE_STATE", "the letter was posted and did not arrive; send a new message", state=letter.state.name
        )
    if letter is not None and letter.state is not deliveries.State.FAILED:
        return course
    if course.withdraw_time is not None:
        raise FailedPrecondition("MESSAGE_WITHDRAWN", "the message was withdrawn")
    allowed = letter is not None or course.paper.trigger is paper.Trigger.SENDER_DECIDES
    if not allowed or course.release_time is None or course.seen:
        raise FailedPrecondition(
            "MESSAGE_STATE",
            "the policy does not leave paper to the sender, or the message was seen or is not released yet",
            state=course.state.name,
        )
    if letter is not None:
        return _judged(replace(course, letter=deliveries.again(letter, now=now)), now=now)
    return _judged(_on_paper(course, now=now), now=now)


def claimed(course: Course, *, until: datetime, now: datetime) -> Course:
    """The course once a print house claims the letter, which takes the place of what lies in the mailbox.

    A letter that was stopped, or that another print house has, stays as it is.
    """
    course = _unclaimed(course, now=now)
    letter = course.letter
    if letter is None or letter.state is not deliveries.State.QUEUED or deliveries.claimed(letter, now=now):
        return course
    return _replaced(replace(course, letter=deliveries.claim(letter, until=until)), now=now)


def reported(
    course: Course,
    state: deliveries.State,
    *,
    time: datetime,
    now: datetime,
    cost: Decimal | None = None,
    cost_currency: str = "",
) -> Course:
    """The course after a report on its letter. Raises FailedPrecondition, MESSAGE_STATE, where that was stopped."""
    course = _unclaimed(course, now=now)
    if course.letter is None:
        raise FailedPrecondition("MESSAGE_STATE", "the message did not go on paper", state=course.state.name)
    if course.letter.state is deliveries.State.FAILED and (course.seen or course.withdraw_time is not None):
        raise FailedPrecondition(
            "MESSAGE_STATE", "the letter failed, and was stopped before it was tried again", state="FAILED"
        )
    letter = deliveries.reported(course.letter, state, time=time, cost=cost, cost_currency=cost_currency)
    course = replace(course, letter=letter)
    course = _replaced(course, now=now) if letter.goes else _reinstated(course, now=now)
    return _judged(course, now=now)


def _on_paper(course: Course, *, now: datetime) -> Course:
    return replace(course, letter=deliveries.letter(course.message_id, now=now))


def _unclaimed(course: Course, *, now: datetime) -> Course:
    """The course after the end of a claim that came to nothing: what had to leave the letter alone is done now."""
    letter = course.letter
    if letter is None or letter.state is not deliveries.State.QUEUED or letter.claim_end_time is None:
        return course
    if deliveries.claimed(letter, now=now):
        return course
    course = _reinstated(replace(course, letter=deliveries.unclaimed(letter)), now=now)
    assert course.letter is not None
    if course.seen:
        return replace(course, letter=deliveries.stopped(course.letter, now=now))
    if course.withdraw_time is not None:
        return replace(
            course,
            letter=deliveries.withdrawn(course.letter, now=now),
            electronic=course.electronic and deliveries.withdrawn(course.electronic, now=now),
        )
    return course


def _replaced(course: Course, *, now: datetime) -> Course:
    return replace(course, electronic=course.electronic and deliveries.superseded(course.electronic, now=now))


def _reinstated(course: Course, *, now: datetime) -> Course:
    return replace(course, electronic=course.electronic and deliveries.reinstated(course.electronic, now=now))


# Time


def wake_time(course: Course) -> datetime | None:
    """When the course moves by itself; None where nothing is to come."""
    if course.state is State.SCHEDULED:
        return course.publish_time
    if course.release_time is None:
        return None
    times = [legal.wake_time(course.effect, course.profile, course.kind, facts(course)), paper_due_time(course)]
    if course.letter is not None and course.letter.state is deliveries.State.QUEUED:
        times.append(course.letter.claim_end_time)
    if not course.due_passed and course.withdraw_time is None:
        times.append(course.due_time)
    return min((time for time in times if time is not None), default=None)


def _released(course: Course, *, reachable: bool, now: datetime) -> Course:
    return replace(
        course,
        state=lifecycle.moved(course.state, State.RELEASED),
        release_time=now,
        electronic=course.electronic and deliveries.released(course.electronic, reachable=reachable, now=now),
    )


def _seen(course: Course, see: Callable[..., Delivery], *, actor: bytes, now: datetime) -> Course:
    """The course once the recipient has seen the message: a letter that waits stops, one that goes stays."""
    if course.electronic is None:
        raise FailedPrecondition("MESSAGE_STATE", "the message went on paper only", state=course.state.name)
    before, course = course, _unclaimed(course, now=now)
    assert course.electronic is not None
    letter = course.letter and deliveries.stopped(course.letter, now=now)
    electronic = see(
        course.electronic,
        verifiable=course.verifiable,
        replaced=letter is not None and letter.goes,
        actor=actor,
        now=now,
    )
    if electronic is course.electronic:
        return before
    return _judged(replace(course, electronic=electronic, letter=letter), now=now)


def _judged(course: Course, *, now: datetime) -> Course:
    effect = legal.effect(
        course.effect,
        course.profile,
        course.kind,
        facts(course),
        unreachable=course.unreachable,
        withdrawn=course.withdraw_time is not None,
        now=now,
    )
    return course if effect == course.effect else replace(course, effect=effect)
