"""gRPC over HTTP/2 as an exchange carries it: messages with their prefix in the body, metadata as headers. Pure.

The forms are those of the protocol ("gRPC over HTTP2"): a message is one byte
that says whether it is compressed, four bytes of its length, and its bytes;
binary metadata, of names that end in "-bin", is base64; `grpc-message` is
percent-encoded. Messages travel uncompressed between nodes.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from urllib.parse import quote, unquote_to_bytes

from services.exchange.heads import Header, value
from services.runtime.errors import InvalidArgument
from services.runtime.server import MAX_MESSAGE_BYTES

CONTENT_TYPE: Header = ("content-type", b"application/grpc")

PREFIX = 5
"""Bytes before a message."""

OK = 0
UNKNOWN = 2

_OWN = re.compile(r"(?!grpc-status-details-bin$)(?:grpc-|:|content-type$|te$|user-agent$)")
"""Names that belong to the protocol and are no metadata; the details of a status are, by a name like these."""

_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")

Metadata = Iterable[tuple[str, str | bytes]]


def framed(message: bytes) -> bytes:
    """A message with its prefix."""
    return b"\0" + len(message).to_bytes(4, "big") + message


async def messages(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The messages of a body, as they come. Raises InvalidArgument, FRAMES_INVALID, for what is no body of gRPC."""
    rest = bytearray()
    async for chunk in chunks:
        rest += chunk
        for message in _complete(rest):
            yield message
    if rest:
        raise _invalid("the body ends within a message")


def _complete(rest: bytearray) -> Iterator[bytes]:
    """Takes the messages that are there."""
    while len(rest) >= PREFIX:
        length = int.from_bytes(rest[1:PREFIX], "big")
        if rest[0]:
            raise _invalid("a message is compressed, which nodes do not read")
        if length > MAX_MESSAGE_BYTES:
            raise _invalid("a message is larger than nodes take")
        if len(rest) < PREFIX + length:
            return
        message = bytes(rest[PREFIX : PREFIX + length])
        del rest[: PREFIX + length]
        yield message


def headers(metadata: Metadata) -> tuple[Header, ...]:
    """Metadata as headers of HTTP/2."""
    return tuple((name, _encoded(name, content)) for name, content in metadata if not _OWN.match(name))


def metadata(found: Iterable[Header]) -> tuple[tuple[str, str | bytes], ...]:
    """Headers as metadata. Raises InvalidArgument, HEAD_INVALID, for what gRPC cannot carry."""
    lowered = ((name.lower(), content) for name, content in found)
    return tuple((name, _decoded(name, content)) for name, content in lowered if not _OWN.match(name))


def status_trailers(code: int, details: str) -> tuple[Header, ...]:
    """How a call ended."""
    ended: tuple[Header, ...] = (("grpc-status", b"%d" % code),)
    if details:
        ended += (("grpc-message", quote(details, safe=" !#$&'()*+,-./:;<=>?@[]^_`{|}~\"\\").encode("ascii")),)
    return ended


def status_of(trailers: tuple[Header, ...]) -> tuple[int, str]:
    """Code and details by which a call ended; UNKNOWN where the trailers do not say."""
    code = value(trailers, "grpc-status")
    details = unquote_to_bytes(value(trailers, "grpc-message")).decode("utf-8", "replace")
    return (int(code) if re.fullmatch(rb"1?[0-9]", code) else UNKNOWN), details


def timeout_header(seconds: float) -> Header:
    """The time that a call has left."""
    return "grpc-timeout", b"%dm" % min(max(int(seconds * 1000), 1), 99_999_999)


def timeout_of(found: tuple[Header, ...]) -> float | None:
    """The seconds that a call has left; None where it does not say."""
    match = _TIMEOUT.fullmatch(value(found, "grpc-timeout"))
    return int(match[1]) * _UNITS[match[2].decode("ascii")] if match else None


def _encoded(name: str, content: str | bytes) -> bytes:
    raw = content.encode("utf-8") if isinstance(content, str) else content
    return base64.b64encode(raw).rstrip(b"=") if name.endswith("-bin") else raw


def _decoded(name: str, content: bytes) -> str | bytes:
    try:
        if name.endswith("-bin"):
            return base64.b64decode(content + b"=" * (-len(content) % 4), validate=True)
        text = content.decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        raise InvalidArgument("HEAD_INVALID", "a header is none that gRPC can carry") from None
    if not re.fullmatch(r"[0-9a-z_.-]+", name) or not re.fullmatch(r"[ -~]*", text):
        raise InvalidArgument("HEAD_INVALID", "a header is none that gRPC can carry")
    return text


def _invalid(text: str) -> InvalidArgument:
    return InvalidArgument("FRAMES_INVALID", text)
