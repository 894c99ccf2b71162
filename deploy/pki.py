"""The two certificate authorities of a node, and what they issue.

`internal` certifies services and engines to each other; `public` certifies the
edge to its clients and the clients to the edge, and publishes a revocation
list. Nothing that trusts the one trusts the other. Profiles follow RFC 5280
and, for the URI names, SPIFFE X.509-SVID. All keys are ECDSA P-256: what every
TLS library accepts and the quickest to verify here.

An authority is a folder: `ca.pem`, `ca.key`, and once it has published one,
`crl.pem` with `revoked.json` behind it. The key lies in the clear, readable by
its owner only: this is the authority of one machine's own node. In a cluster
an issuer with a guarded key takes its place.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from deploy import files
from services.runtime import mesh

AUTHORITY_LIFETIME = timedelta(days=3650)
"""Ten years: replacing an authority means new trust at every client, so it outlives what it issues by far."""

SERVICE_LIFETIME = timedelta(days=90)
"""Renewed by the supervisor without a word; short, because nothing checks revocation inside the node."""

EDGE_LIFETIME = timedelta(days=90)
"""As a service: renewed by the supervisor, pushed to Envoy."""

CLIENT_LIFETIME = timedelta(days=365)
"""People carry these into other systems by hand; the revocation list covers the time in between."""

REVOCATION_LIST_LIFETIME = timedelta(days=30)
"""Past this the edge refuses every client, so it must outlast a holiday of the daily renewal."""

CLOCK_SKEW = timedelta(minutes=5)
"""How far into the past a certificate starts, for peers whose clock is behind."""

RENEWAL_SHARE = 1 / 3
"""What has less than this share of its life left is issued anew: two more months to notice that it fails."""

CERTIFICATE = "certificate.pem"
KEY = "key.pem"
"""Names of the two files of whoever holds a certificate."""

AUTHORITY = "ca.pem"
AUTHORITY_KEY = "ca.key"
REVOCATION_LIST = "crl.pem"
REVOKED = "revoked.json"
"""Names of the files of an authority."""

PUBLIC = 0o644
"""Certificates and lists are public; the folders above them need not be."""

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The clock of the machine."""
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Whom a certificate names, and what it may be used for."""

    common_name: str
    uris: tuple[str, ...] = ()
    dns_names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    server: bool = False
    client: bool = False
    lifetime: timedelta

    @classmethod
    def service(cls, node: str, name: str) -> Self:
        """A service or an engine of the node: server and client at once."""
        return cls(
            common_name=name,
            uris=(mesh.service_uri(node, name),),
            dns_names=(name, "localhost"),
            addresses=("127.0.0.1",),
            server=True,
            client=True,
            lifetime=SERVICE_LIFETIME,
        )

    @classmethod
    def information_system(cls, node: str, client_id: str) -> Self:
        """A client of the edge: an information system of the organisation or of a partner."""
        return cls(
            common_name=client_id,
            uris=(mesh.client_uri(node, client_id),),
            client=True,
            lifetime=CLIENT_LIFETIME,
        )

    @classmethod
    def edge(cls, names: Sequence[str] = ("localhost",), addresses: Sequence[str] = ("127.0.0.1", "::1")) -> Self:
        """The public side of the edge, under the names by which clients reach it."""
        return cls(
            common_name=names[0],
            dns_names=tuple(names),
            addresses=tuple(addresses),
            server=True,
            lifetime=EDGE_LIFETIME,
        )

    @property
    def alternative_names(self) -> list[x509.GeneralName]:
        """The subject alternative names, in the order of issue."""
        return [
            *(x509.UniformResourceIdentifier(uri) for uri in self.uris),
            *(x509.DNSName(name) for name in self.dns_names),
            *(x509.IPAddress(ipaddress.ip_address(address)) for address in self.addresses),
        ]

    @property
    def usages(self) -> list[x509.ObjectIdentifier]:
        """The extended key usages."""
        server = [ExtendedKeyUsageOID.SERVER_AUTH] if self.server else []
        client = [ExtendedKeyUsageOID.CLIENT_AUTH] if self.client else []
        return server + client


class Authority:
    """A certificate authority in a folder. Make one with `create`, `load` or `open`."""

    def __init__(self, folder: Path, *, clock: Clock = utc_now) -> None:
        self.folder = folder
        self._clock = clock
        self._key = _load_key(self.key_path)
        self.certificate = x509.load_pem_x509_certificate(self.certificate_path.read_bytes())

    @classmethod
    def create(cls, folder: Path, name: str, *, clock: Clock = utc_now) -> Self:
        """Makes a new authority called `name`. Raises FileExistsError where the folder holds one."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (folder / AUTHORITY_KEY).exists():
            raise FileExistsError(f"{folder} holds an authority already")
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = _self_signed(key, subject, clock())
        # The key last: an authority is there once its key is.
        files.write(folder / AUTHORITY, _pem(certificate), mode=PUBLIC)
        files.write(folder / AUTHORITY_KEY, _key_pem(key))
        return cls(folder, clock=clock)

    @classmethod
    def load(cls, folder: Path, *, clock: Clock = utc_now) -> Self:
        """The authority in `folder`. Raises FileNotFoundError, or ValueError for files that are no authority."""
        return cls(folder, clock=clock)

    @classmethod
    def open(cls, folder: Path, name: str, *, clock: Clock = utc_now) -> Self:
        """The authority in `folder`, made if there is none.

        Its own certificate is signed anew, with the same key and name, when
        little of its life is left; clients that hold the old one still verify.
        """
        if not (folder / AUTHORITY_KEY).exists():
            return cls.create(folder, name, clock=clock)
        authority = cls(folder, clock=clock)
        if _is_due(authority.certificate, clock()):
            authority.certificate = _self_signed(authority._key, authority.certificate.subject, clock())
            files.write(authority.certificate_path, _pem(authority.certificate), mode=PUBLIC)
        return authority

    @property
    def certificate_path(self) -> Path:
        """What those who trust this authority are given."""
        return self.folder / AUTHORITY

    @property
    def key_path(self) -> Path:
        """The authority's private key."""
        return self.folder / AUTHORITY_KEY

    @property
    def crl_path(self) -> Path:
        """Where `publish_crl` puts the list."""
        return self.folder / REVOCATION_LIST

    def issue(self, identity: Identity, folder: Path, *, lifetime: timedelta | None = None) -> x509.Certificate:
        """Writes a new key and its certificate for `identity` into `folder`.

        `lifetime` counts from the authority's clock and may be negative, which
        makes a certificate that has expired already (for tests).
        """
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.certify(identity, key.public_key(), lifetime=lifetime)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.write(folder / KEY, _key_pem(key))
        files.write(folder / CERTIFICATE, _pem(certificate), mode=PUBLIC)
        return certificate

    def certify(
        self, identity: Identity, key: CertificatePublicKeyTypes, *, lifetime: timedelta | None = None
    ) -> x509.Certificate:
        """A certificate for a key that somebody else holds. Whether they do is for the caller to have checked."""
        now = self._clock()
        end = now + (identity.lifetime if lifetime is None else lifetime)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.common_name)]))
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, end) - CLOCK_SKEW)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(identity.usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(identity.alternative_names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        return builder.sign(self._key, hashes.SHA256())

    def keep(self, identity: Identity, folder: Path) -> bool:
        """Sees to it that `folder` holds a good certificate for `identity`; True where it issued one.

        A certificate is good that this authority signed for these names and
        usages, that fits its key and has more than a third of its life left.
        """
        try:
            certificate = x509.load_pem_x509_certificate((folder / CERTIFICATE).read_bytes())
            key = _load_key(folder / KEY)
            good = (
                self._signed(certificate)
                and certificate.public_key() == key.public_key()
                and _names(certificate) == (identity.common_name, identity.alternative_names, identity.usages)
                and not _is_due(certificate, self._clock())
                and certificate.serial_number not in self._revoked()
            )
        except (OSError, ValueError, x509.ExtensionNotFound):
            good = False
        if not good:
            self.issue(identity, folder)
        return not good

    def revoke(self, certificate: x509.Certificate | int) -> None:
        """Puts a certificate, or the serial number of one, on the list and publishes the list."""
        serial = certificate if isinstance(certificate, int) else certificate.serial_number
        revoked = self._revoked()
        revoked.setdefault(serial, self._clock())
        records = [{"serial": f"{number:x}", "time": time.isoformat()} for number, time in sorted(revoked.items())]
        files.write(self.folder / REVOKED, json.dumps(records, indent=2) + "\n")
        self.publish_crl()

    def crl(self) -> bytes:
        """A fresh revocation list (RFC 5280, section 5), PEM. Its number is the time in microseconds."""
        now = self._clock()
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - CLOCK_SKEW)
            .next_update(now + REVOCATION_LIST_LIFETIME)
            .add_extension(x509.CRLNumber(int(now.timestamp() * 1_000_000)), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        for serial, time in self._revoked().items():
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(time).build()
            )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def publish_crl(self) -> Path:
        """Writes a fresh list to `crl.pem`; answers its path."""
        files.write(self.crl_path, self.crl(), mode=PUBLIC)
        return self.crl_path

    def _revoked(self) -> dict[int, datetime]:
        try:
            records = json.loads((self.folder / REVOKED).read_text())
        except FileNotFoundError:
            return {}
        return {int(record["serial"], 16): datetime.fromisoformat(record["time"]) for record in records}

    def _signed(self, certificate: x509.Certificate) -> bool:
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except Exception:  # noqa: BLE001 - any defect of a certificate means that it is not ours
            return False
        return True


def _self_signed(key: ec.EllipticCurvePrivateKey, subject: x509.Name, now: datetime) -> x509.Certificate:
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _names(certificate: x509.Certificate) -> tuple[str, list[x509.GeneralName], list[x509.ObjectIdentifier]]:
    common_name = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    return str(common_name), list(alternative), list(usages)


def _is_due(certificate: x509.Certificate, now: datetime) -> bool:
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return certificate.not_valid_after_utc - now < life * RENEWAL_SHARE


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path} is not an elliptic curve key")  # noqa: TRY004 - as for every other bad file
    return key


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
