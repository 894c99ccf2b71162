"""Certificates of signers: whether an authority that one trusts issued them, directly or through others (RFC 5280)."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from cryptography import x509
from cryptography.x509.verification import ExtensionPolicy, PolicyBuilder, Store, VerificationError

from services.runtime.errors import InvalidArgument

MAX_DEPTH = 4
"""Authorities between a certificate and the one that is trusted."""

MAX_CERTIFICATE_BYTES = 8192
"""Length of a certificate, as the contract bounds it."""


def check_issued(
    certificate: x509.Certificate, chain: Collection[bytes], authorities: Collection[bytes], *, at: datetime
) -> x509.Certificate:
    """The certificate's issuer, once the path from it to a trusted authority is verified as of an instant.

    `chain` (DER) came with the signature and is trusted for nothing. Raises
    InvalidArgument, CERTIFICATE_ISSUER_UNKNOWN.

    What the caller must still check: whose the certificate is, and whether it
    has been revoked.
    """
    try:
        trusted = [x509.load_der_x509_certificate(each) for each in authorities]
        between = [x509.load_der_x509_certificate(each) for each in chain]
        if not _signs(certificate):
            raise _unknown("the certificate is not for signatures")
        path = (
            PolicyBuilder()
            .store(Store(trusted))
            .time(at)
            .max_chain_depth(MAX_DEPTH)
            .extension_policies(ca_policy=ExtensionPolicy.webpki_defaults_ca(), ee_policy=ExtensionPolicy.permit_all())
            .build_client_verifier()
            .verify(certificate, between)
            .chain
        )
    except (VerificationError, ValueError, TypeError, x509.DuplicateExtension, x509.InvalidVersion):
        raise _unknown("the certificate does not lead to an authority that is trusted") from None
    return path[1]


def _signs(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return usage.digital_signature or usage.content_commitment


def _unknown(text: str) -> InvalidArgument:
    return InvalidArgument("CERTIFICATE_ISSUER_UNKNOWN", text)
