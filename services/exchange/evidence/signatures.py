"""Signed form 1: XAdES baseline B from a template (statements.proto).

The canonical bytes of SignedProperties and SignedInfo are put together from
fixed text, so that signing and verifying cost a few digests and the raw
signature, and nobody parses XML. The same signature value stands in an
exported container, where ordinary XAdES tools verify it.

A key's algorithm is pinned to it in the directory and never taken from what is
to be verified.
"""

from __future__ import annotations

import functools
import hashlib
import time
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from typing import Annotated

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from services.exchange.evidence import merkle
from services.exchange.evidence.statements import Statement
from services.runtime.errors import InvalidArgument

DS = "http://www.w3.org/2000/09/xmldsig#"
XA = "http://uri.etsi.org/01903/v1.3.2#"
SHA = "http://www.w3.org/2001/04/xmlenc#sha256"
EXC = "http://www.w3.org/2001/10/xml-exc-c14n#"

STATEMENT_FILE = "statement.txt"
BATCH_FILE = "batch.txt"

MIN_RSA_BITS = 3072
"""Shorter keys are not accepted: SOG-IS recommends none below for use beyond 2025."""

MAX_BATCH = 1024
"""Statements under one signature (statements.proto)."""

REMEMBERED_SECONDS = 16
"""Digests of SignedProperties kept per key: they differ by the second of signing only."""


class Algorithm(IntEnum):
    """With what a key signs; numbers as `SignatureAlgorithm` in the contract."""

    ECDSA_P256_SHA256 = 1
    ECDSA_P384_SHA384 = 2
    RSA_PKCS1_SHA256 = 3


class Form(IntEnum):
    """How a signature was made; numbers as `SignatureForm` in the contract."""

    XADES_1 = 1
    XADES_1_BATCH = 2


@dataclass(frozen=True)
class BatchPlace:
    """A statement's place in a batch."""

    count: int
    index: int
    path: tuple[bytes, ...]


@dataclass(frozen=True)
class Signature:
    """A signature, without what both sides can rebuild."""

    form: Form
    signing_time: int
    """Seconds since 1970."""
    certificate_sha256: bytes
    value: bytes
    batch: BatchPlace | None = None


PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class _Scheme:
    """An algorithm: its name in XML, its hash, and the bytes of r and s where it is ECDSA."""

    uri: str
    hash: hashes.HashAlgorithm
    half: int
    ecdsa: ec.ECDSA = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ecdsa", ec.ECDSA(self.hash))


_SCHEMES = {
    Algorithm.ECDSA_P256_SHA256: _Scheme(
        "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256", hashes.SHA256(), half=32
    ),
    Algorithm.ECDSA_P384_SHA384: _Scheme(
        "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384", hashes.SHA384(), half=48
    ),
    Algorithm.RSA_PKCS1_SHA256: _Scheme("http://www.w3.org/2001/04/xmldsig-more#rsa-sha256", hashes.SHA256(), half=0),
}


def method_uri(algorithm: Algorithm) -> str:
    """The algorithm's name in XML (RFC 9231)."""
    return _SCHEMES[algorithm].uri


def fits(key: object, algorithm: Algorithm) -> bool:
    """Whether a public key may be pinned with this algorithm."""
    if algorithm is Algorithm.RSA_PKCS1_SHA256:
        return isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS
    curve = ec.SECP256R1 if algorithm is Algorithm.ECDSA_P256_SHA256 else ec.SECP384R1
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, curve)


def algorithm_for(key: object) -> Algorithm:
    """The one algorithm with which a public key signs. Raises InvalidArgument, SIGNATURE_FORM_REFUSED."""
    for algorithm in Algorithm:
        if fits(key, algorithm):
            return algorithm
    raise InvalidArgument("SIGNATURE_FORM_REFUSED", "keys of this kind sign no statements")


