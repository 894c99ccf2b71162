"""More of something than an honest client ever sends: frames, streams, connections, bytes."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import hpack
import pytest

from gateway.envoy.plan import Limits
from tests.attack.conftest import UNIT, Target, at_both_doors, told
from tests.attack.wire import (
    CLOSED,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    NOTHING,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Headers,
    Http2,
    Raw,
    frame,
)

MANY = 20_000
CANCEL = (8).to_bytes(4)
FIRST = 1
"""A stream that is opened before the flood."""


def block(headers: Headers) -> bytes:
    """Headers in HPACK, without a table that later blocks need."""
    return bytes(hpack.Encoder().encode([(name, value, True) for name, value in headers]))


async def flooded(attacker: Http2, pieces: list[bytes]) -> str:
    """Sends all of it, or until the other end has had enough; returns how the connection ended, or NOTHING."""
    for start in range(0, len(pieces), 200):
        if not await attacker.send(b"".join(pieces[start : start + 200])):
            break
    return await attacker.end(within=2)


@at_both_doors
async def test_rapid_reset(target: Target) -> None:
    headers = block(target.headers())
    pieces = [
        frame(HEADERS, END_HEADERS | END_STREAM, stream, headers) + frame(RST_STREAM, 0, stream, CANCEL)
        for stream in range(1, 2 * MANY, 2)
    ]
    async with Http2.open(target.port, target.http2) as attacker:
        ended, _ = await asyncio.gather(flooded(attacker, pieces), target.serves())
    told(f"{MANY} requests, each reset at once (CVE-2023-44487)", ended)
    assert ended != NOTHING


@at_both_doors
async def test_resets_that_the_edge_is_made_to_send(target: Target) -> None:
    """Requests that are malformed, so that the resets are the edge's own (CVE-2025-8671)."""
    headers = block(target.headers("GET", target.path, ("connection", "close")))
    pieces = [frame(HEADERS, END_HEADERS | END_STREAM, stream, headers) for stream in range(1, 2 * MANY, 2)]
    async with Http2.open(target.port, target.http2) as attacker:
        ended, _ = await asyncio.gather(flooded(attacker, pieces), target.serves())
    told(f"{MANY} malformed requests on one connection", ended)
    assert ended != NOTHING


FLOODS = {
    "PING": [frame(PING, 0, 0, bytes(8))] * MANY,
    "SETTINGS": [frame(SETTINGS, 0, 0)] * MANY,
    "empty DATA": [frame(DATA, 0, FIRST)] * MANY,
    "PRIORITY": [frame(PRIORITY, 0, FIRST, bytes(5))] * MANY,
    "WINDOW_UPDATE": [frame(WINDOW_UPDATE, 0, FIRST, (1).to_bytes(4))] * MANY,
    "unknown frames": [frame(200, 0, 0, bytes(16))] * MANY,
}


@at_both_doors
@pytest.mark.parametrize("kind", FLOODS)
async def test_frames_without_end(target: Target, kind: str) -> None:
    async with Http2.open(target.port, target.http2) as attacker:
        await attacker.send(frame(HEADERS, END_HEADERS, FIRST, block(target.headers("POST", f"{UNIT}/messages"))))
        ended, _ = await asyncio.gather(flooded(attacker, FLOODS[kind]), target.serves())
    told(f"{MANY} {kind} frames", ended if ended != NOTHING else "taken without an effect")


@at_both_doors
async def test_a_header_block_without_end(target: Target) -> None:
    async with Http2.open(target.port, target.http2) as attacker:
        await attacker.send(frame(HEADERS, 0, FIRST, block(target.headers())))
        field = b"\x00\x01a" + b"\x7f\x81\x7e" + b"a" * 16_000
        ended = await flooded(attacker, [frame(CONTINUATION, 0, FIRST, field)] * 1000)
    told("CONTINUATION frames of 16 kB without end (CVE-2024-27316)", ended)
    assert ended != NOTHING


@at_both_doors
async def test_a_small_header_block_that_unpacks_to_a_large_one(target: Target) -> None:
    """One field of 4 kB in the table of HPACK, and thousands of references to it."""
    async with Http2.open(target.port, target.http2) as attacker:
        start = hpack.Encoder().encode([*target.headers(), ("x-bomb", "a" * 3000)])
        bomb = start + b"\xbe" * 8000
        await attacker.send(frame(HEADERS, END_HEADERS | END_STREAM, FIRST, bomb))
        attacker.state.get_next_available_stream_id()
        outcome = await attacker.end(within=2)
    told("a header block of 12 kB that stands for 24 MB", outcome if outcome != NOTHING else "the stream was refused")


