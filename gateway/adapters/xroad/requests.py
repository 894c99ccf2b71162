"""A call in X-Road's form: identifiers, headers, and the hash that binds an answer to it (PR-REST). Pure."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

from gateway.adapters.xroad.errors import BadRequestError

Header = tuple[str, bytes]

DROPPED = frozenset(
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
        "x-road-request-id",
        "x-road-request-hash",
        # What the edge adds
        "x-forwarded-client-cert",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-request-id",
        "x-envoy-expected-rq-timeout-ms",
        "x-envoy-external-address",
        "traceparent",
        "tracestate",
    }
)
"""Headers that are not passed on (PR-REST, section 4.3)."""

_PLAIN = "'()+,-.=_"
_SEGMENTS = 7
"""Of a path: "", "r1", instance, class, member, subsystem, service."""


@dataclass(frozen=True)
class Call:
    """A call."""

    method: str
    path: bytes
    """As it was received, with its query."""
    service: tuple[str, ...]
    """Instance, class, member, subsystem, service."""
    target: bytes
    """What follows the service, with the query; at least "/"."""
    client: tuple[str, ...]
    """Instance, class, member, subsystem."""
    message_id: str
    """X-Road-Id; empty where the consumer gives none."""
    node: tuple[str, ...]
    """X-Road-Security-Server; empty where the consumer names none."""
    headers: tuple[Header, ...]
    """Those that are passed on."""


def read(method: str, path: bytes, headers: Sequence[Header]) -> Call:
    """Reads a call. Raises BadRequestError."""
    before, question, query = path.partition(b"?")
    segments = before.split(b"/")
    if len(segments) < _SEGMENTS or segments[0] or segments[1] != b"r1":
        raise BadRequestError("the path is not /r1/INSTANCE/CLASS/MEMBER/SUBSYSTEM/SERVICE")
    service = tuple(_part(segment) for segment in segments[2:_SEGMENTS])
    rest = b"/" + b"/".join(segments[_SEGMENTS:])
    client = _identifier(_last(headers, "x-road-client"), 4, "X-Road-Client")
    if not client:
        raise BadRequestError("the header X-Road-Client is missing")
    represented = _last(headers, "x-road-represented-party")
    if represented and len(represented.split("/")) > 2:
        raise BadRequestError("the header X-Road-Represented-Party is malformed")
    return Call(
        method,
        path,
        service,
        rest + question + query,
        client,
        _last(headers, "x-road-id"),
        _identifier(_last(headers, "x-road-security-server"), 4, "X-Road-Security-Server"),
        tuple(header for header in headers if header[0].lower() not in DROPPED),
    )


def name_of(collection: str, parts: Sequence[str]) -> str:
    """A resource name of the exchange."""
    return f"{collection}/{'~'.join(encode(part) for part in parts)}"


def spelt(parts: Sequence[str]) -> str:
    """An identifier as X-Road's headers have it."""
    return "/".join(encode(part) for part in parts)


def encode(part: str) -> str:
    """A part of an identifier, percent-encoded."""
    return quote(part, safe=_PLAIN).replace("~", "%7E")


class RequestHash:
    """X-Road-Request-Hash: over the request as it was taken, and its body where it has one (PR-REST, section 4.3)."""

    def __init__(self) -> None:
        self._body = hashlib.sha512()
        self._any = False

    def update(self, chunk: bytes) -> None:
        """The next bytes of the body."""
        self._any = self._any or bool(chunk)
        self._body.update(chunk)

    def value(self, call: Call, *, exchange_id: str, message_id: str) -> str:
        """The hash; exchange and message id stand after the headers, as X-Road appends them."""
        added = [("x-road-request-id", exchange_id.encode())]
        if not call.message_id:
            added.append(("x-road-id", message_id.encode()))
        part = b"%s\r\n%s\r\n" % (call.method.encode(), call.path)
        part += b"".join(b"%s:%s\r\n" % (name.encode(), value) for name, value in (*call.headers, *added))
        digest = hashlib.sha512(part).digest()
        if self._any:
            digest = hashlib.sha512(digest + self._body.digest()).digest()
        return base64.b64encode(digest).decode()


def _identifier(text: str, count: int, header: str) -> tuple[str, ...]:
    if not text:
        return ()
    parts = tuple(_part(part.encode("utf-8")) for part in text.split("/"))
    if len(parts) != count:
        raise BadRequestError(f"the header {header} does not have {count} parts")
    return parts


def _part(encoded: bytes) -> str:
    try:
        part = unquote_to_bytes(encoded).decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequestError("an identifier is not UTF-8") from None
    if not part or part in {".", ".."} or re.search(r"[\x00-\x1f\x7f]", part) or len(part) > 255:
        raise BadRequestError("an identifier has an empty part, or characters that it may not have")
    return part


def _last(headers: Sequence[Header], name: str) -> str:
    """The last value of a header: X-Road's choice where it stands twice."""
    try:
        return next((value.decode("utf-8") for given, value in reversed(headers) if given.lower() == name), "")
    except UnicodeDecodeError:
        raise BadRequestError("a header is not UTF-8") from None
