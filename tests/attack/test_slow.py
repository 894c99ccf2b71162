"""Clients that take their time in order to hold what others need. Each is cut off by a limit of `gateway/envoy/plan.py`."""

from __future__ import annotations

import asyncio

import h2.settings
import pytest

from gateway.envoy.plan import Limits
from gateway.routes import DEFAULT_UNARY_SECONDS
from tests.attack.conftest import UNIT, Target, at_both_doors, told
from tests.attack.wire import CLOSED, CONTINUATION, HEADERS, NOTHING, Http2, Raw, frame

MANY = 50
GRACE = 5
"""Seconds by which a limit may be late."""


async def dribble(attacker: Raw, byte: bytes, *, within: float) -> int:
    """Sends a byte each half second until the other end closes; returns how many it took."""
    async with asyncio.timeout(within):
        sent = 0
        while await attacker.send(byte):
            sent += 1
            try:
                if not await asyncio.wait_for(attacker.reader.read(65536), 0.5):
                    return sent
            except TimeoutError:
                pass
            except ConnectionError:
                return sent
        return sent


@at_both_doors
async def test_handshakes_that_never_end(target: Target) -> None:
    async def one() -> int:
        async with Raw.open(target.port, None) as attacker:
            await attacker.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
            return await dribble(attacker, b"\x00", within=Limits().handshake_seconds + GRACE)

    sent, _ = await asyncio.gather(asyncio.gather(*(one() for _ in range(MANY))), target.serves())
    told(f"{MANY} handshakes, a byte each half second", f"closed after {min(sent)} to {max(sent)} bytes")


@at_both_doors
async def test_headers_that_never_end(target: Target) -> None:
    async def one() -> int:
        async with Raw.open(target.port, target.http1) as attacker:
            await attacker.send(f"GET {UNIT} HTTP/1.1\r\nHost: localhost\r\nX-Slow: ".encode())
            return await dribble(attacker, b"a", within=Limits().headers_seconds + GRACE)

    sent, _ = await asyncio.gather(asyncio.gather(*(one() for _ in range(MANY))), target.serves())
    told(f"{MANY} requests over HTTP/1.1, a byte of a header each half second", f"closed after {max(sent)} bytes")


@at_both_doors
async def test_header_blocks_that_never_end(target: Target) -> None:
    """Over HTTP/2: a HEADERS frame, and then CONTINUATION frames of one byte."""

    async def one() -> str:
        async with Http2.open(target.port, target.http2) as attacker:
            await attacker.send(frame(HEADERS, 0, 1, b"\x82\x87"))
            for _ in range(2 * (Limits().headers_seconds + GRACE)):
                await attacker.send(frame(CONTINUATION, 0, 1, b"\x84"))
                if (outcome := await attacker.outcome(1, within=0.5)) != NOTHING:
                    return outcome
        return NOTHING

    outcomes, _ = await asyncio.gather(asyncio.gather(*(one() for _ in range(MANY))), target.serves())
    told(f"{MANY} header blocks over HTTP/2, a frame each half second", set(outcomes))
    assert NOTHING not in outcomes


@pytest.mark.parametrize("path", ["/oauth2/token", "/v1/units/permits/messages"], ids=["adapter", "REST"])
async def test_bodies_that_never_end(target: Target, path: str) -> None:
    kind = "application/x-www-form-urlencoded" if path.startswith("/oauth2") else "application/json"
    fields = ("Content-Length: 1000", f"Content-Type: {kind}")

    async def one() -> tuple[int, list[str]]:
        async with Raw.open(target.port, target.http1) as attacker:
            request = target.request(f"POST {path} HTTP/1.1", *fields)
            # An adapter that sees a token where none belongs refuses before it has read the body.
            await attacker.send(request if "v1" in path else request.replace(b"Authorization:", b"X-Other:"))
            sent = 0
            async with asyncio.timeout(DEFAULT_UNARY_SECONDS + GRACE):
                while not attacker.reader._buffer and await attacker.send(b" "):  # type: ignore[attr-defined]
                    sent += 1
                    await asyncio.sleep(0.5)
            return sent, await attacker.answers()

    outcomes, _ = await asyncio.gather(asyncio.gather(*(one() for _ in range(MANY))), target.serves())
    answers = {answer for _, told_ in outcomes for answer in told_}
    told(
        f"{MANY} bodies to {path}, a byte each half second",
        f"{answers} after {max(sent for sent, _ in outcomes)} bytes",
    )
    assert answers <= {"504", CLOSED}


@at_both_doors
async def test_answers_that_are_never_read(target: Target) -> None:
    """A window of no bytes: the answer can never be sent."""
    no_window = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0}
    async with Http2.open(target.port, target.http2, no_window) as attacker:
        streams = [await attacker.begin(target.headers()) for _ in range(Limits().streams_per_connection)]
        await target.serves()
        outcomes = {await attacker.outcome(stream, within=DEFAULT_UNARY_SECONDS + GRACE) for stream in streams}
    told(f"{len(streams)} calls with a window of no bytes", outcomes)
    assert all(outcome == CLOSED or outcome.startswith("reset") for outcome in outcomes)
