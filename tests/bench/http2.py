"""HTTP/2 as fast as Python goes, so that what stands between the two ends is what is measured.

One end answers every request with the same bytes (`python -m tests.bench.http2`),
the other sends one after another on each connection and checks status and size
of every answer. Neither is a client or a server for anything else.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import hpack

from services.runtime import tls

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
OK = 0x88
""":status 200 in HPACK's static table."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


WIDE_OPEN = frame(SETTINGS, 0, 0, b"\x00\x04\x7f\xff\xff\xff" + b"\x00\x03\x00\x00\x03\xe8") + frame(
    WINDOW_UPDATE, 0, 0, (0x7FFF0000).to_bytes(4)
)
"""Windows that no measurement fills, and a thousand streams at once."""


class Frames:
    """Cuts what arrives into frames."""

    def __init__(self) -> None:
        self._buffer = b""

    def of(self, data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
        """Kind, flags, stream and payload of each that is whole."""
        buffer, place = self._buffer + data, 0
        while len(buffer) - place >= 9:
            end = place + 9 + int.from_bytes(buffer[place : place + 3])
            if end > len(buffer):
                break
            yield (
                buffer[place + 3],
                buffer[place + 4],
                int.from_bytes(buffer[place + 5 : place + 9]),
                buffer[place + 9 : end],
            )
            place = end
        self._buffer = buffer[place:]


class Answering(asyncio.Protocol):
    """Answers every request with a message of gRPC."""

    def __init__(self, message: bytes) -> None:
        self._frames = Frames()
        self._preface = PREFACE
        encoder = hpack.Encoder()
        self._head = encoder.encode([(":status", "200"), ("content-type", "application/grpc", True)])
        self._body = bytes(1) + len(message).to_bytes(4) + message
        self._trailers = encoder.encode([("grpc-status", "0", True)])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is none by name
        self._transport.write(WIDE_OPEN)

    def data_received(self, data: bytes) -> None:
        if self._preface:
            taken = data[: len(self._preface)]
            self._preface, data = self._preface[len(taken) :], data[len(taken) :]
        out = []
        for kind, flags, stream, payload in self._frames.of(data):
            if kind in (DATA, HEADERS) and flags & END_STREAM:
                out.append(frame(HEADERS, END_HEADERS, stream, self._head))
                out.append(frame(DATA, 0, stream, self._body))
                out.append(frame(HEADERS, END_HEADERS | END_STREAM, stream, self._trailers))
            elif kind in (SETTINGS, PING) and not flags & ACK:
                out.append(frame(kind, ACK, 0, payload if kind == PING else b""))
        if out:
            self._transport.write(b"".join(out))


class Asking(asyncio.Protocol):
    """Sends the same request again and again, each once the one before has been answered.

    `pause` seconds lie between an answer and the next request. What ends it is
    `closed`, a future that fails where an answer was not the expected one.
    """

    def __init__(self, headers: Sequence[tuple[str, str]], body: bytes, *, expects: int, pause: float = 0) -> None:
        self.latencies: list[float] = []
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._frames = Frames()
        self._encoder = hpack.Encoder()
        self._headers = headers
        self._block: bytes | None = None
        self._body = body
        self._expects = expects
        self._pause = pause
        self._stream = -1
        self._status = self._received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is none by name
        self._transport.write(PREFACE + WIDE_OPEN)
        self.ask()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_exception(error or ConnectionError("the other end closed"))

    def ask(self) -> None:
        """Sends the next request."""
        self._stream += 2
        self._status = self._received = 0
        block = self._block or self._encoder.encode(self._headers)
        if self._stream > 1:
            self._block = block  # from the second on all stands in the dynamic table
        self._started = time.perf_counter()
        self._transport.write(
            frame(HEADERS, END_HEADERS, self._stream, block) + frame(DATA, END_STREAM, self._stream, self._body)
        )

    def _ask_again(self) -> None:
        if not self.closed.done():
            self.ask()

    def stop(self) -> None:
        """Ends the connection."""
        if not self.closed.done():
            self.closed.set_result(None)
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        for kind, flags, stream, payload in self._frames.of(data):
            if kind in (SETTINGS, PING) and not flags & ACK:
                self._transport.write(frame(kind, ACK, 0, payload if kind == PING else b""))
            elif kind in (RST_STREAM, GOAWAY):
                self._fail(f"the other end ended the call: {payload[4:8].hex()}")
            elif stream == self._stream and kind in (DATA, HEADERS):
                self._status = self._status or (payload[0] if kind == HEADERS else 0)
                self._received += len(payload) if kind == DATA else 0
                if flags & END_STREAM:
                    self._answered()

    def _answered(self) -> None:
        self.latencies.append(time.perf_counter() - self._started)
        if self._status != OK or self._received != self._expects:
            self._fail(f"not the answer: {self._received} bytes instead of {self._expects}")
        elif self._pause:
            asyncio.get_running_loop().call_later(self._pause, self._ask_again)
        else:
            self.ask()

    def _fail(self, why: str) -> None:
        if not self.closed.done():
            self.closed.set_exception(AssertionError(why))
        self._transport.abort()


async def serve(files: tls.Files, message: bytes) -> None:
    """Answers on a free port, which it prints, for as long as the process runs."""
    context = tls.server_context(files)
    context.set_alpn_protocols(["h2"])
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Answering(message), "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def ask(port: int, context: ssl.SSLContext, make: Callable[[], Asking]) -> Asking:
    """A connection that asks."""
    _, asking = await asyncio.get_running_loop().create_connection(
        make, "127.0.0.1", port, ssl=context, server_hostname="localhost"
    )
    return asking


if __name__ == "__main__":
    import uvloop

    certificate, key, authorities, message = sys.argv[1:]
    uvloop.run(serve(tls.Files(Path(certificate), Path(key), Path(authorities)), bytes.fromhex(message)))
