"""The status of certificates by OCSP (RFC 6960): asked for, answered by a test responder, verified.

Parsing is `cryptography`'s; here is what it leaves to its caller. Answers are
OCSPResponses in DER, fetched ahead by the signer and stapled to what it signs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from services.runtime.errors import InvalidArgument

MAX_BYTES = 16 * 1024
"""Length of an answer, as the contract bounds it."""

MAX_AGE = timedelta(hours=1)
"""How old a status may be where the mesh does not say (`MeshParameters.status_max_age`)."""


@dataclass(frozen=True)
class Status:
    """What a verified answer says of a certificate."""

    as_of: datetime
    """thisUpdate."""
    until: datetime | None
    """nextUpdate."""
    revoked: datetime | None
    """When it was revoked; None: it is good."""


def request(certificate: x509.Certificate, issuer: x509.Certificate) -> bytes:
    """An OCSPRequest for one certificate, without a nonce: the answer is kept and shown to others."""
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA256())
    return builder.build().public_bytes(Encoding.DER)


def verify(
    answer: bytes,
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    *,
    at: datetime,
    max_age: timedelta | None = MAX_AGE,
    responders: Collection[bytes] = (),
) -> Status:
    """Verifies what a responder said of a certificate, for use at an instant.

    Without `max_age` its age is left to the caller to judge. `responders` are
    certificates (DER) that may answer for the issuer because the directory
    says so. Steps, after RFC 6960, section 3.2:

    1. The answer is one, and was granted: STATUS_MISSING.
    2. It is about this certificate, of this issuer: STATUS_NOT_FOR_CERTIFICATE.
    3. Who signed is the issuer, or was named by it for this (section 4.2.2.2), or is among `responders`, and
       counted when it signed: STATUS_RESPONDER_INVALID.
    4. The signature verifies: STATUS_RESPONDER_INVALID.
    5. It was not too old at `at`: STATUS_STALE.
    6. The responder knows the certificate: STATUS_NOT_FOR_CERTIFICATE.

    What the caller must still check: `revoked` (an answer may say that the
    certificate was revoked after the instant that matters), and that the
    answer's own time is not ahead of the caller's clock.
    """
    found = read(answer)  # 1
    single = _about(found, certificate, issuer)  # 2
    _check_signer(found, issuer, responders)  # 3, 4
    status = Status(single.this_update_utc, single.next_update_utc, single.revocation_time_utc)
    if max_age is not None and fresh_until(status, max_age) < at:  # 5
        raise InvalidArgument("STATUS_STALE", "the certificate's status is older than is allowed")
    if single.certificate_status is ocsp.OCSPCertStatus.UNKNOWN:  # 6
        raise InvalidArgument("STATUS_NOT_FOR_CERTIFICATE", "the responder does not know the certificate")
    return status


def fresh_until(status: Status, max_age: timedelta) -> datetime:
    """Until when a status may be used: as long as it says itself, and no longer than is allowed."""
    end = status.as_of + max_age
    return end if status.until is None else min(end, status.until)


def check_good(status: Status, *, at: datetime) -> None:
    """Refuses a certificate that had been revoked by an instant. Raises InvalidArgument, CERTIFICATE_REVOKED."""
    if status.revoked is not None and status.revoked <= at:
        raise InvalidArgument(
            "CERTIFICATE_REVOKED", "the certificate had been revoked", revoke_time=status.revoked.isoformat()
        )


def read(answer: bytes) -> ocsp.OCSPResponse:
    """The answer, which was granted. Raises InvalidArgument, STATUS_MISSING."""
    try:
        found = ocsp.load_der_ocsp_response(answer) if len(answer) <= MAX_BYTES else None
    except ValueError:
        found = None
    if found is None or found.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        raise InvalidArgument("STATUS_MISSING", "there is no status: no answer, or one that was not granted")
    return found


def _about(
    found: ocsp.OCSPResponse, certificate: x509.Certificate, issuer: x509.Certificate
) -> ocsp.OCSPSingleResponse:
    try:
        for single in found.responses:
            wanted = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, single.hash_algorithm).build()
            if (single.serial_number, single.issuer_name_hash, single.issuer_key_hash) == (
                wanted.serial_number,
                wanted.issuer_name_hash,
                wanted.issuer_key_hash,
            ):
                return single
    except (ValueError, UnsupportedAlgorithm):
        pass  # an answer about who knows what is about another certificate
    raise InvalidArgument("STATUS_NOT_FOR_CERTIFICATE", "the status is another certificate's")


def _check_signer(found: ocsp.OCSPResponse, issuer: x509.Certificate, responders: Collection[bytes]) -> None:
    try:
        for signer in _may_answer(found, issuer, responders):
            if _is_named(found, signer) and _counted(signer, found.produced_at_utc) and _signed(found, signer):
                return
    except (ValueError, TypeError, UnsupportedAlgorithm):
        pass  # a certificate or signature that cannot be read was made by nobody who may answer
    raise InvalidArgument("STATUS_RESPONDER_INVALID", "the status was not signed by one who may answer")


def _may_answer(
    found: ocsp.OCSPResponse, issuer: x509.Certificate, responders: Collection[bytes]
) -> Iterable[x509.Certificate]:
    yield issuer
    yield from (x509.load_der_x509_certificate(each) for each in responders)
    yield from (each for each in found.certificates if _is_delegated(each, issuer))


def _is_delegated(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the issuer itself issued the certificate, for answering."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        certificate.verify_directly_issued_by(issuer)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, InvalidSignature, ValueError, TypeError):
        return False
    return ExtendedKeyUsageOID.OCSP_SIGNING in usage.value


def _is_named(found: ocsp.OCSPResponse, signer: x509.Certificate) -> bool:
    if found.responder_name is not None:
        return found.responder_name == signer.subject
    return found.responder_key_hash == x509.SubjectKeyIdentifier.from_public_key(signer.public_key()).digest


def _counted(signer: x509.Certificate, at: datetime) -> bool:
    return signer.not_valid_before_utc <= at <= signer.not_valid_after_utc


def _signed(found: ocsp.OCSPResponse, signer: x509.Certificate) -> bool:
    key, algorithm = signer.public_key(), found.signature_hash_algorithm
    if algorithm is None or isinstance(algorithm, hashes.SHA1):
        return False
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(found.signature, found.tbs_response_bytes, ec.ECDSA(algorithm))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(found.signature, found.tbs_response_bytes, padding.PKCS1v15(), algorithm)
        else:
            return False
    except InvalidSignature:
        return False
    return True


class Responder:
    """A responder of one's own: for tests, and for a node that is tried out.

    It answers "good" for whatever its issuer issued and was not named as
    revoked.
    """

    def __init__(
        self,
        *,
        issuer: x509.Certificate,
        certificate: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
        lifetime: timedelta = MAX_AGE,
    ) -> None:
        self._issuer = issuer
        self._certificate = certificate
        self._key = key
        self._lifetime = lifetime
        issuers = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA256()).build()
        self._names = (issuers.issuer_name_hash, issuers.issuer_key_hash)
        self.revoked: dict[int, datetime] = {}
        """When the certificates of these serial numbers were revoked."""

    def answer(self, asked: bytes, *, now: datetime) -> bytes:
        """The OCSPResponse to an OCSPRequest over SHA-256; "malformedRequest" or "unauthorized" where it is not one."""
        try:
            query = ocsp.load_der_ocsp_request(asked)
            names, algorithm = (query.issuer_name_hash, query.issuer_key_hash), query.hash_algorithm
        except (ValueError, NotImplementedError, UnsupportedAlgorithm):
            return _unsuccessful(ocsp.OCSPResponseStatus.MALFORMED_REQUEST)
        if not isinstance(algorithm, hashes.SHA256) or names != self._names:
            return _unsuccessful(ocsp.OCSPResponseStatus.UNAUTHORIZED)
        now = now.replace(microsecond=0)
        revoked = self.revoked.get(query.serial_number)
        builder = (
            ocsp.OCSPResponseBuilder()
            .add_response_by_hash(
                *self._names,
                query.serial_number,
                algorithm,
                ocsp.OCSPCertStatus.REVOKED if revoked else ocsp.OCSPCertStatus.GOOD,
                now,
                now + self._lifetime,
                revoked,
                None,
            )
            .responder_id(ocsp.OCSPResponderEncoding.HASH, self._certificate)
            .certificates([self._certificate])
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.DER)


def _unsuccessful(status: ocsp.OCSPResponseStatus) -> bytes:
    return ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)
