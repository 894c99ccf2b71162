"""The course of a message under random events in random orders, and each country's rules of service."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.messages import course as rules
from services.messages import deliveries, legal, lifecycle
from services.messages.course import Course
from services.messages.deliveries import Delivery
from services.messages.legal import Basis, Effect, Fact, Kind, State
from services.messages.paper import Policy, Trigger
from services.messages.profiles import PROFILES
from services.runtime.errors import Fault, InvalidArgument

SENT = datetime(2026, 3, 2, 12, tzinfo=UTC)  # a Monday
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
FINLAND, NORWAY, DENMARK, ITALY = (PROFILES[name] for name in ("fi-2010", "no-2014", "dk-2012", "it-2020"))
WHO = b"actor"


def handed_in(profile=FINLAND, kind=Kind.ORDINARY, **times) -> Course:
    return Course(
        message_id=UUID(int=2),
        kind=kind,
        profile=profile,
        state=lifecycle.State.ACCEPTED,
        electronic=deliveries.electronic(UUID(int=1), now=SENT),
        **times,
    )


def sent(profile=FINLAND, kind=Kind.ORDINARY, *, reachable=True, **times) -> Course:
    course = replace(handed_in(profile, kind, **times), paper=Policy(trigger=Trigger.SENDER_DECIDES))
    return rules.accepted(course, reachable=reachable, now=SENT)


def way(course: Course) -> Delivery:
    assert course.electronic is not None
    return course.electronic


def later(course: Course, now: datetime) -> Course:
    return rules.moved_on(course, reachable=True, now=now)


# Random courses

profiles = st.sampled_from(list(PROFILES.values()))
kinds = st.sampled_from(list(Kind))
steps = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "time",
                "open",
                "confirm",
                "withdraw",
                "letter",
                "claim",
                "submit",
                "post",
                "deposit",
                "receipt",
                "return",
                "fail",
            ]
        ),
        st.integers(0, 72),
        st.integers(-240, 0),
    ),
    max_size=14,
)


def play(course: Course, doings) -> list[Course]:
    """A course after each of the steps; what the rules refuse leaves it as it is. Reports come late, by hours."""
    now, seen = SENT, [course]
    for what, hours, late in doings:
        now += hours * HOUR
        course = seen[-1]
        happened = max(SENT, now + late * HOUR)
        try:
            match what:
                case "open":
                    course = rules.opened(course, actor=WHO, now=now)
                case "confirm":
                    course = rules.confirmed(course, actor=WHO, now=now)
                case "withdraw":
                    course = rules.withdrawn(course, now=now)
                case "letter":
                    course = rules.sent_on_paper(course, now=now)
                case "claim":
                    course = rules.claimed(course, until=now + HOUR, now=now)
                case "submit" | "post" | "deposit" | "receipt" | "return" | "fail" if course.letter is not None:
                    states = {
                        "submit": "SUBMITTED",
                        "post": "POSTED",
                        "deposit": "DEPOSITED",
                        "receipt": "RECEIPT_CONFIRMED",
                        "return": "RETURNED",
                        "fail": "FAILED",
                    }
                    course = rules.reported(course, deliveries.State[states[what]], time=happened, now=now)
        except Fault:
            pass
        seen.append(rules.moved_on(course, reachable=True, now=now))
    return seen


@given(profiles, kinds, steps)
def test_an_effect_once_there_stays_and_is_never_moved_later(profile, kind, doings):
    for before, after in pairwise(play(sent(profile, kind), doings)):
        if before.effect.state is State.EFFECTIVE:
            assert after.effect.state is State.EFFECTIVE
            assert after.effect.time is not None
            assert before.effect.time is not None
            assert after.effect.time <= before.effect.time


@given(profiles, kinds, steps)
def test_an_effect_lies_never_in_the_future_and_has_a_basis(profile, kind, doings):
    now = SENT
    for (_, hours, _), after in zip(doings, play(sent(profile, kind), doings)[1:], strict=True):
        now += hours * HOUR
        if after.effect.state is State.EFFECTIVE:
            assert after.effect.time is not None
            assert after.effect.time <= now
            assert after.effect.basis is not Basis.NOT_SERVED


@given(profiles, kinds, steps)
def test_states_follow_one_another_as_the_machines_say(profile, kind, doings):
    for before, after in pairwise(play(sent(profile, kind), doings)):
        if after.state is not before.state:
            assert after.state in lifecycle.FOLLOWING[before.state]
        for was, now in zip(before.deliveries, after.deliveries, strict=False):
            for fact in ("available_time", "open_time"):
                assert getattr(was, fact) in (None, getattr(now, fact))


@given(profiles, kinds, steps)
def test_what_was_posted_is_never_printed_again(profile, kind, doings):
    for before, after in pairwise(play(sent(profile, kind), doings)):
        if before.letter is not None and before.letter.post_time is not None:
            assert after.letter is not None
            assert after.letter.state not in {deliveries.State.QUEUED, deliveries.State.FAILED}


@given(profiles, kinds, steps)
def test_a_message_never_both_lies_opened_in_the_mailbox_and_goes_as_a_letter(profile, kind, doings):
    for course in play(sent(profile, kind), doings):
        if course.letter is not None and course.letter.goes:
            assert way(course).state not in {deliveries.State.OPENED, deliveries.State.RECEIPT_CONFIRMED}


@given(profiles, kinds, steps)
def test_a_letter_that_was_stopped_never_goes_again(profile, kind, doings):
    stopped = {deliveries.State.SUPERSEDED, deliveries.State.WITHDRAWN}
    for before, after in pairwise(play(sent(profile, kind), doings)):
        if before.letter is not None and before.letter.state in stopped:
            assert after.letter == before.letter


@given(profiles, kinds, steps)
def test_the_content_of_a_verifiable_message_is_never_opened_before_its_receipt(profile, kind, doings):
    for course in play(sent(profile, kind), doings):
        if course.verifiable and way(course).open_time is not None:
            assert way(course).receipt_time is not None


@given(profiles, kinds, steps, st.integers(1, 400))
def test_time_moves_a_course_once_and_the_next_move_lies_ahead(profile, kind, doings, days):
    course = play(sent(profile, kind, due_time=SENT + 20 * DAY), doings)[-1]
    now = SENT + 72 * 14 * HOUR + days * DAY
    moved = later(course, now)
    assert later(moved, now) == moved
    assert (rules.wake_time(moved) or now + HOUR) > now
    assert later(moved, now - 5 * DAY) == moved, "a clock that jumps back changes nothing"


@given(profiles, kinds, st.permutations(["AVAILABLE", "VIEWED", "RECEIPT", "POSTED", "PAPER_RECEIPT"]), st.data())
def test_the_effect_follows_from_what_happened_whatever_the_order_of_hearing_of_it(profile, kind, order, data):
    facts = {Fact[name]: SENT + data.draw(st.integers(0, 600)) * HOUR for name in order if data.draw(st.booleans())}
    end = SENT + 100 * DAY

    def heard(names) -> Effect:
        known, effect = {}, legal.PENDING
        for name in names:
            if Fact[name] in facts:
                known[Fact[name]] = facts[Fact[name]]
                effect = legal.effect(effect, profile, kind, known, unreachable=False, withdrawn=False, now=end)
        return effect

    one, other = heard(order), heard(sorted(order))
    assert (one.state, one.time) == (other.state, other.time)


@given(st.lists(st.sampled_from(["SUBMITTED", "PRINTED", "POSTED", "RECEIPT_CONFIRMED"]), min_size=1, max_size=8))
def test_reports_of_a_letter_may_come_in_any_order_and_again(names):
    letter = deliveries.letter(UUID(int=2), now=SENT)
    times = {name: SENT + position * HOUR for position, name in enumerate(["SUBMITTED", "PRINTED", "POSTED"])}
    for name in names:
        letter = deliveries.reported(letter, deliveries.State[name], time=times.get(name, SENT + DAY))
    furthest = max(names, key=["SUBMITTED", "PRINTED", "POSTED", "RECEIPT_CONFIRMED"].index)
    assert letter.state is deliveries.State[furthest]
    assert letter.post_time == (times["POSTED"] if "POSTED" in names else None)


# The countries

HELSINKI_THIRD_DAY = datetime(2026, 3, 4, 22, tzinfo=UTC)  # the beginning of 5 March there


def test_finland_ordinary_is_served_on_the_third_day_read_or_not():
    course = sent()
    assert course.effect == Effect(State.PENDING, HELSINKI_THIRD_DAY, Basis.THIRD_DAY)
    course = rules.opened(course, actor=WHO, now=SENT + HOUR)
    assert course.effect.state is State.PENDING, "nobody's time for appeal gets shorter by reading early"
    assert later(course, HELSINKI_THIRD_DAY - HOUR).effect.state is State.PENDING
    served = later(course, HELSINKI_THIRD_DAY)
    assert served.effect == Effect(State.EFFECTIVE, HELSINKI_THIRD_DAY, Basis.THIRD_DAY)


def test_finnish_days_are_days_in_finland():
    """Sent at 22:30 UTC, it is the next day already in Helsinki; summer time has begun before the third day."""
    course = rules.accepted(handed_in(), reachable=True, now=datetime(2026, 3, 27, 22, 30, tzinfo=UTC))
    assert course.effect.time == datetime(2026, 3, 30, 21, tzinfo=UTC)


def test_finland_verifiable_is_served_by_its_receipt():
    course = sent(kind=Kind.VERIFIABLE)
    assert course.effect == legal.PENDING
    confirmed = rules.confirmed(course, actor=WHO, now=SENT + DAY)
    assert confirmed.effect == Effect(State.EFFECTIVE, SENT + DAY, Basis.RECEIPT)


def test_finland_verifiable_lapses_after_seven_days_and_a_late_receipt_still_counts():
    course = sent(kind=Kind.VERIFIABLE)
    assert later(course, SENT + 7 * DAY).effect.state is State.PENDING
    lapsed = later(course, SENT + 8 * DAY)
    assert lapsed.effect == Effect(State.LAPSED)
    confirmed = rules.confirmed(lapsed, actor=WHO, now=SENT + 9 * DAY)
    assert confirmed.effect == Effect(State.EFFECTIVE, SENT + 9 * DAY, Basis.RECEIPT)


def with_letter(course: Course, **times) -> Course:
    letter = replace(deliveries.letter(UUID(int=2), now=SENT), state=deliveries.State.POSTED, **times)
    return replace(course, letter=letter)


def test_finland_letter_is_deemed_to_arrive_on_the_seventh_day_unless_it_comes_back():
    course = with_letter(sent(reachable=False), post_time=SENT)
    seventh = datetime(2026, 3, 8, 22, tzinfo=UTC)
    assert later(course, seventh - HOUR).effect == Effect(State.LAPSED, seventh, Basis.PAPER_DEEMED)
    assert later(course, seventh).effect == Effect(State.EFFECTIVE, seventh, Basis.PAPER_DEEMED)
    returned = with_letter(course, post_time=SENT, return_time=SENT + 2 * DAY)
    assert later(returned, seventh).effect == Effect(State.LAPSED)


@pytest.mark.parametrize("profile", [NORWAY, DENMARK])
def test_norway_and_denmark_ordinary_is_served_when_it_is_available(profile):
    assert sent(profile).effect == Effect(State.EFFECTIVE, SENT, Basis.AVAILABLE)


def test_denmark_verifiable_is_served_when_it_is_available_though_still_locked():
    course = sent(DENMARK, Kind.VERIFIABLE)
    assert course.effect == Effect(State.EFFECTIVE, SENT, Basis.AVAILABLE)
    assert deliveries.locked(way(course), verifiable=True)


def test_italy_is_served_by_the_view_or_on_the_seventh_day():
    seventh = datetime(2026, 3, 8, 23, tzinfo=UTC)
    assert later(sent(ITALY), seventh).effect == Effect(State.EFFECTIVE, seventh, Basis.TERM)
    viewed = rules.opened(sent(ITALY), actor=WHO, now=SENT + DAY)
    assert later(viewed, seventh).effect == Effect(State.EFFECTIVE, SENT + DAY, Basis.VIEWED)


def test_italy_what_is_delivered_after_nine_in_the_evening_is_delivered_the_next_day():
    for delivered, seventh in (
        (datetime(2026, 3, 2, 19, 59, tzinfo=UTC), datetime(2026, 3, 8, 23, tzinfo=UTC)),
        (datetime(2026, 3, 2, 20, 0, tzinfo=UTC), datetime(2026, 3, 9, 23, tzinfo=UTC)),
        (datetime(2026, 3, 2, 22, 59, tzinfo=UTC), datetime(2026, 3, 9, 23, tzinfo=UTC)),
        (datetime(2026, 3, 2, 23, 0, tzinfo=UTC), datetime(2026, 3, 9, 23, tzinfo=UTC)),
    ):
        course = rules.accepted(handed_in(ITALY), reachable=True, now=delivered)
        assert course.effect.time == seventh


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_every_rule_names_the_section_that_it_is_taken_from(profile):
    for rule in (*profile.ordinary, *profile.verifiable):
        assert re.search(r"section \d+|article \d+|General principles", rule.source)


def test_italy_a_letters_receipt_heard_of_late_brings_the_effect_forward():
    """PagoPA SEND, scenario E2E-WF-INHIBITION-8: viewed after the receipt's tenth day, which then counts."""
    course = sent(ITALY, reachable=False)
    course = with_letter(course, receipt_time=SENT)
    tenth = datetime(2026, 3, 11, 23, tzinfo=UTC)
    known_late = replace(course, effect=Effect(State.EFFECTIVE, SENT + 15 * DAY, Basis.VIEWED))
    assert later(known_late, SENT + 20 * DAY).effect == Effect(State.EFFECTIVE, tenth, Basis.TERM)


