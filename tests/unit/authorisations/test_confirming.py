"""Who confirms, and when it is enough."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.authorisations.confirming import (
    Alternative,
    Carer,
    Holder,
    Part,
    SignatoryPart,
    SignatoryRule,
    Standing,
    parties,
    rule,
    satisfied,
    upheld_until,
)

NAMES = [f"persons/{letter * 26}" for letter in "abcdef"]
CHAIR, MEMBER, OTHER, CHILD, PARENT, SECOND = NAMES
COMPANY = "organisations/" + "o" * 26


def chair_and_another() -> Standing:
    parts = (
        SignatoryPart(roles=("board-chair",), persons=(), needed=1),
        SignatoryPart(roles=("board-chair", "board-member"), persons=(), needed=1),
    )
    return Standing(
        principal=COMPANY,
        signatories=(SignatoryRule(alternatives=(parts,), basis="registers/trade/records/1"),),
        holders=(
            Holder(party=CHAIR, role="board-chair"),
            Holder(party=MEMBER, role="board-member"),
            Holder(party=OTHER, role="board-member"),
        ),
    )


def test_the_chair_alone_does_not_count_twice():
    joint = rule(chair_and_another())
    assert not satisfied(joint, {CHAIR})
    assert not satisfied(joint, {MEMBER, OTHER})
    assert satisfied(joint, {CHAIR, OTHER})
    assert parties(joint) == {CHAIR, MEMBER, OTHER}


def test_a_company_that_a_register_speaks_for_does_not_confirm_by_itself():
    assert not satisfied(rule(chair_and_another()), {COMPANY})
    assert satisfied(rule(Standing(principal=COMPANY)), {COMPANY})


def test_a_rule_that_nobody_can_fill_lets_nobody_confirm():
    standing = Standing(principal=COMPANY, signatories=chair_and_another().signatories)
    assert rule(standing) == ()


def test_joint_custodians_confirm_together_and_a_sole_one_alone():
    both = tuple(Carer(party=one, alone=False, basis="r") for one in (PARENT, SECOND))
    joint = rule(Standing(principal=CHILD, minor=True, carers=both))
    assert not satisfied(joint, {PARENT})
    assert satisfied(joint, {PARENT, SECOND})
    assert not satisfied(joint, {CHILD})
    sole = rule(Standing(principal=CHILD, minor=True, carers=(Carer(party=PARENT, alone=True, basis="r"),)))
    assert satisfied(sole, {PARENT})


def test_what_was_confirmed_is_enough_until_the_care_ends_that_it_needs():
    soon = datetime(2027, 1, 1, tzinfo=UTC)
    late = soon + timedelta(days=90)

    def ends(*carers: Carer, confirmed: tuple[str, ...]) -> datetime | None:
        standing = Standing(principal=CHILD, minor=True, carers=carers)
        by = [(party, "registers/population/records/1") for party in confirmed]
        found = upheld_until(rule(standing), by, carers)
        return found.until if found else None

    def carer(party: str, until: datetime | None, *, alone: bool = True) -> Carer:
        return Carer(party=party, alone=alone, basis="registers/population/records/1", until=until)

    assert ends(carer(PARENT, soon), carer(SECOND, None), confirmed=(PARENT,)) == soon
    assert ends(carer(PARENT, soon), carer(SECOND, None), confirmed=(SECOND,)) is None
    assert ends(carer(PARENT, soon), carer(SECOND, late), confirmed=(PARENT, SECOND)) == late
    together = carer(PARENT, soon, alone=False), carer(SECOND, late, alone=False)
    assert ends(*together, confirmed=(PARENT, SECOND)) == soon
    # Two registers speak of one custodian: the one that says it for longer counts.
    assert ends(carer(PARENT, soon), carer(PARENT, late), confirmed=(PARENT,)) == late


def test_a_competent_ward_and_its_guardian_may_each_confirm():
    guardian = (Carer(party=PARENT, alone=True, basis="r"),)
    for incompetent in (False, True):
        either = rule(Standing(principal=CHILD, incompetent=incompetent, carers=guardian))
        assert satisfied(either, {PARENT})
        assert bool(satisfied(either, {CHILD})) is not incompetent


PARTS = st.lists(
    st.builds(Part, parties=st.lists(st.sampled_from(NAMES), unique=True).map(tuple), needed=st.integers(1, 2)),
    max_size=3,
)


def assignable(parts: list[Part], confirmed: set[str]) -> bool:
    """By trying all ways."""
    if not parts:
        return True
    first, *rest = parts
    if first.needed == 0:
        return assignable(rest, confirmed)
    fewer = [Part(parties=first.parties, needed=first.needed - 1), *rest]
    return any(assignable(fewer, confirmed - {party}) for party in confirmed & set(first.parties))


@given(PARTS, st.sets(st.sampled_from(NAMES)))
def test_enough_is_what_some_assignment_of_different_parties_fills(parts: list[Part], confirmed: set[str]):
    found = satisfied((Alternative(parts=tuple(parts)),), confirmed)
    assert (found is not None) == assignable(parts, confirmed)


@given(PARTS, st.sets(st.sampled_from(NAMES)), st.sampled_from(NAMES))
def test_another_confirmation_never_takes_back_what_was_enough(parts: list[Part], confirmed: set[str], more: str):
    alternatives = (Alternative(parts=tuple(parts)),)
    if satisfied(alternatives, confirmed):
        assert satisfied(alternatives, confirmed | {more})
