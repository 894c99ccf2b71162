"""When messages go on paper: policies, working days, claims of print houses, views and withdrawals in between."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial

import pytest

from services.messages import calendars, paper
from services.messages import course as rules
from services.messages.course import Course
from services.messages.deliveries import Delivery, State
from services.messages.legal import Basis, Kind
from services.messages.legal import State as Effect
from services.messages.paper import Policy, Trigger
from services.messages.profiles import PROFILES
from services.runtime.errors import FailedPrecondition, InvalidArgument
from tests.unit.messages.test_course import DAY, FINLAND, HOUR, SENT, WHO, handed_in, way

IF_UNREACHABLE = Policy(trigger=Trigger.IF_UNREACHABLE)
IF_UNREAD = Policy(trigger=Trigger.IF_UNREAD, unread_after=2 * DAY)
IF_LAPSED = Policy(trigger=Trigger.IF_LAPSED)
SENDER_DECIDES = Policy(trigger=Trigger.SENDER_DECIDES)


def sent(policy: Policy, kind=Kind.ORDINARY, *, reachable=True, profile=FINLAND, **fields) -> Course:
    course = replace(handed_in(profile, kind), paper=policy, **fields)
    return rules.accepted(course, reachable=reachable, now=SENT)


def later(course: Course, now: datetime) -> Course:
    return rules.moved_on(course, reachable=True, now=now)


def letter(course: Course) -> Delivery:
    assert course.letter is not None
    return course.letter


def claimed(course: Course, now: datetime, lease=HOUR) -> Course:
    return rules.claimed(course, until=now + lease, now=now)


# Policies


@pytest.mark.parametrize("policy", [IF_UNREACHABLE, IF_UNREAD, Policy(trigger=Trigger.IF_LAPSED)])
def test_what_reaches_no_mailbox_goes_on_paper_at_the_release(policy):
    course = sent(policy, reachable=False)
    assert letter(course).state is State.QUEUED
    assert letter(course).delivery_id == course.message_id
    assert way(course).state is State.UNREACHABLE


@pytest.mark.parametrize("policy", [paper.NEVER, SENDER_DECIDES])
def test_without_such_a_policy_nothing_goes_on_paper_by_itself(policy):
    for reachable in (True, False):
        assert later(sent(policy, reachable=reachable), SENT + 99 * DAY).letter is None


def test_one_who_is_known_by_postal_address_only_gets_a_letter():
    course = sent(IF_UNREACHABLE, reachable=False, electronic=None)
    assert [one.channel.name for one in course.deliveries] == ["PAPER"]


def test_unread_for_long_enough_it_goes_on_paper_once():
    course = sent(IF_UNREAD)
    assert rules.wake_time(course) == SENT + 2 * DAY
    assert later(course, SENT + 2 * DAY - HOUR).letter is None
    queued = later(course, SENT + 2 * DAY)
    assert letter(queued).state is State.QUEUED
    assert later(queued, SENT + 50 * DAY).letter == queued.letter


def test_opened_in_time_it_does_not_go_on_paper():
    course = rules.opened(sent(IF_UNREAD), actor=WHO, now=SENT + DAY)
    assert later(course, SENT + 50 * DAY).letter is None


def test_a_lapsed_verifiable_message_goes_on_paper():
    course = sent(IF_LAPSED, Kind.VERIFIABLE)
    lapsed = later(course, SENT + 9 * DAY)
    assert (lapsed.effect.state, letter(lapsed).state) == (Effect.LAPSED, State.QUEUED)
    confirmed = rules.confirmed(course, actor=WHO, now=SENT + DAY)
    assert later(confirmed, SENT + 9 * DAY).letter is None


def test_the_sender_has_it_sent_on_paper_once():
    course = rules.sent_on_paper(sent(SENDER_DECIDES), now=SENT + DAY)
    assert letter(course).state is State.QUEUED
    assert rules.sent_on_paper(course, now=SENT + 2 * DAY) is course


@pytest.mark.parametrize(
    ("course", "reason"),
    [
        (sent(IF_UNREAD), "MESSAGE_STATE"),
        (sent(paper.NEVER), "MESSAGE_STATE"),
        (sent(SENDER_DECIDES, publish_time=SENT + DAY), "MESSAGE_STATE"),
        (rules.opened(sent(SENDER_DECIDES), actor=WHO, now=SENT + HOUR), "MESSAGE_STATE"),
        (rules.withdrawn(sent(SENDER_DECIDES), now=SENT + HOUR), "MESSAGE_WITHDRAWN"),
    ],
)
def test_the_sender_cannot_have_sent_on_paper_what_the_policy_or_the_state_forbids(course, reason):
    with pytest.raises(FailedPrecondition) as refused:
        rules.sent_on_paper(course, now=SENT + 2 * HOUR)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("policy", "kind", "profile", "reason"),
    [
        (Policy(trigger=Trigger.IF_UNREAD), Kind.ORDINARY, "fi-2010", "FIELD_INVALID"),
        (Policy(trigger=Trigger.IF_UNREACHABLE, unread_after=DAY), Kind.ORDINARY, "fi-2010", "FIELD_INVALID"),
        (Policy(trigger=Trigger.IF_LAPSED, working_hours=True), Kind.VERIFIABLE, "fi-2010", "FIELD_INVALID"),
        (IF_LAPSED, Kind.ORDINARY, "fi-2010", "FIELD_INVALID"),
        (IF_LAPSED, Kind.VERIFIABLE, "no-2014", "FIELD_INVALID"),
        (Policy(trigger=Trigger.IF_UNREAD, unread_after=timedelta()), Kind.ORDINARY, "fi-2010", "TIME_INVALID"),
        (Policy(trigger=Trigger.IF_UNREAD, unread_after=400 * DAY), Kind.ORDINARY, "fi-2010", "TIME_INVALID"),
    ],
)
def test_a_policy_that_could_never_do_what_it_says_is_refused(policy, kind, profile, reason):
    with pytest.raises(InvalidArgument) as refused:
        paper.check(policy, kind=kind, profile=PROFILES[profile])
    assert refused.value.reason == reason


def test_a_clock_that_jumps_back_sends_nothing_twice_and_takes_nothing_back():
    queued = later(sent(IF_UNREAD), SENT + 2 * DAY)
    assert later(queued, SENT - 30 * DAY) == queued
    assert later(later(queued, SENT - 30 * DAY), SENT + 2 * DAY) == queued


# Working days


def test_forty_working_hours_from_friday_afternoon_end_on_tuesday():
    """KS SvarUt's forty hours: eight of Friday, Monday, eight of Tuesday."""
    policy = Policy(trigger=Trigger.IF_UNREAD, unread_after=timedelta(hours=40), working_hours=True)
    friday = datetime(2026, 3, 6, 14, tzinfo=UTC)  # 16:00 in Helsinki
    course = rules.accepted(replace(handed_in(), paper=policy), reachable=True, now=friday)
    assert rules.paper_due_time(course) == datetime(2026, 3, 10, 6, tzinfo=UTC)


