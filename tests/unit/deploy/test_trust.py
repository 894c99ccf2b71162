"""The trust service of a node that is tried out: what it issues holds, and it stays who it is."""

from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from deploy.local import trust
from deploy.local.trust import Trust
from services.exchange.evidence import certificates, status, timestamps

NOW = datetime.now(UTC)


def request() -> x509.CertificateSigningRequest:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "City")])
    alternative = x509.SubjectAlternativeName([x509.DNSName("node.example")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name).add_extension(alternative, critical=False)
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())


def test_it_is_the_same_after_a_restart_and_knows_what_it_revoked(tmp_path):
    first = Trust(tmp_path / "trust")
    certificate = first.certify(request())
    first.revoke(certificate.serial_number, now=NOW)
    again = Trust(tmp_path / "trust")
    assert again.authority.der == first.authority.der
    assert again.stamping.der == first.stamping.der
    asked = status.request(certificate, again.authority.certificate)
    found = status.verify(again.responder.answer(asked, now=NOW), certificate, again.authority.certificate, at=NOW)
    assert found.revoked is not None
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "trust").glob("*.pem")} == {0}


def test_what_it_issues_leads_to_its_authority(tmp_path):
    made = Trust(tmp_path)
    certificate = made.certify(request())
    soon = datetime.now(UTC) + timedelta(seconds=1)
    issuer = certificates.check_issued(certificate, [], [made.authority.der], at=soon)
    assert issuer == made.authority.certificate
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["node.example"]


async def test_it_serves_on_loopback_and_refuses_what_it_cannot_read(tmp_path):
    made = Trust(tmp_path)
    runner = await trust.serve(made, 0)
    host, port = runner.addresses[0]
    assert host == "127.0.0.1"
    async with aiohttp.ClientSession(f"http://{host}:{port}") as session:
        query = timestamps.request(bytes(32), nonce=1)
        async with session.post("/time-stamps", data=query) as answer:
            content = await answer.read()
        timestamps.token_of(content, bytes(32), nonce=1, authorities=[made.authority.der])
        async with session.post("/certificates", data=request().public_bytes(Encoding.DER)) as answer:
            certificate = x509.load_der_x509_certificate(await answer.read())
        async with session.post("/revocations", data=str(certificate.serial_number)) as answer:
            assert answer.status == 204
        assert certificate.serial_number in made.responder.revoked
        forged = bytearray(request().public_bytes(Encoding.DER))
        forged[-1] ^= 1
        for path, content in (
            ("/certificates", b"nonsense"),
            ("/certificates", bytes(forged)),
            ("/revocations", b"-1"),
            ("/revocations", "²".encode()),
        ):
            async with session.post(path, data=content) as answer:
                assert answer.status == 400
        async with session.post("/time-stamps", data=bytes(100_000)) as answer:
            assert answer.status == 413
    await runner.cleanup()


@pytest.mark.parametrize("name", ["authority", "time-stamps", "status"])
def test_everything_of_it_is_called_a_test(tmp_path, name):
    made = Trust(tmp_path)
    held = {"authority": made.authority, "time-stamps": made.stamping, "status": made.responding}[name]
    assert "test" in held.certificate.subject.rfc4514_string()