@pytest.mark.parametrize(
    ("times", "served"),
    [
        ({}, datetime(2026, 3, 21, 23, tzinfo=UTC)),
        ({"return_time": SENT + 11 * DAY}, datetime(2026, 3, 21, 23, tzinfo=UTC)),
        ({"receipt_time": SENT + 12 * DAY}, datetime(2026, 3, 21, 23, tzinfo=UTC)),
        ({"receipt_time": SENT + 3 * DAY}, datetime(2026, 3, 14, 23, tzinfo=UTC)),
    ],
    ids=["never collected", "returned for that", "collected too late to count", "collected in time"],
)
def test_italy_a_letter_that_waits_to_be_collected_is_served_without_it(times, served):
    course = with_letter(sent(ITALY, reachable=False), deposit_time=SENT, **times)
    assert later(course, served - HOUR).effect == Effect(State.LAPSED, served, Basis.TERM)
    assert later(course, served).effect == Effect(State.EFFECTIVE, served, Basis.TERM)


def test_a_letter_that_waits_to_be_collected_serves_nothing_where_no_rule_says_so():
    for profile in (FINLAND, NORWAY, DENMARK):
        course = with_letter(sent(profile, Kind.VERIFIABLE, reachable=False), deposit_time=SENT)
        assert later(course, SENT + 99 * DAY).effect == Effect(State.LAPSED)


