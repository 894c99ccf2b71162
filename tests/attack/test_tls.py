"""Handshakes as they were done in other years, and certificates as nobody makes them."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from deploy import pki
from services.runtime import mesh, tls
from tests.attack.conftest import Target, at_both_doors, told
from tests.attack.wire import Raw

REFUSED = "no connection"


async def handshake(target: Target, made: ssl.SSLContext) -> str:
    """What a request over a connection of this kind gets: a status, or what ended it."""
    try:
        async with Raw.open(target.port, made) as attacker:
            await attacker.send(target.request())
            data = await asyncio.wait_for(attacker.reader.read(100), 5)
            return data[9:12].decode() or REFUSED
    except (ssl.SSLError, ConnectionError):
        return REFUSED


@at_both_doors
@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
async def test_old_versions_are_refused(target: Target, version: str) -> None:
    made = target.http1
    made.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        made.minimum_version = made.maximum_version = ssl.TLSVersion[version]
    outcome = await handshake(target, made)
    told(f"a handshake by {version}", outcome)
    assert outcome == REFUSED


WEAK = [
    "AES128-SHA",
    "AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA384",
    "DHE-RSA-AES256-GCM-SHA384",
    "aNULL",
    "eNULL",
    "PSK",
]


@at_both_doors
@pytest.mark.parametrize("ciphers", WEAK)
async def test_weak_cipher_suites_are_refused(target: Target, ciphers: str) -> None:
    made = target.http1
    made.maximum_version = ssl.TLSVersion.TLSv1_2
    made.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    outcome = await handshake(target, made)
    told(f"TLS 1.2 with {ciphers} alone", outcome)
    assert outcome == REFUSED


@at_both_doors
async def test_the_good_suites_of_tls_1_2_are_taken(target: Target) -> None:
    """So that the refusals above are refusals of the suite."""
    made = target.http1
    made.maximum_version = ssl.TLSVersion.TLSv1_2
    made.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    assert await handshake(target, made) == "200"


async def test_a_connection_without_a_certificate_is_refused(target: Target) -> None:
    made = ssl.create_default_context(cafile=str(target.caller.files.authorities))
    outcome = await handshake(target, made)
    told("a handshake without a certificate", outcome)
    assert outcome == REFUSED


@pytest.mark.skipif(shutil.which("openssl") is None, reason="renegotiates by the command openssl")
async def test_renegotiation_is_refused(target: Target) -> None:
    files = target.caller.files
    process = await asyncio.create_subprocess_exec(
        *("openssl", "s_client", "-connect", f"127.0.0.1:{target.port}", "-servername", "localhost", "-tls1_2"),
        *("-cert", str(files.certificate), "-key", str(files.key), "-CAfile", str(files.authorities)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdin
    await asyncio.sleep(0.5)
    process.stdin.write(b"R\n")
    await process.stdin.drain()
    await asyncio.sleep(0.5)
    try:
        out, _ = await asyncio.wait_for(process.communicate(target.request()), 5)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    refused = b"no renegotiation" in out or b"error:" in out.partition(b"RENEGOTIATING")[2]
    told("a renegotiation in TLS 1.2", "refused" if refused else out[-300:])
    assert b"RENEGOTIATING" in out
    assert b"HTTP/1.1 200" not in out
    assert refused


def issue(
    target: Target, folder: Path, *, names: int, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
) -> tls.Files:
    """A certificate of the node's own authority, with many names and the given key."""
    authority = pki.Authority.load(target.node.state.public)
    now = datetime.now(UTC)
    uris = [x509.UniformResourceIdentifier(mesh.client_uri(target.node.settings.node, "permits"))]
    uris += [x509.UniformResourceIdentifier(f"spiffe://elsewhere/client/{number:08}") for number in range(names)]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "permits")]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(uris), critical=False)
        .sign(authority._key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return tls.Files(folder / "certificate.pem", folder / "key.pem", authority.certificate_path)


@pytest.mark.parametrize(("names", "bits"), [(100, 256), (1000, 256), (5000, 256), (0, 4096)])
async def test_large_certificates_do_no_harm(target: Target, tmp_path: Path, names: int, bits: int) -> None:
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = (
        ec.generate_private_key(ec.SECP256R1()) if bits == 256 else rsa.generate_private_key(65537, bits)
    )
    files = issue(target, tmp_path, names=names, key=key)
    made = ssl.create_default_context(cafile=str(files.authorities))
    made.load_cert_chain(str(files.certificate), str(files.key))
    outcomes = {await handshake(target, made) for _ in range(5)}
    told(f"a certificate with {names} more names and a key of {bits} bits", outcomes)
    # Its token is bound to another certificate; or it is too large to be told to the service.
    assert outcomes <= {"401", "431", REFUSED}
