"""Consistency tokens."""

import pytest

from services.runtime.errors import Fault
from services.runtime.facts import tokens

HERE, THERE = b"\x01" * 8, b"\x02" * 8
HEAD = tokens.token(HERE, 10)


def test_a_revision_covers_itself_and_earlier_ones_of_its_epoch():
    assert [tokens.covers(HEAD, tokens.token(HERE, number)) for number in (1, 10, 11)] == [True, True, False]
    assert not tokens.covers(HEAD, tokens.token(THERE, 1))
    assert not tokens.covers("", HEAD)
    assert tokens.covers("", "")
    assert tokens.revision(HEAD) == 10


@pytest.mark.parametrize(
    "given",
    [
        "x",
        HEAD[:16],
        HEAD[:-1],
        HEAD[:-1] + " ",
        tokens.token(HERE, 1).upper() + "0",
        tokens.token(HERE, 11),
        tokens.token(THERE, 1),
        HEAD[:31] + "!",
    ],
)
def test_what_was_never_given_here_is_refused(given: str):
    with pytest.raises(Fault) as refusal:
        tokens.check(given, head=HEAD)
    assert refusal.value.reason == "CONSISTENCY_TOKEN_UNKNOWN"
    tokens.check("", head=HEAD)
    tokens.check(HEAD, head=HEAD)