def raw_sign(key: PrivateKey, algorithm: Algorithm, content: bytes) -> bytes:
    """The signature value over `content`, in the form that the contract gives each algorithm."""
    scheme = _SCHEMES[algorithm]
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(content, padding.PKCS1v15(), scheme.hash)
    r, s = decode_dss_signature(key.sign(content, scheme.ecdsa))
    return r.to_bytes(scheme.half, "big") + s.to_bytes(scheme.half, "big")


def raw_verify(key: object, algorithm: Algorithm, value: bytes, content: bytes) -> None:
    """Verifies a signature value. Raises InvalidArgument, SIGNATURE_INVALID or SIGNATURE_FORM_REFUSED."""
    if not fits(key, algorithm):
        raise InvalidArgument("SIGNATURE_FORM_REFUSED", "the key is not of the algorithm that is pinned to it")
    scheme = _SCHEMES[algorithm]
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(value, content, padding.PKCS1v15(), scheme.hash)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            if len(value) != 2 * scheme.half:
                value = bytes(2 * scheme.half)  # a value of another length verifies as little as one of zeros
            r, s = int.from_bytes(value[: scheme.half], "big"), int.from_bytes(value[scheme.half :], "big")
            key.verify(encode_dss_signature(r, s), content, scheme.ecdsa)
    except InvalidSignature:
        raise InvalidArgument("SIGNATURE_INVALID", "the signature does not verify") from None


@asn1.sequence
class _GeneralNames:
    """GeneralNames (RFC 5280, section 4.2.1.6) of one directoryName."""

    directory_name: Annotated[asn1.TLV, asn1.Explicit(4)]


@asn1.sequence
class _IssuerSerial:
    """IssuerSerial (RFC 5035, section 5)."""

    issuer: _GeneralNames
    serial: int


def issuer_serial(certificate: x509.Certificate) -> bytes:
    """The DER IssuerSerial of a certificate."""
    issuer = _GeneralNames(directory_name=asn1.decode_der(asn1.TLV, certificate.issuer.public_bytes()))
    return asn1.encode_der(_IssuerSerial(issuer=issuer, serial=certificate.serial_number))


