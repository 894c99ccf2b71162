r"""The header x-forwarded-client-cert: which client certificate the edge verified.

Envoy sets it from the handshake and drops what a client sent. It looks so:

    By=spiffe://node/edge;Hash=<64 hex digits>;Subject="CN=a,O=\"b\"";URI=spiffe://node/client/a

The subject stands in quotes, in the form of RFC 4514 with its own escapes;
URIs stand as they are. This parser takes what Envoy writes for one connection
and nothing else: one element, no unknown key, one hash, one subject.

The caller must have made sure that the edge wrote it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

HEADER = "X-Forwarded-Client-Cert"

MAX_CHARACTERS = 8192
"""A header with sixteen long names is shorter; a longer one is not a certificate of ours."""

_PAIR = re.compile(r'(?P<key>[A-Za-z]+)=(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^;,"]*))(?P<end>;|$)')
_SHA256 = re.compile(r"[0-9a-f]{64}")


class XfccError(ValueError):
    """The header is not what Envoy writes. The text does not quote it."""


@dataclass(frozen=True)
class ClientCertificate:
    """A client certificate that the edge verified in the TLS handshake."""

    sha256: str
    """SHA-256 of its DER encoding, lower-case hexadecimal."""
    uris: tuple[str, ...]
    """Subject alternative names of type URI."""
    subject: str
    """RFC 4514; empty where it has none."""


def parse(*headers: str) -> ClientCertificate:
    """The certificate in the values of the header, of which there is one. Raises XfccError."""
    if len(headers) != 1:
        raise XfccError("it is not there once")
    [header] = headers
    if len(header) > MAX_CHARACTERS:
        raise XfccError("it is too long")
    values = _values(header)
    hashes, subjects = values.get("Hash", []), values.get("Subject", [])
    if len(hashes) != 1 or not _SHA256.fullmatch(hashes[0]):
        raise XfccError("it does not have one SHA-256 hash")
    if len(subjects) > 1:
        raise XfccError("it has two subjects")
    return ClientCertificate(
        sha256=hashes[0],
        uris=tuple(uri for uri in values.get("URI", []) if uri),
        subject=subjects[0] if subjects else "",
    )


def _values(header: str) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {"By": [], "Hash": [], "Subject": [], "URI": []}
    position = 0
    while position < len(header):
        pair = _PAIR.match(header, position)
        if pair is None or pair["key"] not in values:
            raise XfccError("it is malformed, or has several elements")
        if (pair["quoted"] is not None) != (pair["key"] == "Subject"):
            raise XfccError("it has quotes where they do not belong, or none where they do")
        values[pair["key"]].append(pair["plain"] if pair["quoted"] is None else pair["quoted"])
        position = pair.end()
    if header.endswith(";"):
        raise XfccError("it ends in the middle")
    return values
