"""Keys and certificates of a mesh that exists for the tests only."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from services.exchange.evidence.signatures import Algorithm, PinnedKey, PrivateKey

NOW = datetime(2026, 11, 21, 6, 30, tzinfo=UTC)
MEMBER = "FI/MUN/0245437-2"
OTHER = "FI/COM/0201256-6"


@dataclass(frozen=True)
class Holder:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: PrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    def pinned(self, member: str = MEMBER, algorithm: Algorithm = Algorithm.ECDSA_P256_SHA256) -> PinnedKey:
        return PinnedKey(self.der, algorithm, member)


def new_key(algorithm: Algorithm = Algorithm.ECDSA_P256_SHA256) -> PrivateKey:
    if algorithm is Algorithm.RSA_PKCS1_SHA256:
        return rsa.generate_private_key(65537, 3072)
    return ec.generate_private_key(ec.SECP256R1() if algorithm is Algorithm.ECDSA_P256_SHA256 else ec.SECP384R1())


def issue(
    name: str,
    issuer: Holder | None = None,
    *,
    key: PrivateKey | None = None,
    purpose: ObjectIdentifier | None = None,
    critical: bool = True,
    start: datetime = NOW - timedelta(days=1),
    end: datetime = NOW + timedelta(days=365),
) -> Holder:
    """A certificate; an authority's where there is no issuer."""
    key = key or new_key()
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "FI"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Mesh for tests"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    authority = issuer is None
    usage = dict.fromkeys(
        ("key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not authority,
                content_commitment=not authority and purpose is None,
                key_cert_sign=authority,
                crl_sign=authority,
                **usage,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key((issuer.key if issuer else key).public_key()),
            critical=False,
        )
    )
    if purpose is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=critical)
    return Holder(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


@dataclass(frozen=True)
class Mesh:
    """An authority and those whom it certifies."""

    authority: Holder
    member: Holder
    other: Holder
    stamping: Holder
    responder: Holder


def mesh() -> Mesh:
    authority = issue("Authority")
    return Mesh(
        authority,
        issue("City", authority),
        issue("Company", authority),
        issue("Time stamps", authority, purpose=ExtendedKeyUsageOID.TIME_STAMPING),
        issue("Status", authority, purpose=ExtendedKeyUsageOID.OCSP_SIGNING, critical=False),
    )
