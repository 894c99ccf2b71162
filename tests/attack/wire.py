"""What an attacker has: a certificate of the node's authority, bytes of any kind, and HTTP/2 frames in any order."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from services.runtime import tls

PATIENCE = 5.0
"""Seconds within which an answer that is to come at once has come."""

Headers = list[tuple[str, str]]

CLOSED = "closed"
NOTHING = "nothing"


def context(files: tls.Files | None, authorities: str, *protocols: str) -> ssl.SSLContext:
    """TLS as an honest client has it, with the certificate in `files` or with none."""
    made = ssl.create_default_context(cafile=authorities)
    if files is not None:
        made.load_cert_chain(str(files.certificate), str(files.key))
    if protocols:
        made.set_alpn_protocols(list(protocols))
    return made


class Raw:
    """One connection, on which any bytes are sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @asynccontextmanager
    async def open(cls, port: int, made: ssl.SSLContext | None) -> AsyncIterator[Self]:
        """A connection to the edge; without TLS where there is no context."""
        server_name = "localhost" if made else None
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=made, server_hostname=server_name)
        try:
            yield cls(reader, writer)
        finally:
            writer.transport.abort()

    async def send(self, data: bytes) -> bool:
        """Sends; False where the other end no longer takes it."""
        try:
            self.writer.write(data)
            await self.writer.drain()
        except (ConnectionError, ssl.SSLError):
            return False
        return not self.reader.at_eof()

    async def answers(self, *, within: float = PATIENCE, quiet: float = 0.5) -> list[str]:
        """Statuses of the answers until the connection closes or is quiet; CLOSED last where it closed."""
        text, closed = b"", False
        try:
            async with asyncio.timeout(within):
                while True:
                    piece = await asyncio.wait_for(self.reader.read(65536), quiet if text else None)
                    if not piece:
                        closed = True
                        break
                    text += piece
        except TimeoutError:
            pass
        except (ConnectionError, ssl.SSLError):
            closed = True
        statuses = [found.decode() for found in re.findall(rb"HTTP/1\.[01] (\d{3})", text)]
        return statuses + ([CLOSED] if closed else [])


class Http2:
    """One HTTP/2 connection without the checks that keep an honest library honest."""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw
        configuration = h2.config.H2Configuration(
            client_side=True,
            header_encoding="latin-1",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=False,
        )
        self.state = h2.connection.H2Connection(config=configuration)
        self._statuses: dict[int, str] = {}
        self._outcomes: dict[int, str] = {}
        self.over = ""
        """How the connection ended."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, port: int, made: ssl.SSLContext, settings: Mapping[Any, int] | None = None
    ) -> AsyncIterator[Self]:
        """A connection that has said hello."""
        async with Raw.open(port, made) as raw:
            opened = cls(raw)
            if settings:
                opened.state.update_settings(dict(settings))
            opened.state.initiate_connection()
            await opened.flush()
            yield opened

    async def flush(self) -> bool:
        return await self.raw.send(self.state.data_to_send())

    async def send(self, frames: bytes) -> bool:
        """Sends frames past the library."""
        return await self.raw.send(frames)

    async def begin(self, headers: Headers, body: bytes | None = None, *, end: bool = True) -> int:
        """Begins a request; returns its stream."""
        stream = self.state.get_next_available_stream_id()
        self.state.send_headers(stream, headers, end_stream=end and body is None)
        if body is not None:
            self.state.send_data(stream, body, end_stream=end)
        await self.flush()
        return stream

    async def outcome(self, stream: int, *, within: float = PATIENCE) -> str:
        """What became of a request: its status, "reset <code>", "goaway <code>", CLOSED or NOTHING."""
        try:
            async with asyncio.timeout(within):
                while stream not in self._outcomes and not self.over:
                    await self._receive()
        except TimeoutError:
            return NOTHING
        return self._outcomes.get(stream) or self.over

    async def end(self, *, within: float = PATIENCE) -> str:
        """How the connection ends: "goaway <code>", CLOSED or NOTHING."""
        try:
            async with asyncio.timeout(within):
                while not self.over:
                    await self._receive()
        except TimeoutError:
            return NOTHING
        return self.over

    async def _receive(self) -> None:
        try:
            data = await self.raw.reader.read(65536)
        except (ConnectionError, ssl.SSLError):
            data = b""
        if not data:
            self.over = self.over or CLOSED
            return
        try:
            events: Iterable[Any] = self.state.receive_data(data)
        except h2.exceptions.ProtocolError:
            self.over = "protocol error"
            return
        for event in events:
            if isinstance(event, h2.events.ResponseReceived):
                fields: dict[Any, Any] = dict(event.headers or ())
                self._statuses[event.stream_id] = fields[":status"]
            elif isinstance(event, h2.events.DataReceived):
                self.state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self._outcomes.setdefault(event.stream_id, self._statuses.get(event.stream_id, NOTHING))
            elif isinstance(event, h2.events.StreamReset):
                self._outcomes.setdefault(event.stream_id, f"reset {int(event.error_code)}")
            elif isinstance(event, h2.events.ConnectionTerminated):
                self.over = f"goaway {int(event.error_code or 0)}"
        await self.flush()


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One HTTP/2 frame (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS = 1, 4
