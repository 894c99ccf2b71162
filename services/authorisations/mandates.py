"""Mandates, from request to end. Pure rules: a state machine over values.

Every step takes a mandate and returns it as it is afterwards, with what
happened. What follows from the clock alone (upcoming, expired, lapsed) is
computed when it is looked at; nothing has to run for it to be true.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import IntEnum
from uuid import UUID

from services.authorisations import confirming
from services.authorisations.days import Period
from services.runtime.errors import Aborted, FailedPrecondition, PermissionDenied
from services.runtime.facts.rules import Kind

TIME_TO_CONFIRM = timedelta(days=30)
"""How long a request waits for its confirmations before it lapses; never beyond its last day."""


class State(IntEnum):
    """Where a mandate stands; numbered as in the contract."""

    REQUESTED = 1
    PARTLY_CONFIRMED = 2
    UPCOMING = 3
    ACTIVE = 4
    EXPIRED = 5
    REJECTED = 6
    WITHDRAWN = 7
    LAPSED = 8
    REVOKED = 9
    RENOUNCED = 10
    INVALIDATED = 11


WAITING = frozenset({State.REQUESTED, State.PARTLY_CONFIRMED})
HOLDING = frozenset({State.UPCOMING, State.ACTIVE})
COMPUTED = frozenset({State.UPCOMING, State.EXPIRED, State.LAPSED})
"""States that follow from the clock and are never stored."""


class Happening(IntEnum):
    """What happened to a mandate; numbered as in the contract."""

    REQUESTED = 1
    CONFIRMED = 2
    ACTIVATED = 3
    REJECTED = 4
    WITHDRAWN = 5
    LAPSED = 6
    REVOKED = 7
    RENOUNCED = 8
    INVALIDATED = 9
    RENEWED = 10
    EXPIRED = 11


class Cause(IntEnum):
    """Why a mandate ended before its last day; numbered as in the contract."""

    REVOKED = 1
    RENOUNCED = 2
    PRINCIPAL_DIED = 3
    DELEGATE_DIED = 4
    ORGANISATION_ENDED = 5
    DELEGATE_BARRED = 6
    ISSUING_RIGHT_ENDED = 7
    OFFICER = 8


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Who did something, for whom, under which right."""

    party: str
    acting_party: str = ""
    mandate: str = ""
    client: str = ""
    assurance_level: int = 0
    """How surely the person is known, numbered as in the contract; 0 for unknown."""

    @property
    def person(self) -> str:
        """The party whose own right counts: the one who acts, or the caller's party itself."""
        return self.acting_party or self.party


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """One party's confirmation."""

    party: str
    basis: str
    time: datetime
    assurance_level: int = 0


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a mandate ended before its last day, or will: registers may say beforehand until when somebody may give."""

    cause: Cause
    time: datetime
    ended_by: Actor | None = None
    record: str = ""
    proposal: str = ""
    """The decision of two officers."""


@dataclass(frozen=True, kw_only=True)
class Mandate:
    """A right that the principal gives to the delegate, in one theme, for a time."""

    mandate_id: UUID
    kind: Kind
    principal: str
    delegate: str
    theme_id: str
    specifier: str
    period: Period
    stored: State
    """Where it stands but for the clock: ACTIVE from the last confirmation on."""
    rule: confirming.Rule
    confirm_until: datetime
    requested_by: Actor
    group_id: UUID
    create_time: datetime
    update_time: datetime
    confirmations: tuple[Confirmation, ...] = ()
    confirm_time: datetime | None = None
    ending: Ending | None = None
    issued_under: UUID | None = None
    renews: UUID | None = None
    revision: int = 1

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"mandates/{self.mandate_id}"

    @property
    def theme(self) -> str:
        """The resource name of its theme."""
        return f"themes/{self.theme_id}"

    @property
    def etag(self) -> str:
        """What a caller shows to prove that it knows the mandate as it is."""
        return str(self.revision)

    @property
    def end(self) -> datetime:
        """The first instant at which it holds no longer, by its last day."""
        assert self.period.end is not None
        return self.period.end

    @property
    def held(self) -> tuple[datetime, datetime] | None:
        """The instants between which it gives its right, half-open; None where it never did."""
        if self.confirm_time is None:
            return None
        start = max(self.period.start, self.confirm_time)
        return (start, self.last_end) if start < self.last_end else None

    @property
    def last_end(self) -> datetime:
        """The first instant at which it holds no longer, as far as is known."""
        return min(self.end, self.ending.time) if self.ending else self.end

    def state(self, now: datetime) -> State:
        """Where it stands at an instant."""
        if self.stored in WAITING | {State.ACTIVE} and self.ending is not None and now >= self.ending.time:
            return State.INVALIDATED
        if self.stored in WAITING:
            return State.LAPSED if now >= self.confirm_until else self.stored
        if self.stored is not State.ACTIVE:
            return self.stored
        if now >= self.end:
            return State.EXPIRED
        return State.UPCOMING if now < self.period.start else State.ACTIVE

    @property
    def awaited(self) -> frozenset[str]:
        """Those who may still confirm a request."""
        done = {confirmation.party for confirmation in self.confirmations}
        return confirming.parties(self.rule) - done if self.stored in WAITING else frozenset()


@dataclass(frozen=True, kw_only=True)
class Event:
    """One step in the life of a mandate."""

    happening: Happening
    time: datetime
    state: State
    actor: Actor | None = None
    renewed_by: UUID | None = None
    ending: Ending | None = None


Step = tuple[Mandate, tuple[Event, ...]]
"""A mandate after a step, and what happened; nothing where the step changed nothing."""


def requested(
    *,
    mandate_id: UUID,
    kind: Kind,
    principal: str,
    delegate: str,
    theme_id: str,
    specifier: str,
    period: Period,
    rule: confirming.Rule,
    actor: Actor,
    group_id: UUID,
    now: datetime,
    needed_level: int = 0,
    issued_under: UUID | None = None,
    renews: UUID | None = None,
) -> Step:
    """A new mandate, confirmed as far as the actor's own right goes. Raises PermissionDenied, ASSURANCE_TOO_LOW."""
    assert period.end is not None
    fresh = Mandate(
        mandate_id=mandate_id,
        kind=kind,
        principal=principal,
        delegate=delegate,
        theme_id=theme_id,
        specifier=specifier,
        period=period,
        stored=State.REQUESTED,
        rule=rule,
        confirm_until=min(now + TIME_TO_CONFIRM, period.end),
        requested_by=actor,
        group_id=group_id,
        create_time=now,
        update_time=now,
        issued_under=issued_under,
        renews=renews,
    )
    asked = Event(happening=Happening.REQUESTED, time=now, state=State.REQUESTED, actor=actor)
    if actor.person not in confirming.parties(rule) or actor.party == delegate != actor.person:
        return fresh, (asked,)
    confirmed_, events = _with_confirmation(fresh, actor, needed_level, now)
    return replace(confirmed_, revision=1), (asked, *events)


