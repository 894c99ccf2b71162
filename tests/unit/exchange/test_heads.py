"""Heads and trailers: what is written is read back, nothing else is, and none says where another request begins."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.exchange import heads
from services.exchange.heads import NOT_PASSED_ON, RequestHead, ResponseHead
from services.runtime.errors import Fault

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]"
names = st.from_regex(rf"\A{_TOKEN}{{1,20}}\Z").filter(lambda name: name.lower() not in NOT_PASSED_ON)
values = st.binary(max_size=30).map(lambda value: value.translate(None, b"\x00\r\n"))
headers = st.lists(st.tuples(names, values), max_size=6).map(tuple)
targets = st.from_regex(r"\A/[!-~]{0,40}\Z").map(str.encode)
requests = st.builds(RequestHead, st.from_regex(r"\A[A-Z]{3,16}\Z"), targets, headers)
responses = st.builds(
    ResponseHead,
    st.integers(200, 999),
    st.from_regex(r"\A[\t\x20-\x7e\x80-\xff]{0,20}\Z"),
    headers,
)
READERS = [heads.read_request, heads.read_response, heads.read_trailers]


def written(read: object) -> bytes:
    return read.encode() if isinstance(read, RequestHead | ResponseHead) else heads.fields(read)  # type: ignore[arg-type]


def check_read_as_it_is_or_refused(content: bytes) -> None:
    for reader in READERS:
        try:
            read = reader(content)
        except Fault as fault:
            assert (fault.reason, fault.code) == ("HEAD_INVALID", "INVALID_ARGUMENT")
        else:
            assert written(read) == content


@given(requests)
def test_a_request_comes_out_as_it_went_in(head) -> None:
    assert heads.read_request(head.encode()) == head


@given(responses)
def test_an_answer_comes_out_as_it_went_in(head) -> None:
    assert heads.read_response(head.encode()) == head


@given(headers)
def test_trailers_come_out_as_they_went_in(trailers) -> None:
    assert heads.read_trailers(heads.fields(trailers)) == trailers


@given(st.binary(max_size=200))
@example(b"")
@example(b"\r\n")
@example(b"GET\r\n/\r\n\r\n")
@example(b"GET\r\n/\r\na:b\r\n c:d\r\n")
def test_any_bytes_are_read_as_they_are_or_refused(content) -> None:
    check_read_as_it_is_or_refused(content)
    check_read_as_it_is_or_refused(b"GET\r\n/" + content + b"\r\n")
    check_read_as_it_is_or_refused(b"200\r\n" + content + b"\r\n")


@given(st.one_of(requests, responses), st.data())
def test_a_head_that_was_meddled_with_is_read_as_it_is_or_refused(head, data) -> None:
    content = bytearray(head.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        first = data.draw(st.integers(0, len(content)))
        last = data.draw(st.integers(first, min(len(content), first + 8)))
        content[first:last] = data.draw(
            st.one_of(st.sampled_from([b"\r\n", b"\n", b"\r", b":", b" "]), st.binary(max_size=8))
        )
    check_read_as_it_is_or_refused(bytes(content))


@pytest.mark.parametrize("name", sorted(NOT_PASSED_ON))
@pytest.mark.parametrize("spelt", [str.lower, str.title, str.upper])
def test_a_head_with_a_header_that_is_not_passed_on_is_refused(name, spelt) -> None:
    """By one of these a node could tell a backend that another request begins, one that no right was asked about."""
    field = f"{spelt(name)}:0\r\n".encode()
    for reader, before in zip(READERS, (b"POST\r\n/\r\n", b"200\r\n\r\n", b"a:b\r\n"), strict=True):
        reader(before)
        with pytest.raises(Fault) as refusal:
            reader(before + field)
        assert refusal.value.reason == "HEAD_INVALID"


@given(st.lists(st.tuples(st.text(max_size=12), st.binary(max_size=12)), max_size=6))
def test_what_is_passed_on_can_be_read_on_the_other_side(given_headers) -> None:
    try:
        kept = heads.passed_on(given_headers)
    except Fault as fault:
        assert fault.reason == "HEAD_INVALID"
    else:
        assert heads.read_trailers(heads.fields(kept)) == kept


@given(st.lists(st.tuples(names, values), max_size=6), st.data())
def test_what_connection_names_is_not_passed_on(given_headers, data) -> None:
    named = data.draw(st.lists(st.sampled_from([name for name, _ in given_headers] or ["x"]), max_size=3))
    connection = ("Connection", b", ".join(name.swapcase().encode() for name in named))
    kept = heads.passed_on([*given_headers, connection, ("Content-Length", b"7")])
    dropped = {name.lower() for name in named}
    assert kept == tuple(header for header in given_headers if header[0].lower() not in dropped)


def test_an_endless_head_is_refused() -> None:
    line = b"a:" + b"b" * 1000 + b"\r\n"
    heads.read_request(b"GET\r\n/\r\n" + line * 200)
    with pytest.raises(Fault):
        heads.read_request(b"GET\r\n/\r\n" + line * 300)