def test_holidays_and_the_change_to_summer_time_are_counted_as_they_fall():
    """From Maundy Thursday noon: Good Friday, the weekend and Easter Monday do not count."""
    noon = datetime(2026, 4, 2, 9, tzinfo=UTC)
    after = calendars.FINLAND.after(noon, timedelta(hours=13), zone=FINLAND.zone)
    assert after == datetime(2026, 4, 6, 22, tzinfo=UTC)  # one o'clock on Tuesday there
    spring = datetime(2026, 3, 28, 21, 30, tzinfo=UTC)  # 23:30 on Saturday, before the change
    assert calendars.FINLAND.after(spring, HOUR, zone=FINLAND.zone) == datetime(2026, 3, 29, 22, tzinfo=UTC)


@pytest.mark.parametrize(
    ("calendar", "day", "working"),
    [
        (calendars.FINLAND, date(2026, 6, 19), False),  # Midsummer Eve
        (calendars.FINLAND, date(2026, 12, 24), False),
        (calendars.FINLAND, date(2026, 5, 14), False),  # Ascension
        (calendars.FINLAND, date(2026, 5, 25), True),  # Whit Monday
        (calendars.NORWAY, date(2026, 5, 25), False),
        (calendars.NORWAY, date(2027, 5, 17), False),
        (calendars.DENMARK, date(2023, 5, 5), False),  # the last Great Day of Prayer
        (calendars.DENMARK, date(2024, 4, 26), True),
        (calendars.ITALY, date(2024, 10, 4), True),
        (calendars.ITALY, date(2027, 10, 4), False),
        (calendars.ITALY, date(2026, 2, 7), False),  # a Saturday
    ],
)
def test_each_country_has_its_own_days_off(calendar, day, working):
    assert calendar.working(day) is working