def granted(asked: Mandate, *, actor: Actor, now: datetime) -> Step:
    """A requested mandate that officers give: what the parties applied for on paper stands for every confirmation."""
    fresh = replace(asked, stored=State.ACTIVE, confirm_time=now)
    return fresh, (
        Event(happening=Happening.REQUESTED, time=now, state=State.REQUESTED, actor=asked.requested_by),
        Event(happening=Happening.ACTIVATED, time=now, state=fresh.state(now), actor=actor),
    )


def confirmed(
    mandate: Mandate, *, actor: Actor, etag: str, now: datetime, needed_level: int = 0, still_may: bool = True
) -> Step:
    """The mandate with the actor's confirmation; unchanged where it has it already.

    `needed_level` is how surely a person must be known who confirms, and
    `still_may` whether the right by which the request named it stands. Raises
    PermissionDenied, WRONG_SIDE, ASSURANCE_TOO_LOW; Aborted, ETAG_MISMATCH;
    FailedPrecondition, MANDATE_STATE.
    """
    if any(one.party == actor.person for one in mandate.confirmations):
        return mandate, ()
    if actor.person not in confirming.parties(mandate.rule) or not still_may:
        raise _wrong_side("only those named in its rule confirm a mandate, and only while they may")
    _expect(mandate, WAITING, now)
    _current(mandate, etag)
    return _with_confirmation(mandate, actor, needed_level, now)


def rejected(mandate: Mandate, *, actor: Actor, etag: str, now: datetime) -> Step:
    """The request, refused by one who could confirm it. Raises as `confirmed`."""
    if mandate.stored is State.REJECTED:
        return mandate, ()
    if actor.person not in confirming.parties(mandate.rule):
        raise _wrong_side("only those who could confirm a request refuse it")
    _expect(mandate, WAITING, now)
    _current(mandate, etag)
    return _moved(mandate, State.REJECTED, Happening.REJECTED, actor, now)