@at_both_doors
async def test_more_streams_than_a_connection_may_have(target: Target) -> None:
    limit = Limits().streams_per_connection
    headers = block([*target.headers("POST", f"{UNIT}/messages"), ("content-type", "application/json")])
    async with Http2.open(target.port, target.http2) as attacker:
        ended = await flooded(
            attacker, [frame(HEADERS, END_HEADERS, stream, headers) for stream in range(1, 20 * limit, 2)]
        )
        await target.serves()
    told(f"{10 * limit} calls at once on one connection", ended if ended != NOTHING else "the rest refused")


@at_both_doors
async def test_hundreds_of_connections(target: Target) -> None:
    many = 300
    async with AsyncExitStack() as stack:
        await asyncio.gather(*(stack.enter_async_context(Raw.open(target.port, target.http1)) for _ in range(many)))
        await target.serves()
    told(f"{many} connections that say nothing", "an honest client is served meanwhile")


@at_both_doors
async def test_requests_that_come_without_their_answers_being_read(target: Target) -> None:
    async with Raw.open(target.port, target.http1) as attacker:
        try:
            async with asyncio.timeout(3):
                taken = 0
                while await attacker.send(target.request() * 20):
                    taken += 20
        except TimeoutError:
            pass
        await target.serves()
    told("requests over HTTP/1.1 one after the other, no answer read", f"{taken} taken, then no longer read from")


@at_both_doors
async def test_handshakes_again_and_again(target: Target) -> None:
    async def one() -> None:
        async with Raw.open(target.port, target.http1):
            pass

    for _ in range(10):
        await asyncio.gather(*(one() for _ in range(20)))
    told("200 handshakes, each connection closed at once", "all done")


BOUNDLESS = {
    "a header": (b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: ", b"a" * 65536),
    "header lines": (b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"X-Many: a\r\n" * 6000),
    "a path": (b"GET /", b"a" * 65536),
    "a method": (b"", b"A" * 65536),
    "empty lines": (b"", b"\r\n" * 32768),
    "a body": (b"POST /oauth2/token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n", b"a" * 65536),
    "chunks": (
        b"POST /oauth2/token HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"10000\r\n" + b"a" * 65536 + b"\r\n",
    ),
    "a chunk extension": (
        b"POST /oauth2/token HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1;",
        b"a" * 65536,
    ),
    "trailers": (
        b"POST /oauth2/token HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
        b"X-Trailer: a\r\n" * 5000,
    ),
}


@at_both_doors
@pytest.mark.parametrize("what", BOUNDLESS)
async def test_what_has_no_end_is_cut_off(target: Target, what: str) -> None:
    start, more = BOUNDLESS[what]
    sent = 0
    async with Raw.open(target.port, target.http1) as attacker:
        await attacker.send(start)
        for _ in range(1000):
            if not await attacker.send(more):
                break
            sent += len(more)
            await asyncio.sleep(0)
        answers = await attacker.answers()
    told(f"{what} without end, up to {1000 * len(more) >> 20} MiB", f"{answers} after {sent >> 10} KiB")
    # Empty lines before a request are skipped, whatever their number; they are kept nowhere.
    assert answers or what == "empty lines"
    assert set(answers) <= {"400", "404", "413", "431", CLOSED}


@at_both_doors
async def test_a_body_over_http2_without_end(target: Target) -> None:
    async with Http2.open(target.port, target.http2) as attacker:
        stream = await attacker.begin(target.headers("POST", "/oauth2/token"), end=False)
        for _ in range(64):
            window = attacker.state.local_flow_control_window(stream)
            if window < 16384:
                break
            attacker.state.send_data(stream, b"a" * 16384)
            await attacker.flush()
        outcome = await attacker.outcome(stream)
    told("a body over HTTP/2, as much as the windows allow", outcome)
    assert outcome in {"400", "401", "404", "413"} or outcome.startswith("reset")


BODIES = {
    "arrays in arrays": b"[" * 500_000,
    "objects in objects": b'{"message":' * 90_000,
    "an endless number": b'{"title":' + b"9" * 900_000 + b"}",
    "an endless name": b'{"' + b"a" * 900_000 + b'":1}',
    "the same member again and again": b"{" + b'"title":"a",' * 80_000 + b'"title":"a"}',
    "no UTF-8": b'{"title":"' + b"\xff" * 1000 + b'"}',
    "any of any": b'{"@type":"type.googleapis.com/google.protobuf.Any","value":' * 10_000,
}


@pytest.mark.parametrize("what", BODIES)
async def test_json_that_no_parser_likes(target: Target, what: str) -> None:
    body = BODIES[what]
    fields = ("Content-Type: application/json", f"Content-Length: {len(body)}")
    async with Raw.open(target.port, target.http1) as attacker:
        await attacker.send(target.request(f"POST {UNIT}/messages HTTP/1.1", *fields, body=body))
        answers = await attacker.answers()
    told(f"a JSON body of {len(body) >> 10} KiB: {what}", answers)
    assert set(answers) <= {"400", "413", CLOSED}