@pytest.mark.parametrize(("year", "day"), [(2000, (4, 23)), (2008, (3, 23)), (2024, (3, 31)), (2038, (4, 25))])
def test_easter(year, day):
    assert calendars.easter(year) == date(year, *day)


# Views, claims, reports


def test_a_view_stops_a_letter_that_waits():
    course = later(sent(IF_UNREAD), SENT + 2 * DAY)
    seen = rules.opened(course, actor=WHO, now=SENT + 3 * DAY)
    assert (letter(seen).state, way(seen).state) == (State.SUPERSEDED, State.OPENED)
    assert claimed(seen, SENT + 4 * DAY) == seen


def test_one_who_gets_a_mailbox_may_read_what_waits_to_be_printed_which_stops_it():
    seen = rules.opened(sent(IF_UNREACHABLE, reachable=False), actor=WHO, now=SENT + HOUR)
    assert (letter(seen).state, way(seen).state) == (State.SUPERSEDED, State.OPENED)
    assert way(seen).available_time == SENT + HOUR


def test_a_claim_takes_the_place_of_what_lies_in_the_mailbox():
    course = claimed(later(sent(IF_UNREAD), SENT + 2 * DAY), SENT + 2 * DAY)
    assert (letter(course).state, way(course).state) == (State.QUEUED, State.SUPERSEDED)
    assert claimed(course, SENT + 2 * DAY) == course, "another print house gets nothing"
    seen = rules.opened(course, actor=WHO, now=SENT + 2 * DAY)
    assert (letter(seen), way(seen).state) == (letter(course), State.SUPERSEDED)
    assert way(seen).open_time == SENT + 2 * DAY
    gone = rules.reported(seen, State.SUBMITTED, time=SENT + 2 * DAY, now=SENT + 2 * DAY)
    assert (letter(gone).state, way(gone).state) == (State.SUBMITTED, State.SUPERSEDED)


def test_a_claim_that_came_to_nothing_lets_the_letter_wait_again():
    start = SENT + 2 * DAY
    course = claimed(later(sent(IF_UNREAD), start), start)
    assert rules.wake_time(course) == start + HOUR
    waits = later(course, start + HOUR)
    assert (letter(waits).state, letter(waits).claim_end_time, way(waits).state) == (
        State.QUEUED,
        None,
        State.AVAILABLE,
    )
    again = claimed(waits, start + 2 * HOUR)
    assert letter(again).claim_end_time == start + 3 * HOUR


def test_what_was_seen_under_a_claim_that_came_to_nothing_does_not_go_on_paper():
    start = SENT + 2 * DAY
    course = claimed(later(sent(IF_UNREAD), start), start)
    seen = rules.opened(course, actor=WHO, now=start)
    for stopped in (later(seen, start + HOUR), claimed(seen, start + 2 * HOUR)):
        assert (letter(stopped).state, way(stopped).state) == (State.SUPERSEDED, State.OPENED)
    with pytest.raises(FailedPrecondition) as refused:
        rules.reported(seen, State.SUBMITTED, time=start, now=start + 2 * HOUR)
    assert refused.value.reason == "MESSAGE_STATE"


def test_withdrawn_under_a_claim_a_letter_stops_only_where_the_claim_comes_to_nothing():
    start = SENT + 2 * DAY
    course = claimed(later(sent(IF_UNREAD), start), start)
    withdrawn = rules.withdrawn(course, now=start)
    assert letter(withdrawn).state is State.QUEUED
    submitted = rules.reported(withdrawn, State.SUBMITTED, time=start, now=start)
    assert letter(later(submitted, start + DAY)).state is State.SUBMITTED
    stopped = later(withdrawn, start + HOUR)
    assert (letter(stopped).state, way(stopped).state) == (State.WITHDRAWN, State.WITHDRAWN)


