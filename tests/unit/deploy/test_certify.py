"""Certificates for clients that keep their keys to themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from deploy import certify, pki

KEY = ec.generate_private_key(ec.SECP256R1())


def request(name: str = "whoever") -> bytes:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject)
    uri = x509.UniformResourceIdentifier("spiffe://solmu/service/edge")
    csr = csr.add_extension(x509.SubjectAlternativeName([uri]), critical=False)
    return csr.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_a_request_gives_the_key_and_the_node_the_names(tmp_path: Path):
    authority = pki.Authority.create(tmp_path, "test")
    certificate = x509.load_pem_x509_certificate(certify.sign(authority, "solmu", "library", request()).encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert certificate.public_key() == KEY.public_key()
    assert list(names) == [x509.UniformResourceIdentifier("spiffe://solmu/client/library")]
    certificate.verify_directly_issued_by(authority.certificate)


def test_a_request_that_does_not_prove_its_key_is_refused(tmp_path: Path):
    authority = pki.Authority.create(tmp_path, "test")
    signed = bytearray(x509.load_pem_x509_csr(request()).public_bytes(serialization.Encoding.DER))
    signed[-1] ^= 1
    broken = x509.load_der_x509_csr(bytes(signed)).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(ValueError, match="not signed"):
        certify.sign(authority, "solmu", "library", broken)


def test_a_certificate_is_revoked_for_its_own_client_only(tmp_path: Path):
    authority = pki.Authority.create(tmp_path, "test")
    certificate = certify.sign(authority, "solmu", "library", request()).encode()
    with pytest.raises(ValueError, match="no certificate of permits"):
        certify.revoke(authority, "solmu", "permits", certificate)
    certify.revoke(authority, "solmu", "library", certificate)
    crl = x509.load_pem_x509_crl(authority.crl())
    serial = x509.load_pem_x509_certificate(certificate).serial_number
    assert crl.get_revoked_certificate_by_serial_number(serial) is not None
