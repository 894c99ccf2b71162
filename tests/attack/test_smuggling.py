"""Requests that two readers might cut at different places, or that HTTP/2 may carry and HTTP/1.1 may not.

The adapters are reached over HTTP/1.1, so what is smuggled would hit them:
`/oauth2/token` is the way in. A smuggled request would show as a second answer.
"""

from __future__ import annotations

import pytest

from tests.attack.conftest import UNIT, Target, at_both_doors, told
from tests.attack.wire import CLOSED, Http2, Raw

TOKEN = "/oauth2/token"
SMUGGLED = b"GET /.well-known/oauth-authorization-server HTTP/1.1\r\nHost: localhost\r\n\r\n"
REFUSED = {"400", "401", "403", "404", "405", "413", "415", "431", "501", "505"}

HTTP1 = {
    "content-length and transfer-encoding": ["Content-Length: 4", "Transfer-Encoding: chunked"],
    "transfer-encoding and content-length": ["Transfer-Encoding: chunked", "Content-Length: 4"],
    "two content-lengths": ["Content-Length: 4", "Content-Length: 100"],
    "a list of content-lengths": ["Content-Length: 4, 100"],
    "signed content-length": ["Content-Length: +4"],
    "hexadecimal content-length": ["Content-Length: 0x4"],
    "negative content-length": ["Content-Length: -1"],
    "endless content-length": [f"Content-Length: {'9' * 40}"],
    "space before the colon": ["Content-Length : 4"],
    "folded transfer-encoding": ["Transfer-Encoding:\r\n chunked", "Content-Length: 4"],
    "unknown coding": ["Transfer-Encoding: xchunked", "Content-Length: 4"],
    "chunked twice": ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked", "Content-Length: 4"],
    "chunked, then identity": ["Transfer-Encoding: chunked, identity", "Content-Length: 4"],
    "vertical tab before chunked": ["Transfer-Encoding: \x0bchunked", "Content-Length: 4"],
    "quoted chunked": ['Transfer-Encoding: "chunked"', "Content-Length: 4"],
    "underscored name": ["Transfer_Encoding: chunked", "Content-Length: 4"],
    "NUL in a value": ["X-One: 1\x00", "Content-Length: 4"],
}


@at_both_doors
@pytest.mark.parametrize("case", HTTP1)
async def test_a_body_of_doubtful_length_is_refused_with_all_that_follows(target: Target, case: str) -> None:
    request = target.request(f"POST {TOKEN} HTTP/1.1", *HTTP1[case], body=b"0\r\n\r\n" + SMUGGLED)
    async with Raw.open(target.port, target.http1) as attacker:
        await attacker.send(request)
        answers = await attacker.answers()
    told(f"HTTP/1.1, {case}, with a second request in the body", answers)
    assert [answer for answer in answers if answer != CLOSED] == ["400"]


