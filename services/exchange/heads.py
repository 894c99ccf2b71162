"""HTTP heads and trailers in the one form that is signed (statements.proto, Heads and trailers). Pure.

Names and values are the bytes received, in their order. What is read here is
exactly what can be written: a head that would come out otherwise is refused,
and so is one with a header that is not passed on, by which a node could tell
a backend or a consumer where another request or answer begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.runtime.errors import Fault, InvalidArgument

Header = tuple[str, bytes]

NOT_PASSED_ON = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "server",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    }
)
"""Headers that concern one connection, or tell who stands behind it."""

MAX_HEAD_BYTES = 256 << 10
"""Of a head; backends take far less."""

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_VALUE = re.compile(rb"[^\x00\r\n]*")
_METHOD = re.compile(rb"[A-Z]{3,16}")
_TARGET = re.compile(rb"/[!-~]*")
_STATUS = re.compile(rb"[2-9][0-9]{2}")
_REASON = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


@dataclass(frozen=True)
class RequestHead:
    """A request without its body."""

    method: str
    target: bytes
    """Path and query, as they were received."""
    headers: tuple[Header, ...]

    def encode(self) -> bytes:
        """The form that is signed."""
        return b"%s\r\n%s\r\n%s" % (self.method.encode("ascii"), self.target, fields(self.headers))

    @property
    def grpc(self) -> bool:
        """Whether it is a gRPC call."""
        return value(self.headers, "content-type").split(b";")[0].strip().startswith(b"application/grpc")


@dataclass(frozen=True)
class ResponseHead:
    """An answer without its body."""

    status: int
    reason: str
    headers: tuple[Header, ...]

    def encode(self) -> bytes:
        """The form that is signed."""
        return b"%d\r\n%s\r\n%s" % (self.status, self.reason.encode("latin-1"), fields(self.headers))


def read_request(content: bytes) -> RequestHead:
    """Reads a request's head. Raises InvalidArgument, HEAD_INVALID."""
    lines = _lines(content, 2)
    if not _METHOD.fullmatch(lines[0]) or not _TARGET.fullmatch(lines[1]):
        raise invalid()
    return RequestHead(lines[0].decode("ascii"), lines[1], _headers(lines[2:]))


def read_response(content: bytes) -> ResponseHead:
    """Reads an answer's head. Raises InvalidArgument, HEAD_INVALID."""
    lines = _lines(content, 2)
    if not _STATUS.fullmatch(lines[0]) or not _REASON.fullmatch(lines[1]):
        raise invalid()
    return ResponseHead(int(lines[0]), lines[1].decode("latin-1"), _headers(lines[2:]))


def read_trailers(content: bytes) -> tuple[Header, ...]:
    """Reads trailers. Raises InvalidArgument, HEAD_INVALID."""
    return _headers(_lines(content, 0)) if content else ()


def fields(headers: Iterable[Header]) -> bytes:
    """Header fields, or trailers, in the form that is signed."""
    return b"".join([b"%s:%s\r\n" % (name.encode("ascii"), value) for name, value in headers])


def passed_on(headers: Iterable[Header]) -> tuple[Header, ...]:
    """The headers that go on to the other side. Raises InvalidArgument, HEAD_INVALID, for what is no header."""
    headers = tuple(headers)
    dropped = set(NOT_PASSED_ON)
    for name, content in headers:
        if not _NAME.fullmatch(name.encode("ascii", "replace")) or not _VALUE.fullmatch(content):
            raise invalid()
        if name.lower() == "connection":
            dropped |= {token.strip().decode("latin-1").lower() for token in content.split(b",")}
    return tuple(header for header in headers if header[0].lower() not in dropped)


def value(headers: Sequence[Header], name: str) -> bytes:
    """The first value of a header; empty where there is none."""
    return next((content for given, content in headers if given.lower() == name), b"")


def invalid() -> Fault:
    """The refusal of what is no head."""
    return InvalidArgument("HEAD_INVALID", "the head or the trailers are malformed, or too large")


def _lines(content: bytes, least: int) -> list[bytes]:
    if len(content) > MAX_HEAD_BYTES or not content.endswith(b"\r\n"):
        raise invalid()
    lines = content[:-2].split(b"\r\n")
    if len(lines) < least:
        raise invalid()
    return lines


def _headers(lines: Sequence[bytes]) -> tuple[Header, ...]:
    headers = []
    for line in lines:
        name, colon, content = line.partition(b":")
        if not colon or not _NAME.fullmatch(name) or not _VALUE.fullmatch(content):
            raise invalid()
        given = name.decode("ascii")
        if given.lower() in NOT_PASSED_ON:
            raise invalid()
        headers.append((given, content))
    return tuple(headers)
