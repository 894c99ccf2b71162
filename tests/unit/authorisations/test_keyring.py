"""The folder of signing keys, as it is rotated."""

import json
import logging
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from services.authorisations.grants import access_token, client_credentials
from services.authorisations.keyring import KeyRing
from services.authorisations.keys import PUBLISH_BEFORE_USE
from services.runtime.config import ConfigError
from services.runtime.identity import TokenVerifier
from tests.unit.authorisations.builders import CERTIFICATE, ISSUER, NOW, client, key_file


class Clock:
    """A clock that is set by hand."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


def stamped(time: datetime) -> str:
    return f"{time:%Y%m%dT%H%M%SZ}.pem"


async def key_ids(ring: KeyRing) -> set[str]:
    return {key["kid"] for key in json.loads(await ring.key_set())["keys"]}


def signs_with(ring: KeyRing) -> str:
    return str(jwt.get_unverified_header(ring.sign({"sub": "x"}))["kid"])


async def test_a_token_is_taken_by_the_verifier_that_every_service_uses(tmp_path: Path) -> None:
    key_file(tmp_path, stamped(NOW))
    ring = KeyRing(folder=tmp_path, clock=Clock(NOW))
    claims = access_token(
        client=client(),
        basis=client_credentials(client()),
        scopes=("messages.send",),
        certificate_sha256=CERTIFICATE,
        issuer=ISSUER,
        issued_at=int(NOW.timestamp()),
        token_id="t-1",
    )
    token = ring.sign(claims)
    verifier = TokenVerifier(issuer=ISSUER, fetch=ring.key_set, clock=NOW.timestamp)
    assert await verifier.verify(token, CERTIFICATE) == claims
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "typ": "at+jwt", "kid": signs_with(ring)}


async def test_a_rotation_leaves_no_token_unverified(tmp_path: Path) -> None:
    old = key_file(tmp_path, stamped(NOW - timedelta(days=90)))
    clock = Clock(NOW)
    ring = KeyRing(folder=tmp_path, clock=clock)
    first = signs_with(ring)

    key_file(tmp_path, stamped(NOW))
    ring.look()
    assert len(await key_ids(ring)) == 2
    assert signs_with(ring) == first, "the new key is published, and does not sign yet"

    clock.now = NOW + PUBLISH_BEFORE_USE
    second = signs_with(ring)
    assert second != first
    assert first in await key_ids(ring), "tokens of the old key still verify"

    old.unlink()
    ring.look()
    assert await key_ids(ring) == {second}
    assert signs_with(ring) == second


async def test_a_file_that_is_half_written_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = key_file(tmp_path, stamped(NOW - timedelta(days=1)))
    ring = KeyRing(folder=tmp_path, clock=Clock(NOW))
    before = signs_with(ring)
    half = tmp_path / stamped(NOW - timedelta(hours=1))
    half.write_bytes(whole.read_bytes()[:60])
    with caplog.at_level(logging.ERROR):
        ring.look()
    assert signs_with(ring) == before
    assert "stay in use" in caplog.text

    shutil.copy(key_file(tmp_path, "spare"), half)
    ring.look()
    assert len(await key_ids(ring)) == 2


async def test_an_emptied_folder_keeps_the_last_keys(tmp_path: Path) -> None:
    path = key_file(tmp_path, stamped(NOW))
    ring = KeyRing(folder=tmp_path, clock=Clock(NOW))
    before = signs_with(ring)
    path.unlink()
    ring.look()
    assert signs_with(ring) == before


async def test_a_key_in_two_files_is_one_key(tmp_path: Path) -> None:
    path = key_file(tmp_path, stamped(NOW - timedelta(days=1)))
    shutil.copy(path, tmp_path / stamped(NOW))
    ring = KeyRing(folder=tmp_path, clock=Clock(NOW))
    assert len(await key_ids(ring)) == 1


def test_a_key_in_the_older_form_of_openssl_is_read(tmp_path: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    (tmp_path / "signing.pem").write_bytes(pem)
    assert signs_with(KeyRing(folder=tmp_path, clock=Clock(NOW)))


def test_every_file_that_is_no_key_is_named_at_the_start(tmp_path: Path) -> None:
    key_file(tmp_path, "good.pem")
    key_file(tmp_path, "p384.pem", curve=ec.SECP384R1())
    (tmp_path / "text.pem").write_text("not a key")
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (tmp_path / "rsa.pem").write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(ConfigError) as refusal:
        KeyRing(folder=tmp_path, clock=Clock(NOW))
    assert [fault.split()[0] for fault in refusal.value.faults] == ["p384.pem", "rsa.pem", "text.pem"]


def test_a_folder_without_keys_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="openssl genpkey"):
        KeyRing(folder=tmp_path, clock=Clock(NOW))
