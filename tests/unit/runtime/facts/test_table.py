"""What the facts in memory answer."""

from datetime import timedelta
from typing import Any

import pytest
from solmu.authorisations.v1.facts_pb2 import FactChange
from solmu.authorisations.v1.themes_pb2 import Theme

from services.runtime.errors import Fault
from services.runtime.facts.checking import Basis, Shortfall, Verdict
from services.runtime.facts.table import FactTable
from tests.unit.runtime.facts.facts import (
    CHILD,
    COMPANY,
    DAY,
    FIRM,
    NOW,
    PERSON,
    block,
    mandate,
    question,
    register,
    right,
    theme,
)


def having(*changes: FactChange) -> FactTable:
    facts = FactTable()
    facts.apply([theme(), *changes])
    return facts


def judged(facts: FactTable, *asked: Any, explain: bool = False, **fields: Any) -> Verdict:
    verdict = facts.judge(question(*asked, **fields), now=NOW, explain=explain)
    assert isinstance(verdict, Verdict), verdict
    return verdict


def test_a_mandate_counts_between_its_instants_and_is_named():
    given = mandate(PERSON, COMPANY)
    facts = having(given, mandate(PERSON, FIRM))
    verdict = judged(facts)
    assert (verdict.mandates, verdict.expire) == ((given.name,), NOW + DAY)
    just = timedelta(microseconds=1)
    instants = (NOW - DAY - just, NOW - DAY, NOW + DAY - just, NOW + DAY)
    assert [judged(facts, at=at).allowed for at in instants] == [False, True, True, False]


def test_a_change_replaces_the_fact_and_one_without_a_fact_ends_it():
    given = mandate(PERSON, COMPANY, name="mandates/0193f2a0-0000-7000-8000-000000000001")
    facts = having(given)
    facts.apply([mandate(PERSON, COMPANY, name=given.name, end=NOW)])
    assert not judged(facts).allowed
    facts.apply([mandate(PERSON, COMPANY, name=given.name, end=NOW), given])
    assert judged(facts).allowed
    facts.apply([FactChange(name=given.name)])
    assert not judged(facts, explain=True).steps[3].items


def test_an_explanation_meets_what_does_not_hold():
    facts = having(mandate(PERSON, COMPANY, end=NOW))
    assert not judged(facts).steps[3].items
    assert [item.shortfall for item in judged(facts, explain=True).steps[3].items] == [Shortfall.ENDED]


def test_chains_go_as_deep_as_the_theme_allows():
    between = f"organisations/{'m' * 26}"
    facts = having(
        mandate(PERSON, FIRM, kind=2), mandate(FIRM, between, kind=2), mandate(FIRM, CHILD), mandate(between, COMPANY)
    )
    assert judged(facts, PERSON, CHILD).through == FIRM
    assert not judged(facts, PERSON, COMPANY).allowed
    facts.apply([theme(greatest_depth=3)])
    assert judged(facts, PERSON, COMPANY).basis is Basis.REPRESENTED_MANDATE


def test_mandates_to_issue_are_no_rights_to_act():
    assert not judged(having(mandate(PERSON, COMPANY, kind=3))).allowed


def test_blocks_of_any_party_on_the_way_count_while_they_hold():
    way = (mandate(PERSON, FIRM, kind=2), mandate(FIRM, COMPANY))
    assert judged(having(*way)).allowed
    for party in (PERSON, FIRM, COMPANY):
        assert not judged(having(*way, block(party, 3))).allowed
        assert judged(having(*way, block(party, 3, end=NOW))).allowed
    gone = block(PERSON, 3)
    facts = having(*way, gone)
    facts.apply([FactChange(name=gone.name)])
    assert judged(facts).allowed


def test_custody_ends_at_the_age_that_the_theme_names():
    facts = having(right(PERSON, CHILD, "custodian", {15: NOW, 18: NOW + DAY}, end=None))
    facts.apply([theme(register_rights=[Theme.RegisterRight(role="custodian")])])
    assert judged(facts, PERSON, CHILD).expire == NOW + DAY
    facts.apply([theme(register_rights=[Theme.RegisterRight(role="custodian", until_age=15)])])
    assert not judged(facts, PERSON, CHILD).allowed
    facts.apply([theme(register_rights=[Theme.RegisterRight(role="custodian", until_age=12)])])
    assert not judged(facts, PERSON, CHILD).allowed, "an age that no fact tells of is taken for reached"


def fault(facts: FactTable, **fields: Any) -> Fault:
    refusal = facts.judge(question(**fields), now=NOW)
    assert isinstance(refusal, Fault)
    return refusal


def test_a_register_that_should_have_spoken_leaves_nothing_to_judge_that_rests_on_it():
    facts = having(mandate(PERSON, COMPANY), register("block", end=NOW))
    assert judged(facts).allowed
    facts.apply([register("block", end=NOW - timedelta(microseconds=1))])
    assert (fault(facts).reason, fault(facts).metadata) == ("REGISTER_STALE", {"register": "registers/r"})
    facts.apply([register("custody", end=NOW - DAY)])
    assert judged(facts).allowed, "the theme has no rights by register"
    facts.apply([register("block", end=NOW - DAY)])
    facts.apply([register("block", end=None)])
    assert judged(facts).allowed


def test_a_theme_that_is_not_there_is_refused():
    assert fault(FactTable()).reason == "THEME_UNSUITABLE"


def test_changes_are_applied_whole_or_not_at_all():
    facts = having(mandate(PERSON, COMPANY))
    with pytest.raises(ValueError, match="fromhex"):
        facts.apply([FactChange(name=f"mandates/{'0' * 32}"), FactChange(name="mandates/no-id")])
    broken = mandate(PERSON, FIRM)
    broken.fact.start_time.seconds = 2**62  # more microseconds than an integer of the tables holds
    with pytest.raises(OverflowError):
        facts.apply([mandate(CHILD, COMPANY), broken])
    assert not judged(facts, CHILD, COMPANY).allowed
    assert judged(facts).allowed