@dataclass(frozen=True)
class PinnedKey:
    """A key as the directory pins it, with its part of the template ready."""

    certificate: bytes
    """DER."""
    algorithm: Algorithm
    holder: str
    """Whose it is, spelt with "/": a member's, or a node's where it signs for a log."""
    start: datetime | None = None
    """From when its signatures count; None: as the certificate says."""
    end: datetime | None = None
    """From when they no longer count."""
    sha256: bytes = field(init=False)
    x509: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        loaded = x509.load_der_x509_certificate(self.certificate)
        object.__setattr__(self, "sha256", hashlib.sha256(self.certificate).digest())
        object.__setattr__(self, "x509", loaded)
        if not fits(self.public_key, self.algorithm):
            raise InvalidArgument("SIGNATURE_FORM_REFUSED", "the key is not of the algorithm that is pinned to it")

    @classmethod
    def of(cls, certificate: bytes) -> PinnedKey:
        """A certificate (DER) whose key is pinned nowhere, with the one algorithm of the key; it is nobody's.

        Raises ValueError or InvalidVersion where it cannot be read, and
        InvalidArgument, SIGNATURE_FORM_REFUSED.
        """
        return cls(certificate, algorithm_for(x509.load_der_x509_certificate(certificate).public_key()), "")

    @functools.cached_property
    def public_key(self) -> object:
        """The key of the certificate, and of nothing else."""
        return self.x509.public_key()

    @functools.cached_property
    def period(self) -> tuple[datetime, datetime]:
        """The first and the last instant at which its signatures count."""
        first, last = self.x509.not_valid_before_utc, self.x509.not_valid_after_utc
        return max(first, self.start or first), min(last, self.end or last)

    def signed_properties(self, signing_time: int) -> bytes:
        """The canonical SignedProperties of a signature made in this second."""
        before, after = self._properties
        return (before + spell_second(signing_time) + after).encode("ascii")

    def signed_info(self, file: str, file_sha256: bytes, signing_time: int) -> bytes:
        """The canonical SignedInfo over a file, of a signature made in this second: what is signed."""
        info = self._info
        return (
            f"{info[0]}{file}{info[1]}{b64encode(file_sha256).decode('ascii')}"
            f"{info[2]}{self._properties_digest(signing_time)}{info[3]}"
        ).encode("ascii")

    @functools.cached_property
    def _properties_digest(self) -> functools._lru_cache_wrapper[str]:
        @functools.lru_cache(maxsize=REMEMBERED_SECONDS)
        def digest(signing_time: int) -> str:
            return b64encode(hashlib.sha256(self.signed_properties(signing_time)).digest()).decode("ascii")

        return digest

    @functools.cached_property
    def _properties(self) -> tuple[str, str]:
        digest = b64encode(self.sha256).decode("ascii")
        serial = b64encode(issuer_serial(self.x509)).decode("ascii")
        return (
            (
                f'<xades:SignedProperties xmlns:xades="{XA}" Id="S0-sp"><xades:SignedSignatureProperties>'
                "<xades:SigningTime>"
            ),
            (
                "</xades:SigningTime><xades:SigningCertificateV2><xades:Cert><xades:CertDigest>"
                f'<ds:DigestMethod xmlns:ds="{DS}" Algorithm="{SHA}"></ds:DigestMethod>'
                f'<ds:DigestValue xmlns:ds="{DS}">{digest}</ds:DigestValue></xades:CertDigest>'
                f"<xades:IssuerSerialV2>{serial}</xades:IssuerSerialV2></xades:Cert></xades:SigningCertificateV2>"
                "</xades:SignedSignatureProperties><xades:SignedDataObjectProperties>"
                '<xades:DataObjectFormat ObjectReference="#r0"><xades:MimeType>text/plain</xades:MimeType>'
                "</xades:DataObjectFormat></xades:SignedDataObjectProperties></xades:SignedProperties>"
            ),
        )

    @functools.cached_property
    def _info(self) -> tuple[str, str, str, str]:
        method = f'<ds:DigestMethod Algorithm="{SHA}"></ds:DigestMethod><ds:DigestValue>'
        return (
            (
                f'<ds:SignedInfo xmlns:ds="{DS}">'
                f'<ds:CanonicalizationMethod Algorithm="{EXC}"></ds:CanonicalizationMethod>'
                f'<ds:SignatureMethod Algorithm="{_SCHEMES[self.algorithm].uri}"></ds:SignatureMethod>'
                '<ds:Reference Id="r0" URI="'
            ),
            f'">{method}',
            (
                '</ds:DigestValue></ds:Reference><ds:Reference Id="rsp"'
                ' Type="http://uri.etsi.org/01903#SignedProperties" URI="#S0-sp"><ds:Transforms>'
                f'<ds:Transform Algorithm="{EXC}"></ds:Transform></ds:Transforms>{method}'
            ),
            "</ds:DigestValue></ds:Reference></ds:SignedInfo>",
        )


