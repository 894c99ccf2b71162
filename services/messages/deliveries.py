"""What becomes of a message on each way to its recipient: pure rules.

    electronic  QUEUED -> AVAILABLE -> OPENED | RECEIPT_CONFIRMED
                exits UNREACHABLE, SUPERSEDED (by a letter), WITHDRAWN
    paper       QUEUED -> SUBMITTED -> PRINTED -> POSTED (-> DEPOSITED) -> RECEIPT_CONFIRMED | RETURNED | UNRESOLVED
                exits FAILED, from which its sender may have it QUEUED again, as it was never posted;
                SUPERSEDED (by a view) and WITHDRAWN, both from QUEUED only, and not while a print house has claimed it
    exchange    as electronic, by what the node says that has the mailbox (`heard`)

A delivery keeps the time of each thing that happened to it; the first time
counts, however often it happens. When the node heard of it does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import IntEnum
from uuid import UUID

from services.runtime.errors import FailedPrecondition


class Channel(IntEnum):
    """The ways; numbers as in the contract."""

    ELECTRONIC = 1
    PAPER = 2
    EXCHANGE = 3


class State(IntEnum):
    """States of a delivery; numbers as in the contract."""

    QUEUED = 1
    AVAILABLE = 2
    OPENED = 3
    RECEIPT_CONFIRMED = 4
    UNREACHABLE = 5
    SUPERSEDED = 6
    WITHDRAWN = 7
    SUBMITTED = 8
    PRINTED = 9
    POSTED = 10
    RETURNED = 11
    UNRESOLVED = 12
    FAILED = 13
    DEPOSITED = 14


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """One way on which a message goes, with what happened on it."""

    delivery_id: UUID
    channel: Channel
    state: State
    update_time: datetime
    available_time: datetime | None = None
    open_time: datetime | None = None
    receipt_time: datetime | None = None
    post_time: datetime | None = None
    deposit_time: datetime | None = None
    """When its recipient was told that the letter waits to be collected."""
    return_time: datetime | None = None
    actor: bytes | None = None
    """Who opened it or confirmed receipt first, as the store keeps it."""
    claim_end_time: datetime | None = None
    """Until when a print house has claimed the letter."""
    cost: Decimal | None = None
    """What the letter cost, in `cost_currency`."""
    cost_currency: str = ""

    @property
    def goes(self) -> bool:
        """Whether a letter has gone, goes, or may still go."""
        return self.state not in (State.SUPERSEDED, State.WITHDRAWN, State.FAILED)


def electronic(delivery_id: UUID, *, now: datetime) -> Delivery:
    """A delivery to a mailbox, before its message is released."""
    return Delivery(delivery_id=delivery_id, channel=Channel.ELECTRONIC, state=State.QUEUED, update_time=now)


def abroad(delivery_id: UUID, *, now: datetime) -> Delivery:
    """A delivery to a mailbox on another node, before its message is released."""
    return Delivery(delivery_id=delivery_id, channel=Channel.EXCHANGE, state=State.QUEUED, update_time=now)


# Electronic


def released(delivery: Delivery, *, reachable: bool, now: datetime) -> Delivery:
    """The delivery once its message has been released: in the mailbox, unable to get there, or on its way abroad."""
    if delivery.state is not State.QUEUED or delivery.channel is Channel.EXCHANGE:
        return delivery
    if not reachable:
        return replace(delivery, state=State.UNREACHABLE, update_time=now)
    return replace(delivery, state=State.AVAILABLE, update_time=now, available_time=now)


def locked(delivery: Delivery, *, verifiable: bool) -> bool:
    """Whether the content may not be seen before receipt has been confirmed."""
    return verifiable and delivery.receipt_time is None


def opened(delivery: Delivery, *, verifiable: bool, replaced: bool, actor: bytes, now: datetime) -> Delivery:
    """The delivery once it has been opened. Opening again changes nothing: the first time counts.

    What went on paper can be read too, once there is a mailbox; `replaced`,
    where the letter is the delivery and stays it. Raises FailedPrecondition:
    RECEIPT_NOT_CONFIRMED, MESSAGE_WITHDRAWN where it was withdrawn unopened,
    MESSAGE_STATE where it is not in the mailbox.
    """
    if delivery.open_time is not None:
        return delivery
    _in_mailbox(delivery)
    if locked(delivery, verifiable=verifiable):
        raise FailedPrecondition("RECEIPT_NOT_CONFIRMED", "receipt has to be confirmed first")
    return _seen(replace(delivery, open_time=now, actor=actor), replaced=replaced, now=now)


def confirmed(delivery: Delivery, *, verifiable: bool, replaced: bool, actor: bytes, now: datetime) -> Delivery:
    """The delivery once receipt has been confirmed, which opens it. Confirming again changes nothing.

    Raises FailedPrecondition: MESSAGE_STATE where there is no receipt to
    confirm, MESSAGE_WITHDRAWN where it was withdrawn before.
    """
    if not verifiable:
        raise FailedPrecondition("MESSAGE_STATE", "the message asks for no receipt", state=delivery.state.name)
    if delivery.receipt_time is not None:
        return delivery
    _in_mailbox(delivery)
    return _seen(replace(delivery, receipt_time=now, open_time=now, actor=actor), replaced=replaced, now=now)


def reinstated(delivery: Delivery, *, now: datetime) -> Delivery:
    """The delivery once the letter that was to take its place does not go for now."""
    if delivery.open_time is not None:
        return _seen(delivery, replaced=False, now=now)
    if delivery.state is State.SUPERSEDED:
        return replace(delivery, state=State.AVAILABLE, update_time=now)
    return delivery


def _in_mailbox(delivery: Delivery) -> None:
    if delivery.state is State.WITHDRAWN:
        raise FailedPrecondition("MESSAGE_WITHDRAWN", "the sender has withdrawn the message")
    if delivery.state is State.QUEUED:
        raise FailedPrecondition("MESSAGE_STATE", "the message is not available yet", state=delivery.state.name)


def _seen(delivery: Delivery, *, replaced: bool, now: datetime) -> Delivery:
    if replaced:
        return replace(delivery, update_time=now)
    state = State.OPENED if delivery.receipt_time is None else State.RECEIPT_CONFIRMED
    return replace(delivery, state=state, update_time=now, available_time=delivery.available_time or now)


def superseded(delivery: Delivery, *, now: datetime) -> Delivery:
    """The delivery once a letter takes its place; it can still be read."""
    return replace(delivery, state=State.SUPERSEDED, update_time=now) if delivery.state is State.AVAILABLE else delivery


def withdrawn(delivery: Delivery, *, now: datetime) -> Delivery:
    """The delivery once its message is withdrawn: what has not reached the recipient stops, the rest stays.

    An unopened message leaves the mailbox, since it may lie in the wrong one;
    a letter stops unless the print house has it.
    """
    if delivery.state in (State.QUEUED, State.AVAILABLE) and not claimed(delivery, now=now):
        return replace(delivery, state=State.WITHDRAWN, update_time=now)
    return delivery


# Exchange


@dataclass(frozen=True, kw_only=True)
class Report:
    """What another node says of a message to a mailbox there: all that it knows, so that order does not matter."""

    unreachable: bool = False
    available_time: datetime | None = None
    open_time: datetime | None = None
    receipt_time: datetime | None = None
    actor: bytes | None = None
    """Who opened it or confirmed receipt, as the store keeps it."""


def heard(delivery: Delivery, report: Report, *, replaced: bool, now: datetime) -> Delivery:
    """The delivery to a mailbox on another node after a report from there; the first time of each thing counts.

    `replaced`, where a letter is the delivery and stays it. What was withdrawn
    here stays withdrawn, unless it had been opened there before that arrived.
    """
    known = replace(
        delivery,
        available_time=_first(delivery.available_time, report.available_time),
        open_time=_first(delivery.open_time, report.open_time),
        receipt_time=_first(delivery.receipt_time, report.receipt_time),
        actor=delivery.actor or report.actor,
    )
    state = _heard_state(known, report, replaced=replaced)
    return delivery if known == delivery and state is delivery.state else replace(known, state=state, update_time=now)


def _heard_state(known: Delivery, report: Report, *, replaced: bool) -> State:
    if replaced:
        return known.state
    if known.receipt_time is not None:
        return State.RECEIPT_CONFIRMED
    if known.open_time is not None:
        return State.OPENED
    if known.state is State.QUEUED:
        if report.unreachable:
            return State.UNREACHABLE
        return State.QUEUED if known.available_time is None else State.AVAILABLE
    return known.state


def _first(known: datetime | None, said: datetime | None) -> datetime | None:
    return min((time for time in (known, said) if time is not None), default=None)


# Paper

_PROGRESS = (
    State.QUEUED,
    State.SUBMITTED,
    State.PRINTED,
    State.POSTED,
    State.DEPOSITED,
    State.UNRESOLVED,
    State.RETURNED,
    State.RECEIPT_CONFIRMED,
)
"""The states of a letter in the order of what they know: a report of an earlier one changes no later one."""


def letter(delivery_id: UUID, *, now: datetime) -> Delivery:
    """A letter that waits to be printed."""
    return Delivery(delivery_id=delivery_id, channel=Channel.PAPER, state=State.QUEUED, update_time=now)


def again(delivery: Delivery, *, now: datetime) -> Delivery:
    """A letter that could not be printed or posted, once its sender has it tried again: it waits as a new one does."""
    return replace(delivery, state=State.QUEUED, update_time=now, claim_end_time=None)


def claimed(delivery: Delivery, *, now: datetime) -> bool:
    """Whether a print house has the letter, and has not said yet that it prints it."""
    return delivery.claim_end_time is not None and now < delivery.claim_end_time


def claim(delivery: Delivery, *, until: datetime) -> Delivery:
    """A letter that waits, claimed by a print house."""
    return replace(delivery, claim_end_time=until)


def unclaimed(delivery: Delivery) -> Delivery:
    """A letter whose claim has ended without a report: it waits again."""
    return replace(delivery, claim_end_time=None)


def stopped(delivery: Delivery, *, now: datetime) -> Delivery:
    """The letter once the message was seen: it stays where it is unless it still waits."""
    if delivery.channel is not Channel.PAPER or delivery.state is not State.QUEUED or claimed(delivery, now=now):
        return delivery
    return replace(delivery, state=State.SUPERSEDED, update_time=now)


def reported(
    delivery: Delivery, state: State, *, time: datetime, cost: Decimal | None = None, cost_currency: str = ""
) -> Delivery:
    """The letter after a report of the print house, in whatever order reports come.

    Raises FailedPrecondition, MESSAGE_STATE, where the letter had been stopped.
    """
    if delivery.channel is not Channel.PAPER or delivery.state in (State.SUPERSEDED, State.WITHDRAWN):
        raise FailedPrecondition("MESSAGE_STATE", "the letter was stopped before", state=delivery.state.name)
    if cost is not None:
        delivery = replace(delivery, cost=cost, cost_currency=cost_currency)
    known = replace(
        delivery,
        post_time=_first(delivery.post_time, time) if state is State.POSTED else delivery.post_time,
        deposit_time=_first(delivery.deposit_time, time) if state is State.DEPOSITED else delivery.deposit_time,
        receipt_time=_first(delivery.receipt_time, time) if state is State.RECEIPT_CONFIRMED else delivery.receipt_time,
        return_time=_first(delivery.return_time, time) if state is State.RETURNED else delivery.return_time,
    )
    if delivery.state is State.FAILED or _further(state, delivery.state):
        return replace(known, state=state, update_time=time)
    return known


def _further(state: State, than: State) -> bool:
    if state is State.FAILED:
        return than in (State.QUEUED, State.SUBMITTED, State.PRINTED)
    return _PROGRESS.index(state) > _PROGRESS.index(than)