@pytest.mark.parametrize("profile", PROFILES.values())
def test_information_has_no_effect(profile):
    assert later(sent(profile, Kind.INFORMATION), SENT + 99 * DAY).effect == legal.NONE


def test_what_reaches_no_mailbox_lapses_at_once():
    course = sent(reachable=False)
    assert way(course).state is deliveries.State.UNREACHABLE
    assert course.effect == Effect(State.LAPSED)


# Waiting, withdrawal, due times


def test_a_message_waits_for_its_publish_time():
    course = sent(publish_time=SENT + DAY)
    assert (course.state, way(course).state) == (lifecycle.State.SCHEDULED, deliveries.State.QUEUED)
    assert rules.wake_time(course) == SENT + DAY
    assert later(course, SENT + DAY - HOUR) == course
    released = later(course, SENT + DAY)
    assert (released.state, released.release_time) == (lifecycle.State.RELEASED, SENT + DAY)
    assert way(released).available_time == SENT + DAY


def test_a_publish_time_that_has_passed_is_none():
    assert sent(publish_time=SENT - DAY).state is lifecycle.State.RELEASED


@pytest.mark.parametrize(
    "times",
    [
        {"publish_time": SENT + 400 * DAY},
        {"due_time": SENT},
        {"due_time": SENT + 4000 * DAY},
        {"publish_time": SENT + 2 * DAY, "due_time": SENT + DAY},
    ],
)
def test_times_that_contradict_each_other_or_lie_too_far_away_are_refused(times):
    with pytest.raises(InvalidArgument) as refused:
        sent(**times)
    assert refused.value.reason == "TIME_INVALID"