def test_withdrawn_a_letter_that_waits_is_not_printed():
    course = rules.withdrawn(sent(IF_UNREACHABLE, reachable=False), now=SENT + HOUR)
    assert letter(course).state is State.WITHDRAWN
    assert claimed(course, SENT + DAY) == course


def test_a_letter_that_could_not_be_printed_leaves_the_message_in_the_mailbox():
    start = SENT + 2 * DAY
    course = claimed(later(sent(IF_UNREAD), start), start)
    failed = rules.reported(course, State.FAILED, time=start, now=start)
    assert (letter(failed).state, way(failed).state) == (State.FAILED, State.AVAILABLE)
    assert way(rules.opened(failed, actor=WHO, now=start + HOUR)).state is State.OPENED


def test_a_letter_that_failed_is_tried_again_when_its_sender_says_so():
    start = SENT + 2 * DAY
    failed = rules.reported(claimed(later(sent(IF_UNREAD), start), start), State.FAILED, time=start, now=start + HOUR)
    again = rules.sent_on_paper(failed, now=start + DAY)
    assert (letter(again).state, letter(again).claim_end_time, letter(again).update_time) == (
        State.QUEUED,
        None,
        start + DAY,
    )
    assert rules.sent_on_paper(again, now=start + DAY) is again
    assert letter(rules.opened(again, actor=WHO, now=start + DAY)).state is State.SUPERSEDED
    for course, reason in (
        (rules.opened(failed, actor=WHO, now=start + DAY), "MESSAGE_STATE"),
        (rules.withdrawn(failed, now=start + DAY), "MESSAGE_WITHDRAWN"),
    ):
        with pytest.raises(FailedPrecondition) as refused:
            rules.sent_on_paper(course, now=start + DAY)
        assert refused.value.reason == reason


@pytest.mark.parametrize("stop", [partial(rules.opened, actor=WHO), rules.withdrawn])
def test_a_letter_that_failed_is_not_printed_after_all_once_it_was_stopped(stop):
    start = SENT + 2 * DAY
    failed = rules.reported(claimed(later(sent(IF_UNREAD), start), start), State.FAILED, time=start, now=start)
    revived = rules.reported(failed, State.SUBMITTED, time=start, now=start)
    assert letter(revived).state is State.SUBMITTED
    with pytest.raises(FailedPrecondition) as refused:
        rules.reported(stop(failed, now=start), State.SUBMITTED, time=start, now=start)
    assert refused.value.reason == "MESSAGE_STATE"


@pytest.mark.parametrize("end", [State.RETURNED, State.UNRESOLVED])
def test_a_letter_that_was_posted_and_did_not_arrive_is_not_sent_again(end):
    course = rules.reported(sent(IF_UNREACHABLE, reachable=False), State.POSTED, time=SENT, now=SENT)
    assert rules.sent_on_paper(course, now=SENT + DAY) is course
    ended = rules.reported(course, end, time=SENT + DAY, now=SENT + DAY)
    with pytest.raises(FailedPrecondition) as refused:
        rules.sent_on_paper(ended, now=SENT + 2 * DAY)
    assert (refused.value.reason, refused.value.metadata) == ("MESSAGE_STATE", {"state": end.name})


def test_what_a_letter_cost_is_kept_with_it_and_a_letter_serves_by_its_posting():
    course = claimed(sent(IF_UNREACHABLE, reachable=False), SENT)
    posted = rules.reported(
        course, State.POSTED, time=SENT + HOUR, now=SENT + DAY, cost=Decimal("1.4350"), cost_currency="EUR"
    )
    assert (letter(posted).cost, letter(posted).cost_currency) == (Decimal("1.4350"), "EUR")
    assert posted.effect.basis is Basis.PAPER_DEEMED
    later_report = rules.reported(posted, State.PRINTED, time=SENT, now=SENT + DAY)
    assert (letter(later_report).state, letter(later_report).cost) == (State.POSTED, Decimal("1.4350"))


def test_without_a_letter_there_is_nothing_to_report_of():
    with pytest.raises(FailedPrecondition):
        rules.reported(sent(IF_UNREAD), State.POSTED, time=SENT, now=SENT)
