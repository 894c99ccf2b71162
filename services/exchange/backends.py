"""Calls to the backends of services: HTTP/1.1, byte for byte as it was authorised.

Connections are kept, a slow reader slows the backend, and a slow backend slows
the sender. Redirects are answers and are not followed.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
from solmu.exchange.v1 import services_pb2

from services.exchange import heads, keys
from services.exchange.configuration import Service
from services.exchange.heads import Header, RequestHead, ResponseHead
from services.exchange.policies import Policy
from services.runtime.errors import DeadlineExceeded, Fault, ResourceExhausted, Unavailable

TIMEOUT = 60.0
"""Seconds until an answer begins, where the service does not say (services.proto)."""

MAX_CONCURRENT = 64
"""Calls under way at once to a backend, where the service does not say."""

WAIT_SHORTLY = 1.0
"""Seconds that a call waits for its turn before it is refused."""

CONNECT_TIMEOUT = 10.0

IDLE = 4.0
"""Seconds that a connection is kept unused: common servers close theirs after five."""

HIGH_WATER = 512 << 10
"""Bytes of an answer that wait for their reader before the backend has to."""

_NO_BODY = frozenset({204, 304})


@dataclass
class Answer:
    """An answer that has begun."""

    head: ResponseHead
    length: int | None
    chunks: AsyncIterator[bytes]
    trailers: list[Header] = field(default_factory=list)
    """Complete once the chunks have ended."""
    sending: asyncio.Task[None] | None = None
    """Reads the request to its end, where the backend may have answered before that."""


@dataclass(frozen=True)
class Target:
    """Where a backend is."""

    secure: bool
    host: str
    port: int
    base: str
    """The path of its address, without a slash at its end."""
    authorities: tuple[bytes, ...]
    client_certificate: bool

    @staticmethod
    @functools.lru_cache(maxsize=10_000)
    def of(serialised: bytes) -> Target:
        """The target of a service's backend, serialised."""
        backend = services_pb2.Service.Backend.FromString(serialised)
        parts = urlsplit(backend.uri)
        secure = parts.scheme == "https"
        return Target(
            secure,
            parts.hostname or "",
            parts.port or (443 if secure else 80),
            parts.path.rstrip("/"),
            tuple(backend.authorities),
            backend.client_certificate,
        )

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


class Backends:
    """The connections of a process. `identity` gives the node's own key and certificate (PEM), if it has any."""

    def __init__(self, *, identity: Callable[[], tuple[bytes, bytes] | None]) -> None:
        self._identity = identity
        self._idle: dict[Target, deque[_Connection]] = {}
        self._contexts: dict[tuple[object, ...], ssl.SSLContext] = {}
        self._turns: dict[tuple[str, int], asyncio.Semaphore] = {}

    @asynccontextmanager
    async def turn(self, service: str, most: int) -> AsyncIterator[None]:
        """A place among the calls under way to a service. Raises ResourceExhausted, PROVIDER_BUSY."""
        semaphore = self._turns.setdefault((service, most or MAX_CONCURRENT), asyncio.Semaphore(most or MAX_CONCURRENT))
        if semaphore.locked():
            await _shortly(semaphore)
        else:
            await semaphore.acquire()
        try:
            yield
        finally:
            semaphore.release()

    @asynccontextmanager
    async def call(
        self,
        service: Service,
        head: RequestHead,
        body: AsyncIterator[bytes] | bytes,
        length: int | None,
        policy: Policy,
    ) -> AsyncIterator[Answer]:
        """Makes one call; the answer's chunks are read in the block.

        Raises Unavailable (BACKEND_UNAVAILABLE, BACKEND_RESPONSE_INVALID),
        DeadlineExceeded (BACKEND_TIMEOUT, STREAM_IDLE), and what the body raises.
        """
        backend = service.content.backend
        target, idle = Target.of(backend.SerializeToString(deterministic=True)), policy.idle_timeout
        timeout = backend.timeout.ToTimedelta().total_seconds() if backend.HasField("timeout") else TIMEOUT
        connection = await self._connection(target)
        sending: asyncio.Task[None] | None = None
        try:
            request = _request(target, head, length)
            if isinstance(body, bytes):
                connection.write(request + body)
            else:
                sending = asyncio.create_task(connection.send(request, body, length))
            async with asyncio.timeout(timeout):
                await (_first(connection.began, sending) if sending is not None else connection.began)
            answer = connection.answer(head.method, idle)
            try:
                yield answer
            except Fault:
                _check_body(sending)
                raise
            if connection.reusable and (sending is None or (sending.done() and sending.exception() is None)):
                self._idle.setdefault(target, deque()).append(connection)
                return
        except TimeoutError:
            raise DeadlineExceeded("BACKEND_TIMEOUT", "the backend did not begin to answer in time") from None
        finally:
            if sending is not None:
                sending.cancel()
            if not connection.reusable:
                connection.close()

    async def close(self) -> None:
        """Closes connections that are not in use."""
        for waiting in self._idle.values():
            for connection in waiting:
                connection.close()

    async def _connection(self, target: Target) -> _Connection:
        waiting = self._idle.get(target, ())
        while waiting:
            connection = waiting.pop()
            if connection.fresh():
                connection.reset()
                return connection
            connection.close()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                _, made = await loop.create_connection(
                    _Connection,
                    target.host,
                    target.port,
                    ssl=self._context(target) if target.secure else None,
                )
        except (OSError, TimeoutError):
            raise Unavailable(
                "BACKEND_UNAVAILABLE", "the backend cannot be reached, or its TLS does not hold"
            ) from None
        return made

    def _context(self, target: Target) -> ssl.SSLContext:
        identity = self._identity() if target.client_certificate else None
        made_of = (target.authorities, identity)
        context = self._contexts.get(made_of)
        if context is None:
            context = ssl.create_default_context(
                cadata="".join(keys.pem(one).decode() for one in target.authorities) or None
            )
            if identity is not None:
                _load_identity(context, *identity)
            self._contexts[made_of] = context
        return context