def test_withdrawn_before_its_release_a_message_is_never_released():
    course = rules.withdrawn(sent(publish_time=SENT + DAY), now=SENT + HOUR)
    assert later(course, SENT + 2 * DAY) == course
    assert (course.release_time, course.effect, rules.wake_time(course)) == (None, legal.NONE, None)


def test_withdrawn_unopened_a_message_can_no_longer_be_opened():
    course = rules.withdrawn(sent(), now=SENT + HOUR)
    with pytest.raises(Fault) as refused:
        rules.opened(course, actor=WHO, now=SENT + DAY)
    assert refused.value.reason == "MESSAGE_WITHDRAWN"
    assert later(course, SENT + 9 * DAY).effect == legal.NONE


def test_withdrawn_once_opened_a_message_stays_readable_and_an_effect_stays():
    opened = rules.opened(sent(), actor=WHO, now=SENT + HOUR)
    course = rules.withdrawn(later(opened, SENT + 5 * DAY), now=SENT + 6 * DAY)
    assert rules.opened(course, actor=WHO, now=SENT + 7 * DAY) == course
    assert course.effect.state is State.EFFECTIVE
    assert rules.withdrawn(course, now=SENT + 8 * DAY) is course


def test_a_view_stops_a_letter_that_still_waits_and_no_other():
    letter = deliveries.letter(UUID(int=2), now=SENT)
    seen = rules.opened(replace(sent(), letter=letter), actor=WHO, now=SENT + HOUR)
    assert seen.letter is not None
    assert seen.letter.state is deliveries.State.SUPERSEDED
    submitted = deliveries.reported(letter, deliveries.State.SUBMITTED, time=SENT)
    seen = rules.opened(replace(sent(), letter=submitted), actor=WHO, now=SENT + HOUR)
    assert seen.letter == submitted


