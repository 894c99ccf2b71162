"""The life of a mandate, as a machine that any order of calls and times drives."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from services.authorisations import mandates
from services.authorisations.confirming import Alternative, Part, satisfied
from services.authorisations.days import Period
from services.authorisations.mandates import HOLDING, WAITING, Actor, Cause, Event, Mandate, State
from services.runtime.errors import Aborted, Fault, PermissionDenied
from services.runtime.facts.rules import Kind

START = datetime(2026, 11, 21, 6, 30, tzinfo=UTC)
FIRST, SECOND, THIRD, DELEGATE, STRANGER = (f"persons/{letter * 26}" for letter in "abcde")
COMPANY = "organisations/" + "o" * 26
TWO_OF_THREE = (Alternative(parts=(Part(parties=(FIRST, SECOND, THIRD), needed=2),)),)
EVERYBODY = (FIRST, SECOND, THIRD, DELEGATE, STRANGER, COMPANY)


def asked(by: str = DELEGATE, **changes: Any) -> mandates.Step:
    values: dict[str, Any] = {
        "mandate_id": uuid.uuid4(),
        "kind": Kind.ACT,
        "principal": COMPANY,
        "delegate": DELEGATE,
        "theme_id": "taxes",
        "specifier": "",
        "period": Period(
            first_day=START.date() + timedelta(days=10),
            last_day=START.date() + timedelta(days=99),
            start=START + timedelta(days=10),
            end=START + timedelta(days=100),
        ),
        "rule": TWO_OF_THREE,
        "actor": Actor(party=by),
        "group_id": uuid.uuid4(),
        "now": START,
    }
    return mandates.requested(**values | changes)


class Life(RuleBasedStateMachine):
    """Whoever does whatever, whenever."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.mandate, events = asked()
        self.events = list(events)
        self.seen = [self.mandate.state(self.now)]

    def take(self, step: Any, by: str, **more: Any) -> None:
        before = self.mandate
        try:
            fresh, events = step(before, actor=Actor(party=by), now=self.now, **more)
        except Fault:
            return
        assert (fresh is before) == (not events)
        assert fresh.revision == before.revision + bool(events)
        self.mandate = fresh
        self.events += events

    @rule(days=st.integers(1, 40))
    def wait(self, days: int) -> None:
        self.now += timedelta(days=days)

    @rule(by=st.sampled_from(EVERYBODY))
    def confirm(self, by: str) -> None:
        self.take(mandates.confirmed, by, etag=self.mandate.etag)

    @rule(by=st.sampled_from(EVERYBODY))
    def reject(self, by: str) -> None:
        self.take(mandates.rejected, by, etag="")

    @rule(by=st.sampled_from(EVERYBODY))
    def withdraw(self, by: str) -> None:
        self.take(mandates.withdrawn, by, etag="")

    @rule(by=st.sampled_from(EVERYBODY))
    def revoke(self, by: str) -> None:
        self.take(mandates.revoked, by, etag="", entitled=frozenset({FIRST, SECOND, THIRD}))

    @rule(by=st.sampled_from(EVERYBODY))
    def renounce(self, by: str) -> None:
        self.take(mandates.renounced, by, etag="")

    @rule()
    def die(self) -> None:
        self.mandate, events = mandates.invalidated(
            self.mandate, cause=Cause.PRINCIPAL_DIED, record="registers/population/records/1", actor=None, now=self.now
        )
        self.events += events

    @invariant()
    def a_right_rests_on_enough_confirmations(self) -> None:
        state = self.mandate.state(self.now)
        enough = satisfied(self.mandate.rule, {one.party for one in self.mandate.confirmations})
        if state in HOLDING | {State.EXPIRED}:
            assert enough
        if self.mandate.held:
            assert self.mandate.confirm_time is not None
            start, end = self.mandate.held
            assert self.mandate.confirm_time <= start < end <= self.mandate.end
            assert (start <= self.now < end) == (state is State.ACTIVE)

    @invariant()
    def what_is_over_stays_over(self) -> None:
        state = self.mandate.state(self.now)
        was = self.seen[-1]
        if was not in WAITING | HOLDING:
            assert state is was
        if was in HOLDING:
            assert state not in WAITING | {State.REJECTED, State.WITHDRAWN, State.LAPSED}
        self.seen.append(state)

    @invariant()
    def history_tells_it_all_in_order(self) -> None:
        told = mandates.history(self.mandate, self.events, now=self.now)
        assert [event.time for event in told] == sorted(event.time for event in told)
        assert told[-1].state is self.mandate.state(self.now) or self.mandate.state(self.now) in HOLDING
        confirmed = [event for event in self.events if event.happening is mandates.Happening.CONFIRMED]
        assert (
            len(confirmed) == len(self.mandate.confirmations) == len({one.party for one in self.mandate.confirmations})
        )


