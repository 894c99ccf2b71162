"""Time stamps by an authority (RFC 3161): asked for, made by a test authority, verified.

Parsing and the signature's verification are `rfc3161-client`'s; here is what it
leaves to its caller. Tokens are TimeStampTokens in DER.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier
from rfc3161_client import TimeStampResponse, VerificationError, VerifierBuilder, decode_timestamp_response

from services.runtime.errors import InvalidArgument

MAX_TOKEN_BYTES = 32 * 1024
"""Length of a token, as the contract bounds it; with a chain of certificates one has some 6 KiB."""

_SHA256 = ObjectIdentifier("2.16.840.1.101.3.4.2.1")
_ECDSA_SHA256 = ObjectIdentifier("1.2.840.10045.4.3.2")
_SIGNED_DATA = ObjectIdentifier("1.2.840.113549.1.7.2")
_TST_INFO = ObjectIdentifier("1.2.840.113549.1.9.16.1.4")
_CONTENT_TYPE = ObjectIdentifier("1.2.840.113549.1.9.3")
_MESSAGE_DIGEST = ObjectIdentifier("1.2.840.113549.1.9.4")
_SIGNING_CERTIFICATE = ObjectIdentifier("1.2.840.113549.1.9.16.2.47")

TEST_POLICY = ObjectIdentifier("1.3.6.1.4.1.32473.1")
"""The policy that the test authority names: in the arc that RFC 5612 keeps for examples, so nobody's."""


@asn1.sequence
class AlgorithmIdentifier:
    """AlgorithmIdentifier (RFC 5280) without parameters, as RFC 5754 has them for SHA-2."""

    algorithm: ObjectIdentifier
    parameters: asn1.Null | None


SHA256 = AlgorithmIdentifier(algorithm=_SHA256, parameters=None)


@asn1.sequence
class _MessageImprint:
    hash_algorithm: AlgorithmIdentifier
    hashed_message: bytes


@asn1.sequence
class _Request:
    """TimeStampReq (section 2.4.1), without extensions."""

    version: int
    imprint: _MessageImprint
    policy: ObjectIdentifier | None
    nonce: int | None
    certificates: Annotated[bool, asn1.Default(value=False)]


@asn1.sequence
class _Status:
    status: int


@asn1.sequence
class _Response:
    """TimeStampResp (section 2.4.2) where it was granted."""

    status: _Status
    token: asn1.TLV


@asn1.sequence
class _Refusal:
    """TimeStampResp where it was not."""

    status: _Status


@asn1.sequence
class _TstInfo:
    """TSTInfo (section 2.4.2), with what the test authority says."""

    version: int
    policy: ObjectIdentifier
    imprint: _MessageImprint
    serial: int
    time: asn1.GeneralizedTime
    nonce: int | None


@asn1.sequence
class _EncapsulatedContent:
    content_type: ObjectIdentifier
    content: Annotated[bytes, asn1.Explicit(0)]


@asn1.sequence
class _IssuerAndSerial:
    issuer: asn1.TLV
    serial: int


@asn1.sequence
class _Attribute:
    kind: ObjectIdentifier
    values: asn1.SetOf[asn1.TLV]


@asn1.sequence
class _CertificateId:
    """ESSCertIDv2 (RFC 5035, section 4) with its default hash, SHA-256."""

    certificate_hash: bytes


@asn1.sequence
class _SigningCertificate:
    """SigningCertificateV2 (RFC 5035, section 3)."""

    certificates: list[_CertificateId]


@asn1.sequence
class _SignerInfo:
    version: int
    signer: _IssuerAndSerial
    digest: AlgorithmIdentifier
    attributes: Annotated[asn1.SetOf[_Attribute], asn1.Implicit(0)]
    algorithm: AlgorithmIdentifier
    signature: bytes


@asn1.sequence
class _SignedData:
    """SignedData (RFC 5652, section 5.1)."""

    version: int
    digests: asn1.SetOf[AlgorithmIdentifier]
    content: _EncapsulatedContent
    certificates: Annotated[asn1.SetOf[asn1.TLV], asn1.Implicit(0)]
    signers: asn1.SetOf[_SignerInfo]