def test_a_due_time_passes_once():
    course = sent(due_time=SENT + DAY)
    assert not later(course, SENT + DAY - HOUR).due_passed
    assert later(course, SENT + DAY).due_passed
    assert rules.wake_time(course) == SENT + DAY


# Mailboxes on other nodes


def gone_abroad(profile=FINLAND, kind=Kind.ORDINARY, **times) -> Course:
    course = replace(handed_in(profile, kind, **times), electronic=deliveries.abroad(UUID(int=1), now=SENT))
    return rules.accepted(course, reachable=False, now=SENT)


def test_a_message_abroad_waits_for_word_and_is_not_unreachable_before():
    course = later(gone_abroad(), SENT + 3 * DAY)
    assert (way(course).state, course.effect.state) == (deliveries.State.QUEUED, State.PENDING)
    course = rules.heard(course, deliveries.Report(unreachable=True), now=SENT + 4 * DAY)
    assert (way(course).state, course.effect.state) == (deliveries.State.UNREACHABLE, State.LAPSED)


def test_what_is_heard_late_counts_from_when_it_happened():
    report = deliveries.Report(available_time=SENT + HOUR, open_time=SENT + 2 * HOUR, actor=WHO)
    late = rules.heard(gone_abroad(DENMARK), report, now=SENT + 30 * DAY)
    assert way(late).state is deliveries.State.OPENED
    assert late.effect == Effect(State.EFFECTIVE, SENT + HOUR, Basis.AVAILABLE)


