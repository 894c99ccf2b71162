"""A member's own system: an HTTP/1.1 server that answers as it is told, and tells what reached it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

Answer = Callable[["Request", asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Request:
    """What reached the backend."""

    line: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    size: int = 0

    def header(self, name: bytes) -> bytes | None:
        return next((value for given, value in self.headers if given.lower() == name.lower()), None)


@dataclass
class Backend:
    """The server, while it runs."""

    port: int = 0
    secure_port: int = 0
    """Of the same behind mutual TLS, where it was asked for."""
    requests: list[Request] = field(default_factory=list)
    """Those that came whole."""
    begun: int = 0
    connections: int = 0
    answer: Answer | None = None
    keep: bool = True
    """Whether bodies are kept, or only counted."""

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}/base"

    @property
    def secure_uri(self) -> str:
        return f"https://127.0.0.1:{self.secure_port}/base"


def plain(content: bytes = b"hello", *, status: bytes = b"200 OK", headers: bytes = b"") -> Answer:
    """An answer of a known length."""

    async def answer(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n%s\r\n%s" % (status, len(content), headers, content))

    return answer


@asynccontextmanager
async def running(tls: ssl.SSLContext | None = None) -> AsyncIterator[Backend]:
    """A backend on loopback; with `tls` on a second port that asks for it."""
    backend = Backend(answer=plain())

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        backend.connections += 1
        try:
            while True:
                request = await _head(reader)
                backend.begun += 1
                await _body(reader, request, keep=backend.keep)
                backend.requests.append(request)
                assert backend.answer is not None
                await backend.answer(request, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    backend.port = server.sockets[0].getsockname()[1]
    async with AsyncExitStack() as stack:
        stack.callback(server.close)
        if tls is not None:
            secure = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
            stack.callback(secure.close)
            backend.secure_port = secure.sockets[0].getsockname()[1]
        yield backend


async def _head(reader: asyncio.StreamReader) -> Request:
    lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
    headers = [(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines[1:])]
    return Request(lines[0], headers)


async def _body(reader: asyncio.StreamReader, request: Request, *, keep: bool) -> None:
    parts = []
    if (length := request.header(b"content-length")) is not None:
        left = int(length)
        while left:
            part = await reader.read(min(left, 1 << 18))
            if not part:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(part)
            request.size += len(part)
            parts.append(part if keep else b"")
    elif request.header(b"transfer-encoding") == b"chunked":
        while size := int(await reader.readline(), 16):
            part = await reader.readexactly(size)
            await reader.readexactly(2)
            request.size += size
            parts.append(part if keep else b"")
        await reader.readexactly(2)
    request.body = b"".join(parts)
