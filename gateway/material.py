"""Checks of what the edge is about to trust: certificates, revocation lists and token keys.

Envoy keeps its old files when new ones are wrong, and then silently no longer
follows later revocations; some wrong revocation lists it takes, and refuses
every client. So what is wrong is found here, before Envoy sees it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

import jwt
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from services.runtime import identity

_CRL_BEGIN = "-----BEGIN X509 CRL-----"
_CRL_END = "-----END X509 CRL-----"


class MaterialError(ValueError):
    """What was read must not reach the edge; says why."""


def check_certificate(chain: str, key: str, *, now: datetime) -> datetime:
    """A certificate chain and its key, PEM. Returns until when it is good.

    Does not check who issued it, nor for which names: that is the peers' matter.
    """
    certificates = _certificates(chain)
    try:
        private = load_pem_private_key(key.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise MaterialError("the private key is not a PEM file without a password") from None
    if private.public_key() != certificates[0].public_key():
        raise MaterialError("the private key belongs to another certificate")
    return _good_until(certificates[:1], now)


def check_authorities(trusted: str, *, now: datetime) -> datetime:
    """Certificates of authorities, PEM. Returns until when the first of them is good."""
    certificates = _certificates(trusted)
    for certificate in certificates:
        if not _is_authority(certificate):
            raise MaterialError(f"{_name(certificate)} is not a certificate of an authority")
    return _good_until(certificates, now)


def check_revocations(trusted: str, crl: str, *, now: datetime) -> datetime:
    """A revocation list (RFC 5280) of each authority, PEM. Returns until when the first of them is good.

    Envoy refuses every client of an authority that has no list, or whose list
    is past its next update.
    """
    lists = [_crl(block) for block in crl.split(_CRL_BEGIN)[1:]]
    if not lists:
        raise MaterialError("there is no PEM block of a revocation list")
    until = check_authorities(trusted, now=now)
    for authority in _certificates(trusted):
        own = [each for each in lists if each.issuer == authority.subject and _signed_by(each, authority)]
        if not own:
            raise MaterialError(f"there is no revocation list signed by {_name(authority)}")
        for each in own:
            if each.next_update_utc is None:
                raise MaterialError(f"the revocation list of {_name(authority)} has no next update")
            if each.next_update_utc <= now:
                raise MaterialError(
                    f"the revocation list of {_name(authority)} is past its next update: publish a fresh one"
                )
            until = min(until, each.next_update_utc)
    return until


def revoked_serials(crl: str) -> list[int]:
    """The serial numbers on revocation lists that `check_revocations` has taken, sorted."""
    lists = [_crl(block) for block in crl.split(_CRL_BEGIN)[1:]]
    return sorted({revoked.serial_number for each in lists for revoked in each})


def check_keys(jwks: str) -> str:
    """A JSON Web Key Set (RFC 7517). Returns those keys that may verify access tokens, in one spelling."""
    try:
        fit = identity.keys_of(jwks)
        keys = [key for key in json.loads(jwks)["keys"] if key.get("kid") in fit]
    except (ValueError, KeyError, TypeError, AttributeError, jwt.PyJWTError):
        raise MaterialError("the key set is malformed") from None
    if not keys:
        raise MaterialError("the key set holds no key that verifies access tokens")
    return json.dumps({"keys": sorted(keys, key=lambda key: str(key["kid"]))}, sort_keys=True)


def _certificates(pem: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        raise MaterialError("there is no PEM certificate, or one is malformed") from None


def _crl(rest: str) -> x509.CertificateRevocationList:
    body, end, _ = rest.partition(_CRL_END)
    try:
        return x509.load_pem_x509_crl(f"{_CRL_BEGIN}{body}{end}\n".encode())
    except ValueError:
        raise MaterialError("a revocation list is malformed") from None


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return False


def _signed_by(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except (TypeError, ValueError, UnsupportedAlgorithm):
        return False


def _good_until(certificates: Sequence[x509.Certificate], now: datetime) -> datetime:
    for certificate in certificates:
        if certificate.not_valid_after_utc <= now:
            raise MaterialError(f"the certificate of {_name(certificate)} has expired")
        if certificate.not_valid_before_utc > now:
            raise MaterialError(f"the certificate of {_name(certificate)} is not valid yet")
    return min(certificate.not_valid_after_utc for certificate in certificates)


def _name(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or f"serial number {certificate.serial_number:x}"