CHUNKS = {
    "chunk size with a sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "chunk size that overflows": b"FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
    "chunk size of 64 bits that wraps": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "chunk ended by a bare line feed": b"5\nhello\n0\n\n",
    "no size": b"\r\nhello\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("case", CHUNKS)
async def test_a_malformed_chunk_smuggles_nothing(target: Target, case: str) -> None:
    form = "Content-Type: application/x-www-form-urlencoded"
    request = target.request(f"POST {TOKEN} HTTP/1.1", "Transfer-Encoding: chunked", form, body=CHUNKS[case] + SMUGGLED)
    async with Raw.open(target.port, target.http1) as attacker:
        await attacker.send(request)
        answers = await attacker.answers()
    told(f"HTTP/1.1, {case}", answers)
    assert [answer for answer in answers if answer != CLOSED] == ["400"]


LINES = {
    "no version": f"GET {UNIT}",
    "HTTP/0.9": f"GET {UNIT} HTTP/0.9",
    "HTTP/3.0": f"GET {UNIT} HTTP/3.0",
    "two spaces in the path": "GET /v1/units/per mits HTTP/1.1",
    "control character in the path": "GET /v1/units/\x01 HTTP/1.1",
    "method with a space": f"GE T {UNIT} HTTP/1.1",
    "CONNECT": "CONNECT localhost:1 HTTP/1.1",
    "an upgrade": f"GET {UNIT} HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket",
}


@at_both_doors
@pytest.mark.parametrize("case", LINES)
async def test_a_malformed_request_line_is_refused(target: Target, case: str) -> None:
    async with Raw.open(target.port, target.http1) as attacker:
        await attacker.send(target.request(LINES[case]))
        answers = await attacker.answers()
    told(f"HTTP/1.1, {case}", answers)
    assert set(answers) <= {"400", "401", "404", CLOSED}


@at_both_doors
async def test_an_upgrade_to_h2c_is_not_taken_up(target: Target) -> None:
    fields = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
    async with Raw.open(target.port, target.http1) as attacker:
        await attacker.send(target.request(f"GET {UNIT} HTTP/1.1", *fields))
        answers = await attacker.answers()
    told("HTTP/1.1, an upgrade to h2c", answers)
    assert "101" not in answers


HTTP2 = {
    "transfer-encoding": [("transfer-encoding", "chunked")],
    "connection": [("connection", "close, authorization")],
    "keep-alive": [("keep-alive", "timeout=1000")],
    "proxy-connection": [("proxy-connection", "keep-alive")],
    "upgrade": [("upgrade", "h2c")],
    "te other than trailers": [("te", "gzip")],
    "line break in a value": [("x-one", "1\r\ntransfer-encoding: chunked\r\n\r\n")],
    "line feed in a value": [("x-one", "1\nhost: elsewhere")],
    "NUL in a value": [("x-one", "1\x00")],
    "line break in a name": [("x-one\r\ntransfer-encoding", "chunked")],
    "colon in a name": [("transfer-encoding:chunked", "1")],
    "space in a name": [("transfer-encoding ", "chunked")],
    "capitals in a name": [("Transfer-Encoding", "chunked")],
    "empty name": [("", "chunked")],
    "two content-lengths": [("content-length", "4"), ("content-length", "9")],
    "content-length that is too short": [("content-length", "1")],
    "content-length that is too long": [("content-length", "9999")],
    "a pseudo header after the others": [(":path", "/v1/units/other")],
    "an unknown pseudo header": [(":forged", "1")],
    "a status in a request": [(":status", "200")],
    "underscored name": [("x_one", "1")],
}


@pytest.mark.parametrize("case", HTTP2)
async def test_what_http2_forbids_does_not_become_http1(target: Target, case: str) -> None:
    form = ("content-type", "application/x-www-form-urlencoded")
    async with Http2.open(target.port, target.http2) as attacker:
        stream = await attacker.begin(target.headers("POST", TOKEN, form, *HTTP2[case]), SMUGGLED)
        outcome = await attacker.outcome(stream)
    told(f"HTTP/2, {case}, to a path that goes on over HTTP/1.1", outcome)
    assert outcome in REFUSED or outcome.startswith(("reset", "goaway")) or outcome == CLOSED


PSEUDO = {
    "no path": [(":method", "GET"), (":scheme", "https"), (":authority", "localhost")],
    "empty path": [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", "")],
    "two paths": [(":method", "GET"), (":scheme", "https"), (":path", UNIT), (":path", "/oauth2/jwks")],
    "two methods": [(":method", "GET"), (":method", "POST"), (":scheme", "https"), (":path", UNIT)],
    "no method": [(":scheme", "https"), (":authority", "localhost"), (":path", UNIT)],
    "method with a line break": [(":method", "GET / HTTP/1.1\r\nx: y"), (":scheme", "https"), (":path", TOKEN)],
    "path with a line break": [(":method", "GET"), (":scheme", "https"), (":path", "/oauth2/jwks HTTP/1.1\r\nx: y")],
    "path with a space": [(":method", "GET"), (":scheme", "https"), (":path", "/oauth2/jwks /v1")],
    "path without a slash": [(":method", "GET"), (":scheme", "https"), (":path", "oauth2/jwks")],
    "authority with a line break": [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "a\r\nb: c"),
        (":path", UNIT),
    ],
    "CONNECT": [(":method", "CONNECT"), (":authority", "127.0.0.1:5432")],
    "extended CONNECT": [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"), (":path", UNIT)],
}


@pytest.mark.parametrize("case", PSEUDO)
async def test_malformed_pseudo_headers_are_refused(target: Target, case: str) -> None:
    async with Http2.open(target.port, target.http2) as attacker:
        stream = await attacker.begin([*PSEUDO[case], ("authorization", target.bearer)])
        outcome = await attacker.outcome(stream)
    told(f"HTTP/2, {case}", outcome)
    assert outcome in REFUSED or outcome.startswith(("reset", "goaway")) or outcome == CLOSED
