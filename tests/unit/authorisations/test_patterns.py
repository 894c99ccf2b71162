"""Patterns of specifiers: what they match, and that none of them can hold up the process."""

import pytest

from services.authorisations import patterns

RUNAWAY = ["(a+)+", "(a|a)*", "(a|aa)+b?", "(.*a){20}", "([a-z]+)*c"]


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("[0-9]+-[0-9]+", "853-401", True),
        ("[0-9]+-[0-9]+", "853-401\n", False),
        ("[0-9]+-[0-9]+", "x853-401", False),
        ("a|b", "ab", False),
        (r"\d+", "٣", False),
        ("ä+", "ää", True),
    ],
)
def test_a_pattern_is_for_the_whole_text(pattern: str, text: str, fits: bool):
    assert patterns.matches(pattern, text) is fits


@pytest.mark.parametrize("pattern", RUNAWAY)
def test_no_pattern_runs_away(pattern: str):
    """With Python's `re` the first of these would outlast the sun, and this test the time that a test may take."""
    assert not patterns.matches(pattern, "a" * 199 + "!")


@pytest.mark.parametrize("pattern", ["(", "(?=a)b", r"(a)\1", "a{1,1001}", "((a{100}){100}){100}", "(?P<x"])
def test_what_cannot_be_matched_so_is_refused_and_fits_nothing(pattern: str):
    with pytest.raises(ValueError, match="regular expression"):
        patterns.compiled(pattern)
    assert not patterns.matches(pattern, "b")
