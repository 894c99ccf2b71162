"""Bodies and metadata of gRPC, as exchanges carry them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.exchange import grpc_messages
from services.exchange.grpc_messages import framed
from services.runtime.errors import Fault


async def _split(content, cuts):
    at = 0
    for cut in sorted(cuts):
        yield content[at:cut]
        at = cut
    yield content[at:]


async def _read(content, cuts=()):
    return [message async for message in grpc_messages.messages(_split(content, cuts))]


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(0, 300), max_size=12))
async def test_messages_come_out_as_they_went_in_however_they_are_cut(messages, cuts):
    assert await _read(b"".join(map(framed, messages)), cuts) == messages


@given(st.binary(min_size=1, max_size=30))
async def test_what_is_no_body_is_refused_with_its_reason(content):
    try:
        messages = await _read(content)
    except Fault as fault:
        assert fault.reason == "FRAMES_INVALID"
    else:
        assert b"".join(map(framed, messages)) == content


@given(st.binary(max_size=40))
def test_binary_metadata_comes_out_as_it_went_in(content):
    headers = grpc_messages.headers((("a-bin", content),))
    assert grpc_messages.metadata(headers) == (("a-bin", content),)


@given(st.integers(0, 16), st.text(max_size=40))
def test_a_status_comes_out_as_it_went_in(code, details):
    details = details.encode("utf-8", "ignore").decode()
    assert grpc_messages.status_of(grpc_messages.status_trailers(code, details)) == (code, details)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(b"250m", 0.25), (b"2S", 2.0), (b"1H", 3600.0), (b"", None), (b"x", None), (b"123456789S", None)],
)
def test_a_timeout_is_read_as_the_protocol_has_it(header, seconds):
    assert grpc_messages.timeout_of((("grpc-timeout", header),)) == seconds


@pytest.mark.parametrize("header", [("a-bin", b"!"), ("a", b"\xff"), ("a b", b"c"), ("a", b"\x01")])
def test_headers_that_grpc_cannot_carry_are_refused(header):
    with pytest.raises(Fault) as fault:
        grpc_messages.metadata((header,))
    assert fault.value.reason == "HEAD_INVALID"


fields = st.lists(st.tuples(st.text(max_size=12), st.binary(max_size=12)), max_size=6)


@given(fields)
def test_any_headers_are_metadata_that_grpc_carries_or_refused(found):
    try:
        metadata = grpc_messages.metadata(found)
    except Fault as fault:
        assert fault.reason == "HEAD_INVALID"
    else:
        for name, content in metadata:
            assert re.fullmatch(r"[0-9a-z_.-]+", name)
            assert isinstance(content, bytes) == name.endswith("-bin")
            assert not name.startswith(("grpc-", ":")) or name == "grpc-status-details-bin"
        assert grpc_messages.metadata(grpc_messages.headers(metadata)) == metadata


@given(fields, st.binary(max_size=6), st.binary(max_size=30))
def test_any_trailers_say_how_a_call_ended(found, code, details):
    code_found, text = grpc_messages.status_of((*found, ("grpc-status", code), ("Grpc-Message", details)))
    assert 0 <= code_found <= 19
    text.encode()


@given(st.binary(max_size=12))
def test_any_timeout_is_seconds_or_none(header):
    seconds = grpc_messages.timeout_of((("grpc-timeout", header),))
    assert seconds is None or 0 <= seconds < 1e12


def test_the_protocols_own_headers_are_no_metadata():
    given = [("content-type", b"application/grpc"), ("grpc-encoding", b"gzip"), ("TE", b"trailers"), ("X", b"1")]
    assert grpc_messages.metadata(given) == (("x", "1"),)