@given(st.permutations(range(3)), st.sampled_from(list(PROFILES.values())))
def test_reports_in_any_order_and_twice_come_to_the_same(order, profile):
    reports = [
        deliveries.Report(available_time=SENT + HOUR),
        deliveries.Report(available_time=SENT + HOUR, open_time=SENT + 2 * HOUR, actor=WHO),
        deliveries.Report(
            available_time=SENT + HOUR, open_time=SENT + 2 * HOUR, receipt_time=SENT + 2 * HOUR, actor=WHO
        ),
    ]
    straight = mixed = gone_abroad(profile, Kind.VERIFIABLE)
    for report in reports:
        straight = rules.heard(straight, report, now=SENT + DAY)
    for number in (*order, *order):
        mixed = rules.heard(mixed, reports[number], now=SENT + DAY)
    assert mixed == straight
    assert way(mixed).state is deliveries.State.RECEIPT_CONFIRMED
    assert rules.heard(mixed, reports[0], now=SENT + 2 * DAY) is mixed


def test_a_withdrawn_message_that_had_been_opened_there_has_the_effect_that_it_had_by_then():
    withdrawn = rules.withdrawn(gone_abroad(NORWAY, Kind.VERIFIABLE), now=SENT + 5 * HOUR)
    assert (way(withdrawn).state, withdrawn.effect.state) == (deliveries.State.WITHDRAWN, State.NONE)
    report = deliveries.Report(available_time=SENT + HOUR, open_time=SENT + 2 * HOUR, receipt_time=SENT + 2 * HOUR)
    heard = rules.heard(withdrawn, report, now=SENT + DAY)
    assert way(heard).state is deliveries.State.RECEIPT_CONFIRMED
    assert (heard.effect.state, heard.effect.time) == (State.EFFECTIVE, SENT + 2 * HOUR)
    unopened = rules.heard(
        rules.withdrawn(gone_abroad(), now=SENT + 5 * HOUR),
        deliveries.Report(available_time=SENT + HOUR),
        now=SENT + 10 * DAY,
    )
    assert (way(unopened).state, unopened.effect.state) == (deliveries.State.WITHDRAWN, State.NONE)


def test_a_letter_that_waits_stops_when_the_message_was_opened_abroad():
    on_paper = replace(gone_abroad(), paper=Policy(trigger=Trigger.SENDER_DECIDES))
    course = rules.sent_on_paper(on_paper, now=SENT + HOUR)
    assert course.letter is not None
    report = deliveries.Report(available_time=SENT + HOUR, open_time=SENT + 2 * HOUR, actor=WHO)
    heard = rules.heard(course, report, now=SENT + 3 * HOUR)
    assert heard.letter is not None
    assert heard.letter.state is deliveries.State.SUPERSEDED
    claimed = rules.claimed(course, until=SENT + DAY, now=SENT + 2 * HOUR)
    kept = rules.heard(claimed, report, now=SENT + 3 * HOUR)
    assert kept.letter is not None
    assert kept.letter.state is deliveries.State.QUEUED
    assert way(kept).open_time == SENT + 2 * HOUR
