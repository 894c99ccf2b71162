"""The connector: plain HTTP/1.1 and gRPC on loopback, forwarded to an edge with a profile's certificate.

    information system ──http://127.0.0.1:8080──▶ connector ──mTLS──▶ edge

It is for systems that cannot present a client certificate. It adds the
certificate and nothing else: bytes pass as they are, so streams, trailers and
limits are those of the edge, and the token is the system's own to get (at
`/oauth2/token`, through the connector) and to send.

Whoever can connect to it acts as the client. That is every user of the machine,
so it listens on loopback only; and it could be a web page in somebody's browser,
so what a browser sends from another site, or to another name (DNS rebinding),
is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import ssl
from typing import Self
from urllib.parse import urlsplit

from gateway.client.profile import Profile
from gateway.problems import MEDIA_TYPE, TITLES, problem

logger = logging.getLogger(__name__)

HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""With this a client begins that speaks HTTP/2 without asking first, as gRPC does (RFC 9113, section 3.4)."""

HEAD_BYTES = 64 * 1024
"""Head of a request; twice what the edge takes."""

HEAD_SECONDS = 10.0
"""Time in which a head must have come."""

CONNECT_SECONDS = 10.0
"""Time for a connection to the edge, TLS included."""

LINGER_SECONDS = 1.0
"""Time in which a client that is refused may still send what it was sending."""

PIECE = 64 * 1024
"""Bytes that are read at a time; so much of each direction is in memory, and what the sockets hold."""

CONNECTIONS = 1000
"""Connections at once; more wait. Far more than one system has."""

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_OWN_SITE = ("", "same-origin", "none")


class RefusedError(Exception):
    """A request that is not passed on."""

    def __init__(self, status: int, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.reason = reason

    def answer(self) -> bytes:
        """The refusal as an answer of HTTP/1.1."""
        body = json.dumps(problem(self.reason, status=self.status, detail=str(self))).encode()
        head = f"HTTP/1.1 {self.status} {TITLES[self.status]}\r\ncontent-type: {MEDIA_TYPE}\r\n"
        return f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body


class Connector:
    """Forwards for one profile. Use it as an asynchronous context manager; `address` is where it listens.

    Raises ValueError where `host` is not a loopback address.
    """

    def __init__(self, profile: Profile, *, host: str = "127.0.0.1", port: int = 0) -> None:
        if not ipaddress.ip_address(host).is_loopback:
            raise ValueError(f"{host} is not a loopback address, and whoever connects acts as the client")
        self._profile = profile
        self._edge = urlsplit(profile.edge)
        self._host, self._port = host, port
        self._room = asyncio.Semaphore(CONNECTIONS)
        self._open: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, self._host, self._port, limit=HEAD_BYTES)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    @property
    def address(self) -> str:
        """Origin to call: "http://127.0.0.1:8080"."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            async with self._room:
                await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass  # somebody left; there is nobody to tell
        except asyncio.CancelledError:
            pass  # the connector ends; the task is its own, and nothing is to be done after it
        finally:
            self._open.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        protocol = "http/1.1"
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                protocol, first = await _first_bytes(reader)
            edge_reader, edge_writer = await self._connect(protocol)
        except RefusedError as refusal:
            if protocol == "http/1.1":
                await _say_and_leave(reader, writer, refusal.answer())
            return
        try:
            edge_writer.write(first)
            await _both_ways(reader, writer, edge_reader, edge_writer)
        finally:
            edge_writer.close()
            with contextlib.suppress(OSError):
                await edge_writer.wait_closed()

    async def _connect(self, protocol: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the edge, with the certificate as it is now: a renewed one needs no restart."""
        try:
            context = ssl.create_default_context(cafile=str(self._profile.files.authorities))
            context.load_cert_chain(str(self._profile.files.certificate), str(self._profile.files.key))
            context.set_alpn_protocols([protocol])
            async with asyncio.timeout(CONNECT_SECONDS):
                return await asyncio.open_connection(self._edge.hostname, self._edge.port or 443, ssl=context)
        except (OSError, TimeoutError) as error:
            logger.warning("the edge is not reached", extra={"error": type(error).__name__})
            raise RefusedError(503, "UNAVAILABLE", f"the edge at {self._profile.edge} is not reached") from None


async def _first_bytes(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """The protocol that a client speaks, and what it has sent so far. Raises RefusedError."""
    start = await reader.readexactly(4)
    if start == HTTP2_PREFACE[:4]:
        return "h2", start
    try:
        head = start + await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise RefusedError(431, "HEADERS_INVALID", "the head of the request is too large") from None
    return "http/1.1", checked(head)


def checked(head: bytes) -> bytes:
    """The head of a request as it is passed on. Raises RefusedError where a browser sent it for another site.

    A request of a browser is made the last of its connection, since later ones
    are not looked at, and could be another page's.
    """
    request, *lines = head[:-4].split(b"\r\n")
    fields = [(name.strip().lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
    values = {name.decode("latin-1"): value.decode("latin-1") for name, value in fields}
    host = values.get("host", "")
    if urlsplit(f"//{host}").hostname not in _LOOPBACK_NAMES:
        raise RefusedError(403, "CALLER_NOT_ALLOWED", "the connector is called by a loopback name")
    origin, site = values.get("origin", ""), values.get("sec-fetch-site", "")
    if origin not in ("", f"http://{host}") or site not in _OWN_SITE:
        raise RefusedError(403, "CALLER_NOT_ALLOWED", "the connector takes nothing from pages of other sites")
    if not origin and not site:
        return head
    kept = [line for line, (name, _) in zip(lines, fields, strict=True) if name != b"connection"]
    return b"\r\n".join([request, *kept, b"connection: close"]) + b"\r\n\r\n"


async def _say_and_leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes) -> None:
    """Answers, and reads on for a moment: closing on unread bytes would take the answer with it."""
    writer.write(answer)
    writer.write_eof()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while await reader.read(PIECE):
                pass


async def _both_ways(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    edge_reader: asyncio.StreamReader,
    edge_writer: asyncio.StreamWriter,
) -> None:
    """Passes bytes until the edge has said all, or either side is gone. TLS has no half-closed connections."""
    up = asyncio.create_task(_pass(reader, edge_writer))
    down = asyncio.create_task(_pass(edge_reader, writer))
    try:
        await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (up, down):
            task.cancel()
        await asyncio.gather(up, down, return_exceptions=True)


async def _pass(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while piece := await source.read(PIECE):
        sink.write(piece)
        await sink.drain()