class _Connection(asyncio.Protocol):
    """One connection to a backend, used for one call after the other."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._idle_since = 0.0
        self.reset()

    def reset(self) -> None:
        """Ready for the next call."""
        self._parser = httptools.HttpResponseParser(self)
        self.began: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._status_text = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._trailers: list[tuple[bytes, bytes]] = []
        self._headers_complete = False
        self._buffer: deque[bytes] = deque()
        self._buffered = 0
        self._arrived = asyncio.Event()
        self._complete = False
        self._until_end = False
        self._keep_alive = False
        self._beside_body = 0
        self._failure: Fault | None = None

    # What the call does

    async def send(self, head: bytes, body: AsyncIterator[bytes], length: int | None) -> None:
        """Sends a request whose body comes."""
        self.write(head)
        async for chunk in body:
            if chunk:
                await self._writable.wait()
                self.write(chunk if length is not None else b"%x\r\n%s\r\n" % (len(chunk), chunk))
        if length is None:
            self.write(b"0\r\n\r\n")

    def answer(self, method: str, idle: float) -> Answer:
        """The answer that has begun."""
        status = self._parser.get_status_code()
        headers = tuple((name.decode("latin-1"), value) for name, value in self._headers)
        declared = heads.value(headers, "content-length")
        bodiless = method == "HEAD" or status in _NO_BODY
        if bodiless:
            self._complete = True
        chunked = b"chunked" in heads.value(headers, "transfer-encoding").lower()
        self._until_end = not (bodiless or declared or chunked)
        head = ResponseHead(status, self._status_text.decode("latin-1"), heads.passed_on(headers))
        length = 0 if bodiless else int(declared) if declared.isdigit() else None
        trailers: list[Header] = []
        return Answer(head, length, self._chunks(idle, trailers), trailers)

    @property
    def reusable(self) -> bool:
        """Whether another call may follow."""
        return (
            self._complete
            and self._failure is None
            and not self._until_end
            and self._transport is not None
            and not self._transport.is_closing()
            and self._keep_alive
            and self._kept()
        )

    def fresh(self) -> bool:
        """Whether it may be used again now."""
        assert self._transport is not None
        return not self._transport.is_closing() and time.monotonic() - self._idle_since < IDLE

    def close(self) -> None:
        """Closes it."""
        if self._transport is not None:
            self._transport.abort()

    def _kept(self) -> bool:
        self._idle_since = time.monotonic()
        return True

    def write(self, data: bytes) -> None:
        """Sends bytes. Raises Unavailable, BACKEND_RESPONSE_INVALID, where the connection is no longer there."""
        if self._transport is None or self._transport.is_closing():
            raise _broke_off()
        self._transport.write(data)

    async def _chunks(self, idle: float, trailers: list[Header]) -> AsyncIterator[bytes]:
        while True:
            while self._buffer:
                chunk = self._buffer.popleft()
                self._buffered -= len(chunk)
                if self._buffered < HIGH_WATER // 2 and self._transport is not None:
                    self._transport.resume_reading()
                yield chunk
            if self._failure is not None:
                raise self._failure
            if self._complete:
                trailers.extend(heads.passed_on((name.decode("latin-1"), value) for name, value in self._trailers))
                return
            self._arrived.clear()
            try:
                async with asyncio.timeout(idle):
                    await self._arrived.wait()
            except TimeoutError:
                raise stream_idle("backend") from None

    # What the transport does

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._beside_body += len(data)
        try:
            self._parser.feed_data(data)
            if self._beside_body > heads.MAX_HEAD_BYTES:
                raise Unavailable("BACKEND_RESPONSE_INVALID", "the backend's head or trailers do not end")
        except httptools.HttpParserError:
            self._fail(Unavailable("BACKEND_RESPONSE_INVALID", "what the backend answered is not HTTP"))
        except Fault as fault:
            self._fail(fault)

    def connection_lost(self, exc: Exception | None) -> None:
        self._writable.set()
        if self._until_end and exc is None:
            self._complete = True
            self._arrived.set()
        elif not self._complete:
            self._fail(_broke_off())

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # What the parser does

    def on_status(self, status: bytes) -> None:
        self._status_text += status

    def on_header(self, name: bytes, value: bytes) -> None:
        (self._trailers if self._headers_complete else self._headers).append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status == 101:
            raise Unavailable("BACKEND_RESPONSE_INVALID", "the backend changes the protocol")
        if status < 200:
            return
        self._headers_complete = True
        self._keep_alive = self._parser.should_keep_alive()
        if not self.began.done():
            self.began.set_result(None)

    def on_body(self, body: bytes) -> None:
        self._beside_body = 0
        self._buffer.append(body)
        self._buffered += len(body)
        if self._buffered > HIGH_WATER and self._transport is not None:
            self._transport.pause_reading()
        self._arrived.set()

    def on_message_complete(self) -> None:
        if not self._headers_complete:  # 100 Continue and the like
            self._headers, self._status_text = [], b""
            return
        self._complete = True
        self._arrived.set()

    def _fail(self, fault: Fault) -> None:
        self._failure = self._failure or fault
        if not self.began.done():
            self.began.set_exception(self._failure)
            self.began.exception()  # whoever waits gets it; where nobody does it is no news
        self._arrived.set()
        self.close()


async def _shortly(semaphore: asyncio.Semaphore) -> None:
    """Waits for a turn. Raises ResourceExhausted, PROVIDER_BUSY."""
    try:
        async with asyncio.timeout(WAIT_SHORTLY):
            await semaphore.acquire()
    except TimeoutError:
        raise ResourceExhausted(
            "PROVIDER_BUSY", "as many calls are under way as the provider takes", retry_after=1.0
        ) from None


async def _first(began: asyncio.Future[None], sending: asyncio.Task[None]) -> None:
    """Waits until the answer begins; what sending raises comes first."""
    await asyncio.wait({began, sending}, return_when=asyncio.FIRST_COMPLETED)
    if sending.done() and not began.done():
        sending.result()
    await began


def _check_body(sending: asyncio.Task[None] | None) -> None:
    """Raises what was wrong with a body, which comes before what came of it."""
    if sending is not None and sending.done():
        sending.result()


def _request(target: Target, head: RequestHead, length: int | None) -> bytes:
    framing: tuple[Header, ...] = ()
    if length is None:
        framing = (("Transfer-Encoding", b"chunked"),)
    elif length or head.method in {"POST", "PUT", "PATCH"}:
        framing = (("Content-Length", b"%d" % length),)
    lines = b"".join(
        b"%s: %s\r\n" % (name.encode("ascii"), value)
        for name, value in (("Host", target.authority.encode("ascii")), *framing, *head.headers)
    )
    line = b"%s %s%s HTTP/1.1\r\n" % (head.method.encode("ascii"), target.base.encode("ascii"), head.target)
    return line + lines + b"\r\n"


def spoken(status: int, content: bytes, media_type: str, headers: tuple[Header, ...] = ()) -> Answer:
    """An answer of the node itself."""

    async def chunks() -> AsyncIterator[bytes]:
        if content:
            yield content

    head = ResponseHead(status, "", (("Content-Type", media_type.encode("ascii")), *headers))
    return Answer(head, len(content), chunks())


async def collected(body: AsyncIterator[bytes] | bytes, *, most: int) -> bytes:
    """A small body as a whole. Raises Unavailable, BACKEND_RESPONSE_INVALID, for one that is not small."""
    if isinstance(body, bytes):
        return body
    content = b""
    async for chunk in body:
        content += chunk
        if len(content) > most:
            raise Unavailable("BACKEND_RESPONSE_INVALID", "more came than such an answer has")
    return content


def _load_identity(context: ssl.SSLContext, key: bytes, certificate: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:  # OpenSSL takes files only
        path = Path(folder, "identity.pem")
        path.touch(mode=0o600)
        path.write_bytes(key + certificate)
        context.load_cert_chain(path)


def stream_idle(side: str) -> Fault:
    """The refusal of a body within which nothing came for too long: from "caller", "peer" or "backend"."""
    metadata: dict[str, Any] = {"from": side}
    return DeadlineExceeded("STREAM_IDLE", f"nothing came from the {side} for too long", **metadata)


def _broke_off() -> Fault:
    return Unavailable("BACKEND_RESPONSE_INVALID", "the backend's answer broke off")