@asn1.sequence
class _ContentInfo:
    kind: ObjectIdentifier
    content: Annotated[_SignedData, asn1.Explicit(0)]


@dataclass(frozen=True)
class Stamp:
    """What a verified token proves: that the digest existed at this time."""

    time: datetime
    authority: x509.Certificate
    """The certificate that signed."""


def request(sha256: bytes, *, nonce: int) -> bytes:
    """A TimeStampReq over a digest, which asks for the authority's certificate in the token."""
    return asn1.encode_der(_Request(version=1, imprint=_imprint(sha256), policy=None, nonce=nonce, certificates=True))


def token_of(response: bytes, sha256: bytes, *, nonce: int, authorities: Collection[bytes]) -> bytes:
    """The token in an authority's answer, verified. Raises InvalidArgument, as `verify` does.

    An answer with another nonce than the request's is another request's.
    """
    try:
        found = decode_timestamp_response(response)
        granted = found.status == 0 and found.tst_info.nonce == nonce
        token = bytes(found.time_stamp_token()) if granted else b""
    except ValueError:
        raise _invalid() from None
    verify(token, sha256, authorities=authorities)
    return token


def verify(token: bytes, sha256: bytes, *, authorities: Collection[bytes]) -> Stamp:
    """Verifies a token over a digest. `authorities` are the certificates (DER) that the directory recognises.

    Steps, after RFC 3161, section 2.4.2 and 2.3:

    1. The token is a SignedData that holds a TSTInfo, with one signer: TIME_STAMP_INVALID.
    2. Its imprint is the digest, with SHA-256: TIME_STAMP_IMPRINT_MISMATCH.
    3. The signer's certificate is for time stamping, and for nothing else, and says so critically:
       TIME_STAMP_AUTHORITY_UNKNOWN.
    4. A recognised authority issued it, and it counted at the time that the token states: TIME_STAMP_AUTHORITY_UNKNOWN.
    5. The signature verifies: TIME_STAMP_INVALID.

    What the caller must still check: the status of the signer's certificate,
    and whether the time is a likely one.
    """
    roots = [x509.load_der_x509_certificate(each) for each in authorities]
    try:
        return _verified(token, sha256, roots)
    except (VerificationError, ValueError, KeyError, x509.InvalidVersion):  # KeyError: a name of an odd type
        raise _invalid() from None


def _verified(token: bytes, sha256: bytes, roots: list[x509.Certificate]) -> Stamp:
    if len(token) > MAX_TOKEN_BYTES:
        raise _invalid()
    response = asn1.encode_der(_Response(status=_Status(status=0), token=asn1.decode_der(asn1.TLV, token)))
    found = decode_timestamp_response(response)
    signer = _signer(found)  # 1
    imprint = found.tst_info.message_imprint
    if imprint.hash_algorithm != _SHA256 or bytes(imprint.message) != sha256:  # 2
        raise InvalidArgument("TIME_STAMP_IMPRINT_MISMATCH", "the time stamp is over other bytes")
    if not _is_for_time_stamping(signer):  # 3
        raise _unknown("the time stamp's certificate is not for time stamping alone")
    if not any(_issued(root, signer) for root in roots):  # 4
        raise _unknown("the time stamp is of an authority that the directory does not recognise")
    time = found.tst_info.gen_time
    VerifierBuilder(roots=roots, tsa_certificate=signer).build().verify(found, sha256)  # 4, its time, and 5
    return Stamp(time, signer)


def policy(token: bytes) -> ObjectIdentifier:
    """Under which policy of its authority a verified token was made."""
    response = asn1.encode_der(_Response(status=_Status(status=0), token=asn1.decode_der(asn1.TLV, token)))
    return decode_timestamp_response(response).tst_info.policy