def withdrawn(mandate: Mandate, *, actor: Actor, etag: str, now: datetime) -> Step:
    """The request, taken back by the party that made it. Raises as `confirmed`."""
    if actor.party != mandate.requested_by.party:
        raise _wrong_side("only the party that asked for it withdraws a request")
    if mandate.stored is State.WITHDRAWN:
        return mandate, ()
    _expect(mandate, WAITING, now)
    _current(mandate, etag)
    return _moved(mandate, State.WITHDRAWN, Happening.WITHDRAWN, actor, now)


def revoked(mandate: Mandate, *, actor: Actor, entitled: frozenset[str], etag: str, now: datetime) -> Step:
    """The mandate, ended from the principal's side by any one of `entitled` or the principal.

    Who only acts for the principal, by a mandate in some theme, is neither.
    Ending it twice changes nothing. Raises as `confirmed`.
    """
    if actor.person != mandate.principal and actor.person not in entitled:
        raise _wrong_side("only the principal's side revokes a mandate")
    if mandate.stored is State.REVOKED:
        return mandate, ()
    _expect(mandate, HOLDING, now)
    _current(mandate, etag)
    return _ended(mandate, Ending(cause=Cause.REVOKED, time=now, ended_by=actor), now)


def renounced(mandate: Mandate, *, actor: Actor, etag: str, now: datetime) -> Step:
    """The mandate, given up by the delegate itself. Raises as `confirmed`."""
    if actor.person != mandate.delegate:
        raise _wrong_side("only the delegate gives a mandate up")
    if mandate.stored is State.RENOUNCED:
        return mandate, ()
    _expect(mandate, HOLDING, now)
    _current(mandate, etag)
    return _ended(mandate, Ending(cause=Cause.RENOUNCED, time=now, ended_by=actor), now)


def invalidated(mandate: Mandate, *, cause: Cause, record: str, actor: Actor | None, now: datetime) -> Step:
    """The mandate or request, ended by law; unchanged where it has ended already."""
    if mandate.state(now) not in WAITING | HOLDING:
        return mandate, ()
    return _ended(mandate, Ending(cause=cause, time=now, ended_by=actor, record=record), now)


def foreseen(mandate: Mandate, ending: Ending | None, *, now: datetime) -> Mandate:
    """The mandate or request with the ending that the law has for it in time to come; the same where nothing changes.

    None lifts what was foreseen. What ends by itself before is left as it is.
    """
    if ending is not None and ending.time >= mandate.end:
        ending = None
    if mandate.state(now) not in WAITING | HOLDING or ending == mandate.ending:
        return mandate
    return replace(mandate, ending=ending, update_time=now, revision=mandate.revision + 1)


def ended_by_officers(mandate: Mandate, *, cause: Cause, proposal: str, actor: Actor, now: datetime) -> Step:
    """The mandate or request, ended by a decision of two officers. Raises FailedPrecondition, MANDATE_STATE."""
    _expect(mandate, WAITING | HOLDING, now)
    return _ended(mandate, Ending(cause=cause, time=now, ended_by=actor, proposal=proposal), now)


def renewable(mandate: Mandate, *, period: Period, now: datetime) -> None:
    """Whether the mandate can be renewed for a period.

    Raises FailedPrecondition, MANDATE_STATE, where it neither holds nor has
    expired, or the new period begins before its end.
    """
    _expect(mandate, HOLDING | {State.EXPIRED}, now)
    if period.start < mandate.end:
        raise FailedPrecondition(
            "MANDATE_STATE",
            "the new period begins before the mandate ends",
            resource=mandate.name,
            state=mandate.state(now).name,
        )


def renewed(mandate: Mandate, *, by: UUID, actor: Actor, now: datetime) -> Event:
    """That another mandate renews this one, which stays as it is."""
    return Event(happening=Happening.RENEWED, time=now, state=mandate.state(now), actor=actor, renewed_by=by)


def as_of(mandate: Mandate, at: datetime) -> Mandate | None:
    """The mandate as it stood at an instant; None before it was asked for."""
    if at < mandate.create_time:
        return None
    confirmations = tuple(one for one in mandate.confirmations if one.time <= at)
    confirmed_by_then = mandate.confirm_time is not None and mandate.confirm_time <= at
    ended_by_then = mandate.ending is not None and mandate.ending.time <= at
    # What is refused or taken back changes no more: its last change was that.
    closed_by_then = mandate.stored in (State.REJECTED, State.WITHDRAWN) and mandate.update_time <= at
    stored = State.PARTLY_CONFIRMED if confirmations else State.REQUESTED
    if confirmed_by_then:
        stored = State.ACTIVE
    if ended_by_then or closed_by_then:
        stored = mandate.stored
    ending = mandate.ending if ended_by_then else None
    changes = [mandate.create_time, *(one.time for one in confirmations)]
    changes += [ending.time] if ending else [mandate.update_time] if closed_by_then else []
    return replace(
        mandate,
        stored=stored,
        confirmations=confirmations,
        confirm_time=mandate.confirm_time if confirmed_by_then else None,
        ending=ending,
        update_time=max(changes),
    )