TestLife = Life.TestCase


def confirmed(**changes: Any) -> Mandate:
    mandate, _ = asked(**changes)
    for party in (FIRST, SECOND):
        mandate, _ = mandates.confirmed(mandate, actor=Actor(party=party), etag=mandate.etag, now=START)
    return mandate


def test_one_who_asks_and_may_confirm_has_confirmed():
    mandate, events = asked(by=FIRST)
    assert mandate.state(START) is State.PARTLY_CONFIRMED
    assert [event.happening.name for event in events] == ["REQUESTED", "CONFIRMED"]


def test_the_delegate_does_not_confirm_through_a_person_who_happens_to_be_entitled():
    mandate, _ = asked(actor=Actor(party=DELEGATE, acting_party=FIRST))
    assert mandate.state(START) is State.REQUESTED


def test_nobody_confirms_what_they_have_not_read():
    mandate, _ = asked()
    fresh, _ = mandates.confirmed(mandate, actor=Actor(party=FIRST), etag=mandate.etag, now=START)
    with pytest.raises(Aborted):
        mandates.confirmed(fresh, actor=Actor(party=SECOND), etag=mandate.etag, now=START)


def test_it_gives_nothing_before_its_confirmation_even_where_its_first_day_is_past():
    mandate, _ = asked()
    late = START + timedelta(days=20)
    for party in (FIRST, SECOND):
        mandate, _ = mandates.confirmed(mandate, actor=Actor(party=party), etag=mandate.etag, now=late)
    assert mandate.held == (late, mandate.end)


def test_one_revoked_before_its_first_day_never_held():
    mandate, _ = mandates.revoked(
        confirmed(), actor=Actor(party=COMPANY), entitled=frozenset(), etag="", now=START + timedelta(days=1)
    )
    assert mandate.held is None


@pytest.mark.parametrize("by", [DELEGATE, STRANGER])
def test_only_the_principals_side_revokes(by: str):
    with pytest.raises(PermissionDenied) as refusal:
        mandates.revoked(confirmed(), actor=Actor(party=by), entitled=frozenset({FIRST}), etag="", now=START)
    assert refusal.value.reason == "WRONG_SIDE"


def test_who_acts_for_a_side_by_a_mandate_ends_nothing_in_its_name():
    by_mandate = Actor(party=COMPANY, acting_party=STRANGER)
    with pytest.raises(PermissionDenied):
        mandates.revoked(confirmed(), actor=by_mandate, entitled=frozenset({FIRST}), etag="", now=START)
    with pytest.raises(PermissionDenied):
        mandates.renounced(confirmed(), actor=Actor(party=DELEGATE, acting_party=STRANGER), etag="", now=START)
    signatory = Actor(party=COMPANY, acting_party=FIRST)
    ended, _ = mandates.revoked(confirmed(), actor=signatory, entitled=frozenset({FIRST}), etag="", now=START)
    assert ended.stored is State.REVOKED


def test_what_the_clock_did_is_told_with_its_instant():
    waiting, events = asked()
    later = START + timedelta(days=31)
    assert mandates.history(waiting, events, now=later)[-1] == Event(
        happening=mandates.Happening.LAPSED, time=START + mandates.TIME_TO_CONFIRM, state=State.LAPSED
    )


def test_a_twin_is_one_that_holds_or_waits_in_the_same_time():
    first = confirmed()
    second, _ = asked()
    assert mandates.overlaps(second, [first], now=START) is first
    ended, _ = mandates.renounced(first, actor=Actor(party=DELEGATE), etag="", now=START)
    assert mandates.overlaps(second, [ended], now=START) is None
    after = Period(first_day=first.period.first_day, last_day=None, start=first.end, end=first.end + timedelta(days=1))
    assert mandates.overlaps(asked(period=after)[0], [first], now=START) is None
