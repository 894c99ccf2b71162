"""Access rights: no spelling of a path gets around them."""

from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.exchange import access
from services.exchange.access import Pattern, Right
from services.runtime.errors import Fault

NOW = datetime(2026, 11, 21, tzinfo=UTC)
US = "FI/MUN/1/letters"


def right(*patterns: Pattern, subjects=(US,), expires=None) -> Right:
    return Right("right", frozenset(subjects), patterns, expires)


def judge(path: str | bytes, *rights: Right, method="GET", groups=()) -> str:
    """The name of the right that allows a call, or the reason for its refusal."""
    content = path.encode() if isinstance(path, str) else path
    try:
        return access.judge(rights, subsystem=US, groups=groups, method=method, path=content, now=NOW).name
    except Fault as fault:
        return fault.reason


def test_nobody_may_until_a_right_says_so():
    assert judge("/a") == "ACCESS_DENIED"
    assert judge("/a", right(subjects=("FI/MUN/1/other",))) == "ACCESS_DENIED"
    assert judge("/a", right()) == "right"


@pytest.mark.parametrize(
    "path",
    [
        "", "a", "//", "//a", "/a//b", "/.", "/..", "/a/../b", "/a/./b", "/%2e%2e", "/%2E%2e/b", "/.%2e/b", "/a/..;x/b",
        "/;x", "/a/;/b", "/a%2fb", "/a%2Fb", "/a%5cb", "/a\\b", "/%252e%252e", "/a%252fb", "/a%00", "/a%0d%0ab", "/a%1f",
        "/%", "/%2", "/%zz", "/%c0%ae%c0%ae/", "/%ff", "/a b", "/a\tb", "/a#b", "/ä", "/a?b",
    ],
)  # fmt: skip
def test_a_path_that_can_be_read_in_two_ways_is_refused(path):
    assert judge(path, right()) == "PATH_NOT_NORMAL"


@pytest.mark.parametrize(
    "path", ["/", "/a", "/a/", "/a/b.c", "/a;b=c", "/%41", "/a%20b", "/%C3%A4", "/a+b", "/...", "/~a", "/a=b&c"]
)
def test_a_path_with_one_reading_is_judged(path):
    assert judge(path, right()) == "right"


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("/a", "/a", True), ("/a", "/a/", False), ("/a", "/A", False), ("/a/*", "/a/b", True), ("/a/*", "/a/b/c", False),
        ("/a/{id}", "/a/7", True), ("/a/{id}/c", "/a/7/c", True), ("/a/**", "/a", True), ("/a/**", "/a/b/c", True),
        ("/a/**", "/ab", False), ("/**", "/", True), ("/**", "/x/y", True), ("/a b", "/a%20b", True), ("/%41", "/%41", False),
        ("/A", "/%41", True), ("/", "/", True), ("/a*", "/ab", False),
    ],
)  # fmt: skip
def test_patterns_fit_segments(pattern, path, fits):
    assert (judge(path, right(Pattern("*", pattern))) == "right") is fits


def test_methods_are_compared_as_they_are():
    allowed = right(Pattern("GET", "/a"))
    assert judge("/a", allowed) == "right"
    assert judge("/a", allowed, method="POST") == "ACCESS_DENIED"


def test_a_right_is_held_by_groups_and_ends_with_its_time():
    assert judge("/a", right(subjects=("group FI/schools",)), groups=["FI/schools"]) == "right"
    assert judge("/a", right(subjects=("group FI/schools",)), groups=["FI/others"]) == "ACCESS_DENIED"
    assert judge("/a", right(expires=NOW)) == "ACCESS_DENIED"
    assert judge("/a", right(expires=NOW + timedelta(seconds=1))) == "right"


@pytest.mark.parametrize("path", ["/a//b", "/../a", "/**/a", "/a*", "/{a}b", "/a?b", "/%41", "/a\\b"])
def test_what_is_no_pattern_is_refused(path):
    with pytest.raises(Fault) as refusal:
        access.check_pattern(Pattern("*", path))
    assert refusal.value.reason == "PATTERN_INVALID"


_PIECES = st.sampled_from(
    [
        "open",
        "secret",
        ".",
        "..",
        "/",
        "//",
        "%2e",
        "%2E",
        "%2f",
        "%5c",
        "%25",
        "2e",
        "\\",
        ";",
        "%00",
        "%c0%ae",
        "%",
        "a",
    ]
)


def _readings(path: str) -> set[tuple[str, ...]]:
    """What backends that decode once, twice or thrice, cut parameters or fold slashes may take a path for."""
    found = set()
    for text in {path, unquote(path), unquote(unquote(path)), unquote(unquote(unquote(path)))}:
        for slashes in {text, text.replace("\\", "/")}:
            for cut in (False, True):
                segments: list[str] = []
                for piece in slashes.split("/"):
                    read = piece.partition(";")[0] if cut else piece
                    if read == "..":
                        segments = segments[:-1]
                    elif read not in {"", "."}:
                        segments.append(read)
                found.add(tuple(segments))
    return found


@given(st.lists(_PIECES, max_size=12))
def test_no_reading_of_an_allowed_path_leaves_what_was_allowed(pieces):
    path = "/open/" + "".join(pieces)
    if judge(path, right(Pattern("GET", "/open/**"))) == "right":
        assert all(reading[:1] == ("open",) for reading in _readings(path)), path


@given(st.binary(max_size=40))
def test_any_bytes_are_judged_or_refused(path):
    assert judge(b"/" + path, right(Pattern("GET", "/a"))) in {"right", "ACCESS_DENIED", "PATH_NOT_NORMAL"}
