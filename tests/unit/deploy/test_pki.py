"""The authorities of a node, checked by an independent verifier and by real TLS handshakes."""

import json
import os
import ssl
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import verification

from deploy import pki
from deploy.pki import Authority, Identity
from services.runtime import tls

SERVICE = Identity.service("solmu", "messages")
CLIENT = Identity.information_system("solmu", "permits")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "authority", "Test authority")


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, *, name: str) -> ssl.SSLObject:
    """A TLS handshake in memory; answers the server's end. Raises what either end raises."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname=name),
    ]
    for _ in range(10):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[0]


def edge_context(authority: Authority, folder: Path) -> ssl.SSLContext:
    """What the edge asks of clients: a certificate of the authority that is not on its list."""
    authority.issue(Identity.edge(), folder)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.certificate_path))
    context.load_cert_chain(folder / pki.CERTIFICATE, folder / pki.KEY)
    context.load_verify_locations(cafile=str(authority.publish_crl()))
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF | ssl.VERIFY_X509_STRICT
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2  # refusals reach the client's handshake
    return context


def client_context(trusted: Authority, folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(trusted.certificate_path))
    context.load_cert_chain(folder / pki.CERTIFICATE, folder / pki.KEY)
    return context


def test_services_prove_themselves_to_each_other(authority: Authority, tmp_path: Path) -> None:
    files = {}
    for name in ("messages", "exchange"):
        folder = tmp_path / name
        authority.issue(Identity.service("solmu", name), folder)
        files[name] = tls.Files(folder / pki.CERTIFICATE, folder / pki.KEY, authority.certificate_path)
    server = handshake(tls.server_context(files["messages"]), tls.client_context(files["exchange"]), name="messages")
    peer = server.getpeercert()
    assert peer is not None
    assert ("URI", "spiffe://solmu/service/exchange") in peer["subjectAltName"]


def test_a_service_is_not_taken_for_another(authority: Authority, tmp_path: Path) -> None:
    authority.issue(SERVICE, tmp_path / "messages")
    files = tls.Files(
        tmp_path / "messages" / pki.CERTIFICATE, tmp_path / "messages" / pki.KEY, authority.certificate_path
    )
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(tls.server_context(files), tls.client_context(files), name="authorisations")


def test_a_client_is_let_in(authority: Authority, tmp_path: Path) -> None:
    authority.issue(CLIENT, tmp_path / "client")
    edge = edge_context(authority, tmp_path / "edge")
    assert handshake(edge, client_context(authority, tmp_path / "client"), name="localhost").getpeercert()


def expired(authority: Authority, folder: Path) -> Authority:
    authority.issue(CLIENT, folder, lifetime=timedelta(minutes=-1))
    return authority


def foreign(authority: Authority, folder: Path) -> Authority:
    Authority.create(folder / "elsewhere", "Test authority").issue(CLIENT, folder)
    return authority


def revoked(authority: Authority, folder: Path) -> Authority:
    authority.revoke(authority.issue(CLIENT, folder))
    return authority


def of_a_server(authority: Authority, folder: Path) -> Authority:
    authority.issue(Identity.edge(), folder)
    return authority


@pytest.mark.parametrize(
    ("issue", "reason"),
    [
        (expired, "certificate has expired"),
        (foreign, "signature failure|unable to get|self-signed"),
        (revoked, "certificate revoked"),
        (of_a_server, "unsuitable certificate purpose|unsupported certificate purpose"),
    ],
)
def test_other_certificates_are_refused(
    authority: Authority, tmp_path: Path, issue: Callable[[Authority, Path], Authority], reason: str
) -> None:
    issue(authority, tmp_path / "client")
    edge = edge_context(authority, tmp_path / "edge")
    with pytest.raises(ssl.SSLCertVerificationError, match=reason):
        handshake(edge, client_context(authority, tmp_path / "client"), name="localhost")


def test_certificates_follow_the_profile_of_rfc_5280(authority: Authority, tmp_path: Path) -> None:
    server = authority.issue(Identity.edge(), tmp_path / "edge")
    client = authority.issue(CLIENT, tmp_path / "client")
    builder = verification.PolicyBuilder().store(verification.Store([authority.certificate]))
    builder.build_server_verifier(x509.DNSName("localhost")).verify(server, [])
    verified = builder.build_client_verifier().verify(client, [])
    assert verified.subjects == [x509.UniformResourceIdentifier("spiffe://solmu/client/permits")]
    usage = server.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    constraints = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    key = client.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)


def test_keys_are_their_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        authority = Authority.create(tmp_path / "authority", "Test authority")
        authority.issue(SERVICE, tmp_path / "messages")
    finally:
        os.umask(before)
    for path in (authority.key_path, tmp_path / "messages" / pki.KEY):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nothing_but_the_files_is_left_behind(authority: Authority, tmp_path: Path) -> None:
    authority.issue(SERVICE, tmp_path / "messages")
    assert {path.name for path in (tmp_path / "messages").iterdir()} == {pki.CERTIFICATE, pki.KEY}


class TestKeeping:
    """`keep`: issues where it has to, and only there."""

    def kept(self, authority: Authority, folder: Path, identity: Identity = SERVICE) -> bool:
        return authority.keep(identity, folder)

    def test_a_good_certificate_stays(self, authority: Authority, tmp_path: Path) -> None:
        assert self.kept(authority, tmp_path / "messages")
        before = (tmp_path / "messages" / pki.CERTIFICATE).read_bytes()
        assert not self.kept(authority, tmp_path / "messages")
        assert (tmp_path / "messages" / pki.CERTIFICATE).read_bytes() == before

    @pytest.mark.parametrize(("share", "renewed"), [(0.6, False), (0.7, True), (1.5, True)])
    def test_it_is_renewed_when_a_third_of_its_life_is_left(
        self, authority: Authority, tmp_path: Path, share: float, *, renewed: bool
    ) -> None:
        authority.keep(SERVICE, tmp_path / "messages")
        later = datetime.now(UTC) + SERVICE.lifetime * share
        assert self.kept(Authority.load(authority.folder, clock=lambda: later), tmp_path / "messages") is renewed

    def test_it_is_issued_anew_for_another_identity(self, authority: Authority, tmp_path: Path) -> None:
        self.kept(authority, tmp_path / "messages")
        assert self.kept(authority, tmp_path / "messages", Identity.service("another-node", "messages"))

    def test_it_is_issued_anew_by_another_authority(self, authority: Authority, tmp_path: Path) -> None:
        self.kept(authority, tmp_path / "messages")
        assert self.kept(Authority.create(tmp_path / "other", "Test authority"), tmp_path / "messages")

    def test_it_is_issued_anew_after_half_a_write(self, authority: Authority, tmp_path: Path) -> None:
        self.kept(authority, tmp_path / "messages")
        authority.issue(SERVICE, tmp_path / "again")
        (tmp_path / "again" / pki.KEY).replace(tmp_path / "messages" / pki.KEY)
        assert self.kept(authority, tmp_path / "messages")

    def test_it_is_issued_anew_when_revoked_or_spoilt(self, authority: Authority, tmp_path: Path) -> None:
        authority.revoke(authority.issue(SERVICE, tmp_path / "messages"))
        assert self.kept(authority, tmp_path / "messages")
        (tmp_path / "messages" / pki.CERTIFICATE).write_text("no certificate")
        assert self.kept(authority, tmp_path / "messages")


class TestAuthority:
    """Its own life."""

    def test_it_is_made_once(self, authority: Authority) -> None:
        with pytest.raises(FileExistsError):
            Authority.create(authority.folder, "Test authority")
        assert Authority.open(authority.folder, "Test authority").certificate == authority.certificate

    def test_it_is_not_found_where_there_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            Authority.load(tmp_path)

    def test_renewed_it_still_stands_for_what_it_issued(self, authority: Authority, tmp_path: Path) -> None:
        certificate = authority.issue(SERVICE, tmp_path / "messages")
        later = datetime.now(UTC) + pki.AUTHORITY_LIFETIME * 0.7
        renewed = Authority.open(authority.folder, "Test authority", clock=lambda: later)
        assert renewed.certificate.not_valid_after_utc > authority.certificate.not_valid_after_utc
        certificate.verify_directly_issued_by(renewed.certificate)
        assert Authority.load(authority.folder).certificate == renewed.certificate


class TestRevocationList:
    """RFC 5280, section 5."""

    def test_it_lists_what_was_revoked_and_nothing_else(self, authority: Authority, tmp_path: Path) -> None:
        bad = authority.issue(CLIENT, tmp_path / "bad")
        good = authority.issue(CLIENT, tmp_path / "good")
        authority.revoke(bad)
        authority.revoke(4711)
        crl = x509.load_pem_x509_crl(authority.crl_path.read_bytes())
        assert {entry.serial_number for entry in crl} == {bad.serial_number, 4711}
        assert crl.get_revoked_certificate_by_serial_number(good.serial_number) is None
        public_key = authority.certificate.public_key()
        assert isinstance(public_key, ec.EllipticCurvePublicKey)
        assert crl.is_signature_valid(public_key)

    def test_it_remembers_across_restarts(self, authority: Authority, tmp_path: Path) -> None:
        bad = authority.issue(CLIENT, tmp_path / "bad")
        authority.revoke(bad)
        crl = x509.load_pem_x509_crl(Authority.load(authority.folder).crl())
        entry = crl.get_revoked_certificate_by_serial_number(bad.serial_number)
        assert entry is not None
        assert json.loads((authority.folder / pki.REVOKED).read_text())[0]["serial"] == f"{bad.serial_number:x}"

    def test_each_has_a_higher_number_and_thirty_days_to_live(self, authority: Authority) -> None:
        first, second = (x509.load_pem_x509_crl(authority.crl()) for _ in range(2))
        numbers = [crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number for crl in (first, second)]
        assert numbers[0] < numbers[1]
        assert second.next_update_utc is not None
        assert second.next_update_utc - datetime.now(UTC) > timedelta(days=29)