class Authority:
    """A time-stamping authority of one's own: for tests, and for a node that is tried out.

    Its clock is the machine's and its word is worth as much; a mesh in service
    names a real one.
    """

    def __init__(self, *, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    def answer(self, request: bytes, *, now: datetime, serial: int) -> bytes:
        """The TimeStampResp to a TimeStampReq; a rejection where it is not one over SHA-256."""
        try:
            asked = asn1.decode_der(_Request, request)
        except ValueError:
            return asn1.encode_der(_Refusal(status=_Status(status=2)))
        imprint = asked.imprint
        if imprint.hash_algorithm.algorithm != _SHA256 or len(imprint.hashed_message) != hashlib.sha256().digest_size:
            return asn1.encode_der(_Refusal(status=_Status(status=2)))
        info = _TstInfo(
            version=1,
            policy=TEST_POLICY,
            imprint=_imprint(imprint.hashed_message),
            serial=serial,
            time=asn1.GeneralizedTime(now.astimezone(UTC).replace(microsecond=0)),
            nonce=asked.nonce,
        )
        token = self._sign(asn1.encode_der(info))
        return asn1.encode_der(_Response(status=_Status(status=0), token=asn1.decode_der(asn1.TLV, token)))

    def _sign(self, content: bytes) -> bytes:
        certificate = self._certificate.public_bytes(Encoding.DER)
        named = _SigningCertificate(
            certificates=[_CertificateId(certificate_hash=hashlib.sha256(certificate).digest())]
        )
        attributes = asn1.SetOf(
            [
                _attribute(_CONTENT_TYPE, asn1.encode_der(_TST_INFO)),
                _attribute(_MESSAGE_DIGEST, asn1.encode_der(hashlib.sha256(content).digest())),
                _attribute(_SIGNING_CERTIFICATE, asn1.encode_der(named)),
            ]
        )
        signer = _SignerInfo(
            version=1,
            signer=_IssuerAndSerial(
                issuer=asn1.decode_der(asn1.TLV, self._certificate.issuer.public_bytes()),
                serial=self._certificate.serial_number,
            ),
            digest=SHA256,
            attributes=attributes,
            algorithm=AlgorithmIdentifier(algorithm=_ECDSA_SHA256, parameters=None),
            signature=self._key.sign(_as_set(attributes), ec.ECDSA(hashes.SHA256())),
        )
        data = _SignedData(
            version=3,
            digests=asn1.SetOf([SHA256]),
            content=_EncapsulatedContent(content_type=_TST_INFO, content=content),
            certificates=asn1.SetOf([asn1.decode_der(asn1.TLV, certificate)]),
            signers=asn1.SetOf([signer]),
        )
        return asn1.encode_der(_ContentInfo(kind=_SIGNED_DATA, content=data))


@asn1.sequence
class _Attributes:
    attributes: asn1.SetOf[_Attribute]


def _as_set(attributes: asn1.SetOf[_Attribute]) -> bytes:
    """The attributes as they are signed: with the tag of SET OF (RFC 5652, section 5.4)."""
    return bytes(asn1.decode_der(asn1.TLV, asn1.encode_der(_Attributes(attributes=attributes))).data)


def _attribute(kind: ObjectIdentifier, value: bytes) -> _Attribute:
    return _Attribute(kind=kind, values=asn1.SetOf([asn1.decode_der(asn1.TLV, value)]))


def _imprint(sha256: bytes) -> _MessageImprint:
    return _MessageImprint(hash_algorithm=SHA256, hashed_message=sha256)


def _signer(found: TimeStampResponse) -> x509.Certificate:
    """The certificate that the one signer names by issuer and serial number."""
    (signer,) = found.signed_data.signer_infos
    for content in found.signed_data.certificates:
        each = x509.load_der_x509_certificate(bytes(content))
        if (each.issuer, each.serial_number) == (signer.issuer, signer.serial_number):
            return each
    raise _invalid()


def _is_for_time_stamping(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
        return False
    return usage.critical and list(usage.value) == [ExtendedKeyUsageOID.TIME_STAMPING]


def _issued(root: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(root)
    except Exception:  # noqa: BLE001  # ValueError, TypeError or InvalidSignature: each means that it did not
        return False
    return True


def _invalid() -> InvalidArgument:
    return InvalidArgument("TIME_STAMP_INVALID", "the time stamp is not one, or its signature does not verify")


def _unknown(text: str) -> InvalidArgument:
    return InvalidArgument("TIME_STAMP_AUTHORITY_UNKNOWN", text)
