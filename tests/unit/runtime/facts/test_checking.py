"""The rules of a check, in their order."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from services.authorisations.days import reaches_age
from services.runtime.facts.checking import (
    Basis,
    Block,
    Chain,
    Effect,
    Facts,
    Holding,
    Link,
    Question,
    Reason,
    Shortfall,
    Verdict,
    Window,
    judge,
)
from services.runtime.facts.rules import Kind, RegisterRight, Rules

NOW = datetime(2026, 11, 21, 6, 30, tzinfo=UTC)
HELSINKI = ZoneInfo("Europe/Helsinki")
PERSON, CHILD = (f"persons/{letter * 26}" for letter in "ab")
FIRM, COMPANY, OTHER = (f"organisations/{letter * 26}" for letter in "fco")
ALWAYS = Window(NOW - timedelta(days=1), None)
YEAR = Window(NOW - timedelta(days=1), NOW + timedelta(days=365))
MONTH = Window(NOW - timedelta(days=1), NOW + timedelta(days=30))
ASKED = Question(delegate=PERSON, principal=COMPANY, theme_id="taxes", at=NOW)
RULES = Rules(longest_terms={Kind.ACT: 60, Kind.REPRESENT: 60})


def act(window: Window = YEAR, specifier: str = "") -> Chain:
    return Chain((Link("mandates/act", specifier, window),))


def represent(window: Window = YEAR, through: str = FIRM, specifier: str = "") -> Chain:
    return Chain((Link("mandates/represent", specifier, window), Link("mandates/act", "", YEAR)), (through,))


def block(party: str, effect: Effect, *, kind: str = "disputed", towards: str = "", window: Window = ALWAYS) -> Block:
    return Block("blocks/1", party, towards, kind, effect, window)


def judged(facts: Facts, *, rules: Rules = RULES, **asked: Any) -> Verdict:
    return judge(ASKED._replace(**asked), rules, facts)


def test_without_a_fact_nobody_may_but_oneself():
    assert judged(Facts()) == Verdict(allowed=False, reason=Reason.NO_RIGHT, steps=judged(Facts()).steps)
    assert judged(Facts(), principal=PERSON).basis is Basis.SELF


def test_a_mandate_holds_from_its_start_and_no_longer_at_its_end():
    assert YEAR.end is not None
    for at, allowed in (
        (YEAR.start - timedelta(microseconds=1), False),
        (YEAR.start, True),
        (YEAR.end - timedelta(microseconds=1), True),
        (YEAR.end, False),
    ):
        assert judged(Facts(chains=[act()]), at=at).allowed is allowed


@pytest.mark.parametrize(
    ("held", "asked", "allowed"),
    [("", "", True), ("", "a", True), ("a", "a", True), ("a", "b", False), ("a", "", False)],
)
def test_a_mandate_for_one_thing_is_for_that_thing(held: str, asked: str, allowed: bool):
    assert judged(Facts(chains=[act(specifier=held)]), specifier=asked).allowed is allowed


def test_to_represent_goes_through_the_organisation_and_ends_with_the_first_of_the_two():
    verdict = judged(Facts(chains=[represent(MONTH)]))
    assert (verdict.basis, verdict.through, verdict.expire) == (Basis.REPRESENTED_MANDATE, FIRM, MONTH.end)
    assert verdict.mandates == ("mandates/represent", "mandates/act")


def test_of_several_rights_the_longest_counts_and_the_earlier_rule_before_it():
    assert judged(Facts(chains=[act(MONTH), act(YEAR)])).expire == YEAR.end
    assert judged(Facts(chains=[act(MONTH), represent(YEAR)])).basis is Basis.MANDATE


def test_who_names_an_organisation_acts_through_it_or_not_at_all():
    facts = Facts(chains=[act(), represent()])
    assert judged(facts, through=FIRM).basis is Basis.REPRESENTED_MANDATE
    assert not judged(facts, through=OTHER).allowed


def test_a_chain_is_no_deeper_than_the_theme_allows_and_no_circle():
    deep = Chain(tuple(Link(f"mandates/{number}", "", YEAR) for number in range(3)), (FIRM, OTHER))
    assert not judged(Facts(chains=[deep])).allowed
    assert judged(Facts(chains=[deep]), rules=replace(RULES, greatest_depth=3)).allowed
    circle = deep._replace(nodes=(FIRM, FIRM))
    assert not judged(Facts(chains=[circle]), rules=replace(RULES, greatest_depth=4)).allowed
    assert not judged(Facts(chains=[represent()]), rules=replace(RULES, greatest_depth=1)).allowed


@pytest.mark.parametrize(
    ("blocked", "effect", "allowed"),
    [
        (PERSON, Effect.ACTING, False),
        (PERSON, Effect.BEING_ACTED_FOR, True),
        (COMPANY, Effect.ACTING, True),
        (COMPANY, Effect.BEING_ACTED_FOR, False),
        (FIRM, Effect.ACTING, False),
        (FIRM, Effect.BEING_ACTED_FOR, False),
        (OTHER, Effect.BOTH, True),
    ],
)
def test_a_block_stops_what_goes_out_from_its_party_or_over_it(blocked: str, effect: Effect, allowed: bool):
    assert judged(Facts(chains=[represent()], blocks=[block(blocked, effect)])).allowed is allowed


def test_a_blocked_organisation_in_between_leaves_other_ways_open():
    facts = Facts(chains=[represent(), act()], blocks=[block(FIRM, Effect.BOTH)])
    assert judged(facts).basis is Basis.MANDATE


def test_a_block_between_two_parties_is_between_those_two():
    facts = Facts(chains=[act()], blocks=[block(COMPANY, Effect.BEING_ACTED_FOR, towards=PERSON)])
    assert not judged(facts).allowed
    assert judged(replace_block(facts, counterpart=CHILD)).allowed


def replace_block(facts: Facts, **changes: Any) -> Facts:
    return facts._replace(blocks=[one._replace(**changes) for one in facts.blocks])


def test_a_theme_may_ignore_a_kind_of_block_but_no_ban_on_acting():
    ignoring = replace(RULES, ignored_blocks=frozenset({"non-disclosure", "business-ban"}))
    hidden = Facts(chains=[act()], blocks=[block(COMPANY, Effect.BEING_ACTED_FOR, kind="non-disclosure")])
    assert not judged(hidden).allowed
    assert judged(hidden, rules=ignoring).allowed
    banned = Facts(chains=[act()], blocks=[block(PERSON, Effect.ACTING, kind="business-ban")])
    assert not judged(banned, rules=ignoring).allowed


def test_a_block_is_about_others_until_the_party_is_no_more():
    assert judged(Facts(blocks=[block(PERSON, Effect.BOTH)]), principal=PERSON).allowed
    assert not judged(Facts(blocks=[block(PERSON, Effect.BOTH, kind="dead")]), principal=PERSON).allowed


def test_a_past_instant_is_judged_by_the_blocks_of_that_instant():
    facts = Facts(chains=[act()], blocks=[block(PERSON, Effect.ACTING, window=Window(NOW, None))])
    assert not judged(facts).allowed
    assert judged(facts, at=NOW - timedelta(seconds=1)).allowed


def custody(birth_day: date, *, alone: bool = True) -> Facts:
    ages = {age: reaches_age(birth_day, age, HELSINKI) for age in (12, 15, 18, 21)}
    return Facts(holdings=[Holding("registers/p/records/1", "custodian", alone, ALWAYS, ages)])


@pytest.mark.parametrize(("until_age", "expected"), [(0, 2027), (15, 2024), (12, 2021), (21, 2027)])
def test_custody_ends_with_the_birthday_that_the_theme_sets_and_at_eighteen_at_the_latest(
    until_age: int, expected: int
):
    rules = replace(RULES, register_rights=(RegisterRight(role="custodian", until_age=until_age),))
    birthday = datetime(expected, 3, 9, 22, tzinfo=UTC)  # midnight in Helsinki, winter time
    born = custody(date(2009, 3, 10))
    born = Facts(holdings=[born.holdings[0]._replace(window=Window(datetime(2009, 3, 10, tzinfo=UTC), None))])
    before = judged(born, rules=rules, principal=CHILD, at=birthday - timedelta(microseconds=1))
    assert (before.allowed, before.expire, before.role) == (True, birthday, "custodian")
    assert not judged(born, rules=rules, principal=CHILD, at=birthday).allowed


def test_a_joint_custodian_alone_is_told_so_unless_the_theme_lets_one_act():
    together = (RegisterRight(role="custodian"),)
    facts = custody(date(2020, 1, 1), alone=False)
    verdict = judged(facts, rules=replace(RULES, register_rights=together), principal=CHILD)
    assert (verdict.allowed, verdict.reason) == (False, Reason.JOINTLY_ONLY)
    enough = (RegisterRight(role="custodian", jointly_is_enough=True),)
    assert judged(facts, rules=replace(RULES, register_rights=enough), principal=CHILD).allowed


def test_a_guardian_of_all_is_one_of_property():
    facts = Facts(holdings=[Holding("registers/p/records/1", "guardian-all", alone=True, window=ALWAYS)])
    rules = replace(RULES, register_rights=(RegisterRight(role="guardian-property"),))
    assert judged(facts, rules=rules).basis is Basis.REGISTER
    assert not judged(facts).allowed


@pytest.mark.parametrize(("level", "allowed"), [(0, True), (1, False), (2, True), (3, True)])
def test_who_is_known_too_little_is_told_that_this_is_all(level: int, allowed: bool):
    verdict = judged(Facts(chains=[act()]), rules=replace(RULES, assurance_level=2), assurance_level=level)
    assert verdict.allowed is allowed
    assert verdict.reason is (Reason.NONE if allowed else Reason.ASSURANCE_TOO_LOW)


def test_an_explanation_names_what_each_rule_met_and_why_it_fell_short():
    soon = Window(NOW + timedelta(days=1), None)
    verdict = judged(Facts(chains=[act(soon), act(specifier="a"), represent(Window(NOW - timedelta(2), NOW))]))
    met = {(step.rule.name, item.shortfall) for step in verdict.steps for item in step.items}
    assert met == {
        ("ACT", Shortfall.NOT_YET),
        ("ACT", Shortfall.SPECIFIER),
        ("REPRESENT", Shortfall.ENDED),
        ("REPRESENT", Shortfall.NONE),
    }