def overlaps(mandate: Mandate, others: Sequence[Mandate], *, now: datetime) -> Mandate | None:
    """The mandate among `others` that gives, or would give, the same right at some instant of this one's period."""
    return next(
        (
            other
            for other in others
            if other.state(now) in WAITING | HOLDING
            and other.period.start < mandate.last_end
            and mandate.period.start < other.last_end
        ),
        None,
    )


def history(mandate: Mandate, events: Sequence[Event], *, now: datetime) -> list[Event]:
    """What happened, with what the clock alone did."""
    state = mandate.state(now)
    if state is State.INVALIDATED and mandate.stored is not state and mandate.ending is not None:
        ended = Event(happening=Happening.INVALIDATED, time=mandate.ending.time, state=state, ending=mandate.ending)
        return sorted([*events, ended], key=lambda event: event.time)
    if state is State.LAPSED:
        return [*events, Event(happening=Happening.LAPSED, time=mandate.confirm_until, state=state)]
    if state is State.EXPIRED:
        over = Event(happening=Happening.EXPIRED, time=mandate.end, state=state)
        return sorted([*events, over], key=lambda event: event.time)
    return list(events)


def _with_confirmation(mandate: Mandate, actor: Actor, needed_level: int, now: datetime) -> Step:
    _surely_known(actor, needed_level)
    confirmation = Confirmation(
        party=actor.person,
        basis=confirming.basis_for(mandate.rule, actor.person),
        time=now,
        assurance_level=actor.assurance_level,
    )
    confirmations = (*mandate.confirmations, confirmation)
    whole = confirming.satisfied(mandate.rule, {one.party for one in confirmations}) is not None
    stored = State.ACTIVE if whole else State.PARTLY_CONFIRMED
    fresh = replace(
        mandate,
        stored=stored,
        confirmations=confirmations,
        confirm_time=now if whole else None,
        update_time=now,
        revision=mandate.revision + 1,
    )
    events = [Event(happening=Happening.CONFIRMED, time=now, state=fresh.state(now), actor=actor)]
    if whole:
        events.append(Event(happening=Happening.ACTIVATED, time=now, state=fresh.state(now), actor=actor))
    return fresh, tuple(events)


def _ended(mandate: Mandate, ending: Ending, now: datetime) -> Step:
    stored, happening = {
        Cause.REVOKED: (State.REVOKED, Happening.REVOKED),
        Cause.RENOUNCED: (State.RENOUNCED, Happening.RENOUNCED),
    }.get(ending.cause, (State.INVALIDATED, Happening.INVALIDATED))
    fresh = replace(mandate, stored=stored, ending=ending, update_time=now, revision=mandate.revision + 1)
    return fresh, (Event(happening=happening, time=now, state=stored, actor=ending.ended_by, ending=ending),)


def _moved(mandate: Mandate, state: State, happening: Happening, actor: Actor, now: datetime) -> Step:
    fresh = replace(mandate, stored=state, update_time=now, revision=mandate.revision + 1)
    return fresh, (Event(happening=happening, time=now, state=state, actor=actor),)


def _expect(mandate: Mandate, states: frozenset[State], now: datetime) -> None:
    state = mandate.state(now)
    if state not in states:
        raise FailedPrecondition(
            "MANDATE_STATE", "the mandate's state does not allow this", resource=mandate.name, state=state.name
        )


def _surely_known(actor: Actor, needed_level: int) -> None:
    """Levels are of persons: an organisation's system is known by its certificate."""
    if actor.person.startswith("persons/") and actor.assurance_level < needed_level:
        raise PermissionDenied(
            "ASSURANCE_TOO_LOW",
            "who gives or confirms a mandate in this theme must be known more surely",
            assurance_level=_LEVEL_NAMES[needed_level],
        )


_LEVEL_NAMES = ("", "LOW", "SUBSTANTIAL", "HIGH")


def _current(mandate: Mandate, etag: str) -> None:
    if etag and etag != mandate.etag:
        raise Aborted("ETAG_MISMATCH", "the mandate has changed; read it again", resource=mandate.name)


def _wrong_side(what: str) -> PermissionDenied:
    return PermissionDenied("WRONG_SIDE", what)