@functools.lru_cache(maxsize=REMEMBERED_SECONDS)
def spell_second(signing_time: int) -> str:
    """The SigningTime of a second since 1970."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(signing_time))


def signature_value(value: bytes) -> bytes:
    """The canonical ds:SignatureValue: what a time stamp over a signature covers."""
    return (
        f'<ds:SignatureValue xmlns:ds="{DS}" Id="S0-sv">{b64encode(value).decode("ascii")}</ds:SignatureValue>'.encode(
            "ascii"
        )
    )


def batch_file(count: int, root: bytes) -> bytes:
    """The file that is signed for a batch."""
    return f"solmu-batch/1\ncount: {count}\nroot: {root.hex()}\n".encode("ascii")


def sign(statement: Statement, *, key: PrivateKey, pinned: PinnedKey, now: int) -> Signature:
    """Signs one statement. `now` is in seconds since 1970."""
    content = pinned.signed_info(STATEMENT_FILE, statement.sha256, now)
    return Signature(Form.XADES_1, now, pinned.sha256, raw_sign(key, pinned.algorithm, content))


def sign_batch(statements: Sequence[Statement], *, key: PrivateKey, pinned: PinnedKey, now: int) -> list[Signature]:
    """Signs many statements with one signature, for keys whose token is slow."""
    if not 0 < len(statements) <= MAX_BATCH:
        raise ValueError(f"a batch has 1 to {MAX_BATCH} statements")
    leaves = [merkle.leaf_hash(statement.content) for statement in statements]
    file = batch_file(len(leaves), merkle.root_of(leaves))
    value = raw_sign(key, pinned.algorithm, pinned.signed_info(BATCH_FILE, hashlib.sha256(file).digest(), now))
    places = (
        BatchPlace(len(leaves), index, tuple(merkle.inclusion_path_of(index, leaves))) for index in range(len(leaves))
    )
    return [Signature(Form.XADES_1_BATCH, now, pinned.sha256, value, place) for place in places]


def signed_file(statement: Statement, signature: Signature) -> tuple[str, bytes]:
    """Name and content of the file that a signature covers: the statement, or the batch that its place leads to.

    Raises InvalidArgument, BATCH_PATH_INVALID or SIGNATURE_FORM_REFUSED.
    """
    place = signature.batch
    if (signature.form is Form.XADES_1_BATCH) != (place is not None):
        raise InvalidArgument("SIGNATURE_FORM_REFUSED", "the signature's form and its place in a batch do not agree")
    if place is None:
        return STATEMENT_FILE, statement.content
    root = None
    if 0 < place.count <= MAX_BATCH:
        leaf = merkle.leaf_hash(statement.content)
        root = merkle.root_from_inclusion(leaf, place.index, place.count, place.path)
    if root is None:
        raise InvalidArgument("BATCH_PATH_INVALID", "the batch does not hold the statement at the place given")
    return BATCH_FILE, batch_file(place.count, root)


def verify(statement: Statement, signature: Signature, pinned: PinnedKey | None) -> None:
    """Verifies that the statement's sender signed it, by the key that the directory pins for the certificate named.

    Steps, each with its reason:

    1. the directory has the certificate that the signature names: CERTIFICATE_UNKNOWN, KEY_CERTIFICATE_MISMATCH;
    2. it is one of the member that sends: SIGNER_NOT_SENDER;
    3. certificate and pinned key counted when it was signed: CERTIFICATE_EXPIRED;
    4. the signed file follows from the statement: SIGNATURE_FORM_REFUSED, BATCH_PATH_INVALID;
    5. the signature verifies with the pinned algorithm: SIGNATURE_INVALID.

    What the caller must still check: that the sender is who it should be, the
    statement's time and id (replay), the certificate's status, its chain, and
    the digests that the statement holds.
    """
    if pinned is None:  # 1
        raise InvalidArgument("CERTIFICATE_UNKNOWN", "the directory does not have the certificate for statements")
    if pinned.sha256 != signature.certificate_sha256:
        raise InvalidArgument("KEY_CERTIFICATE_MISMATCH", "the key is not that of the certificate named")
    if pinned.holder != statement.member:  # 2
        raise InvalidArgument("SIGNER_NOT_SENDER", "the key is another member's", signer=pinned.holder)
    check_period(pinned, signature.signing_time)  # 3
    name, file = signed_file(statement, signature)  # 4
    digest = statement.sha256 if name == STATEMENT_FILE else hashlib.sha256(file).digest()
    content = pinned.signed_info(name, digest, signature.signing_time)  # 5
    raw_verify(pinned.public_key, pinned.algorithm, signature.value, content)


def check_period(pinned: PinnedKey, signing_time: int) -> None:
    """Refuses a signature from before or after its key's time. Raises InvalidArgument, CERTIFICATE_EXPIRED."""
    first, last = pinned.period
    if not first.timestamp() <= signing_time <= last.timestamp():
        raise InvalidArgument(
            "CERTIFICATE_EXPIRED",
            "the certificate's time, or the key's, was over or had not begun",
            not_before=first.astimezone(UTC).isoformat(),
            not_after=last.astimezone(UTC).isoformat(),
        )
