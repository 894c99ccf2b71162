"""Signed form 1 as a file: `META-INF/signatures0.xml` of a container (ETSI EN 319 132-1).

Written from a template, and read by the same template: a file that differs in
one byte of what is fixed is refused. So a reader needs no XML parser, and what
XML allows besides (document types, other transforms, wrapped signatures, a
second signature) cannot be said at all.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from calendar import timegm
from collections.abc import Sequence
from dataclasses import dataclass
from time import strptime

from services.exchange.evidence import signatures
from services.exchange.evidence.signatures import BATCH_FILE, STATEMENT_FILE, Algorithm, PinnedKey
from services.runtime.errors import InvalidArgument

MAX_BYTES = 256 * 1024
"""Length of the file: a time stamp, a status and a chain of certificates take some 15 KiB."""

_OPEN = (
    '<?xml version="1.0" encoding="UTF-8"?><asic:XAdESSignatures xmlns:asic="http://uri.etsi.org/02918/v1.2.1#"'
    f' xmlns:ds="{signatures.DS}" xmlns:xades="{signatures.XA}"><ds:Signature Id="S0">'
)
_KEY = ("<ds:KeyInfo><ds:X509Data><ds:X509Certificate>", "</ds:X509Certificate></ds:X509Data></ds:KeyInfo>")
_OBJECT = '<ds:Object><xades:QualifyingProperties Target="#S0">'
_UNSIGNED = (
    "<xades:UnsignedProperties><xades:UnsignedSignatureProperties>",
    "</xades:UnsignedSignatureProperties></xades:UnsignedProperties>",
)
_TIME_STAMP = (
    (
        f'<xades:SignatureTimeStamp Id="S0-ts"><ds:CanonicalizationMethod Algorithm="{signatures.EXC}">'
        "</ds:CanonicalizationMethod><xades:EncapsulatedTimeStamp>"
    ),
    "</xades:EncapsulatedTimeStamp></xades:SignatureTimeStamp>",
)
_CERTIFICATES = ("<xades:CertificateValues>", "</xades:CertificateValues>")
_CERTIFICATE = ("<xades:EncapsulatedX509Certificate>", "</xades:EncapsulatedX509Certificate>")
_STATUS = (
    "<xades:RevocationValues><xades:OCSPValues><xades:EncapsulatedOCSPValue>",
    "</xades:EncapsulatedOCSPValue></xades:OCSPValues></xades:RevocationValues>",
)
_CLOSE = "</xades:QualifyingProperties></ds:Object></ds:Signature></asic:XAdESSignatures>"


@dataclass(frozen=True)
class XadesFile:
    """What the file holds. Nothing of it is verified yet."""

    signed_info: bytes
    signed_properties: bytes
    file: str
    """The file that it signs."""
    signing_time: int
    value: bytes
    certificate: bytes
    """DER, of KeyInfo."""
    time_stamp: bytes = b""
    """A TimeStampToken over the signature value; empty: none."""
    chain: tuple[bytes, ...] = ()
    """Further certificates, DER."""
    status: bytes = b""
    """An OCSPResponse; empty: none."""


def write(
    pinned: PinnedKey,
    *,
    file: str,
    file_sha256: bytes,
    signing_time: int,
    value: bytes,
    time_stamp: bytes = b"",
    chain: Sequence[bytes] = (),
    status: bytes = b"",
) -> bytes:
    """The file of one signature, with what proves it for long where it is given (baseline B, T or LT)."""
    unsigned = ""
    if time_stamp:
        unsigned += _put(_TIME_STAMP, time_stamp)
    if chain:
        unsigned += _CERTIFICATES[0] + "".join(_put(_CERTIFICATE, each) for each in chain) + _CERTIFICATES[1]
    if status:
        unsigned += _put(_STATUS, status)
    return "".join(
        (
            _OPEN,
            pinned.signed_info(file, file_sha256, signing_time).decode("ascii"),
            signatures.signature_value(value).decode("ascii"),
            _put(_KEY, pinned.certificate),
            _OBJECT,
            pinned.signed_properties(signing_time).decode("ascii"),
            _UNSIGNED[0] + unsigned + _UNSIGNED[1] if unsigned else "",
            _CLOSE,
        )
    ).encode("ascii")


def _put(around: tuple[str, str], content: bytes) -> str:
    return around[0] + b64encode(content).decode("ascii") + around[1]


_BASE64 = "[A-Za-z0-9+/]+={0,2}"


def _expression() -> re.Pattern[str]:
    def value(name: str, around: tuple[str, str]) -> str:
        return f"{re.escape(around[0])}(?P<{name}>{_BASE64}){re.escape(around[1])}"

    certificate = f"{re.escape(_CERTIFICATE[0])}{_BASE64}{re.escape(_CERTIFICATE[1])}"
    signature = (f'<ds:SignatureValue xmlns:ds="{signatures.DS}" Id="S0-sv">', "</ds:SignatureValue>")
    unsigned = (
        f"(?:{value('time_stamp', _TIME_STAMP)})?"
        f"(?:{re.escape(_CERTIFICATES[0])}(?P<chain>(?:{certificate})+){re.escape(_CERTIFICATES[1])})?"
        f"(?:{value('status', _STATUS)})?"
    )
    return re.compile(
        re.escape(_OPEN)
        + rf'(?P<info><ds:SignedInfo [^\n]*?URI="(?P<file>{re.escape(STATEMENT_FILE)}|{re.escape(BATCH_FILE)})"'
        + r"[^\n]*?</ds:SignedInfo>)"
        + value("value", signature)
        + value("certificate", _KEY)
        + re.escape(_OBJECT)
        + r"(?P<properties><xades:SignedProperties [^\n]*?<xades:SigningTime>"
        + r"(?P<time>[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)</xades:SigningTime>"
        + r"[^\n]*?</xades:SignedProperties>)"
        + f"(?:{re.escape(_UNSIGNED[0])}{unsigned}{re.escape(_UNSIGNED[1])})?"
        + re.escape(_CLOSE),
        re.ASCII,
    )


_EXPRESSION = _expression()


def read(content: bytes) -> XadesFile:
    """Reads the file. Raises InvalidArgument, CONTAINER_MALFORMED, where it is not of the template.

    Its frame is compared here; `follows` compares SignedInfo and
    SignedProperties, whose text depends on the key.
    """
    match = _EXPRESSION.fullmatch(content.decode("latin-1")) if len(content) <= MAX_BYTES else None
    if match is None:
        raise _malformed()
    try:
        chain = re.findall(f"{re.escape(_CERTIFICATE[0])}({_BASE64})", match["chain"] or "")
        return XadesFile(
            signed_info=match["info"].encode("latin-1"),
            signed_properties=match["properties"].encode("latin-1"),
            file=match["file"],
            signing_time=timegm(strptime(match["time"], "%Y-%m-%dT%H:%M:%SZ")),
            value=_bytes(match["value"]),
            certificate=_bytes(match["certificate"]),
            time_stamp=_bytes(match["time_stamp"] or ""),
            chain=tuple(_bytes(each) for each in chain),
            status=_bytes(match["status"] or ""),
        )
    except (ValueError, binascii.Error):
        raise _malformed() from None


def _malformed() -> InvalidArgument:
    return InvalidArgument("CONTAINER_MALFORMED", "the signature file is not of signed form 1", rule="signed-form")


def _bytes(text: str) -> bytes:
    content = b64decode(text, validate=True)
    if b64encode(content).decode("ascii") != text:  # base64 has spellings that mean the same; we take one
        raise ValueError
    return content


def names_its_certificate(found: XadesFile, pinned: PinnedKey) -> bool:
    """Whether SignedProperties are those of the certificate, so that the signature covers whose it is."""
    return found.signed_properties == pinned.signed_properties(found.signing_time)


def covers(found: XadesFile, pinned: PinnedKey, file_sha256: bytes) -> bool:
    """Whether SignedInfo is that over a file of this digest, with the algorithm pinned to the key."""
    return found.signed_info == pinned.signed_info(found.file, file_sha256, found.signing_time)


def algorithm_of(found: XadesFile) -> Algorithm | None:
    """The algorithm that SignedInfo names: to be held against the pinned one, never to verify with."""
    method = re.search(rb'<ds:SignatureMethod Algorithm="([^"]*)">', found.signed_info)
    named = method[1].decode("ascii") if method else ""
    return next((each for each in Algorithm if signatures.method_uri(each) == named), None)
