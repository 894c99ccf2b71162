"""The status of certificates: answered by the test responder, refused where it does not hold, read by openssl."""

import shutil
import subprocess
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from services.exchange.evidence import status
from services.exchange.evidence.status import Responder
from services.runtime.errors import InvalidArgument
from tests.unit.exchange import pki
from tests.unit.exchange.pki import NOW

MESH = pki.mesh()
CERTIFICATE, ISSUER = MESH.member.certificate, MESH.authority.certificate


def responder(holder: pki.Holder = MESH.responder, issuer: pki.Holder = MESH.authority, **more) -> Responder:
    assert isinstance(holder.key, ec.EllipticCurvePrivateKey)
    return Responder(issuer=issuer.certificate, certificate=holder.certificate, key=holder.key, **more)


def answer(by: Responder | None = None, certificate=CERTIFICATE, issuer=ISSUER, now=NOW) -> bytes:
    return (by or responder()).answer(status.request(certificate, issuer), now=now)


def refused(content: bytes, *, at=NOW, certificate=CERTIFICATE, issuer=ISSUER, **more) -> str:
    with pytest.raises(InvalidArgument) as refusal:
        status.verify(content, certificate, issuer, at=at, **more)
    return refusal.value.reason


def test_a_status_says_as_of_when_a_certificate_is_good() -> None:
    found = status.verify(answer(), CERTIFICATE, ISSUER, at=NOW)
    assert (found.as_of, found.until, found.revoked) == (NOW, NOW + status.MAX_AGE, None)
    status.check_good(found, at=NOW)


def test_a_revoked_certificate_is_refused_from_then_on() -> None:
    by = responder()
    by.revoked[CERTIFICATE.serial_number] = NOW - timedelta(hours=1)
    found = status.verify(answer(by), CERTIFICATE, ISSUER, at=NOW)
    status.check_good(found, at=NOW - timedelta(hours=1, seconds=1))
    with pytest.raises(InvalidArgument) as refusal:
        status.check_good(found, at=NOW)
    assert refusal.value.reason == "CERTIFICATE_REVOKED"


def test_a_status_of_another_certificate_is_refused() -> None:
    assert refused(answer(certificate=MESH.other.certificate)) == "STATUS_NOT_FOR_CERTIFICATE"


def test_a_status_that_is_too_old_is_refused() -> None:
    late = NOW + timedelta(minutes=61)
    assert refused(answer(), at=late) == "STATUS_STALE"
    assert refused(answer(responder(lifetime=timedelta(days=1))), at=late) == "STATUS_STALE"
    assert refused(answer(responder(lifetime=timedelta(minutes=5))), at=NOW + timedelta(minutes=6)) == "STATUS_STALE"


ANSWER = answer()
STRANGER = pki.issue("Authority")


@pytest.mark.parametrize(
    "holder",
    [
        MESH.member,
        MESH.stamping,
        pki.issue("Status", STRANGER, purpose=ExtendedKeyUsageOID.OCSP_SIGNING, critical=False),
        pki.issue(
            "Status", MESH.authority, purpose=ExtendedKeyUsageOID.OCSP_SIGNING, critical=False, end=NOW - timedelta(1)
        ),
    ],
    ids=["a member", "a time-stamping authority", "another authority's responder", "one whose time is over"],
)
def test_a_status_by_one_who_may_not_answer_is_refused(holder) -> None:
    assert refused(answer(responder(holder))) == "STATUS_RESPONDER_INVALID"


def test_the_issuer_itself_and_whom_the_directory_names_may_answer() -> None:
    status.verify(answer(responder(MESH.authority)), CERTIFICATE, ISSUER, at=NOW)
    status.verify(answer(responder(MESH.other)), CERTIFICATE, ISSUER, at=NOW, responders=[MESH.other.der])


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")  # odd numbers
@given(st.integers(1, 254), st.data())
def test_a_tampered_status_is_refused_or_says_the_same(mask, data) -> None:
    content = bytearray(ANSWER)
    content[data.draw(st.integers(0, len(content) - 1))] ^= mask
    try:
        found = status.verify(bytes(content), CERTIFICATE, ISSUER, at=NOW)
    except InvalidArgument as refusal:
        assert refusal.reason.startswith("STATUS")
    else:
        assert (found.as_of, found.revoked) == (NOW, None)


@given(st.binary(max_size=200))
def test_what_is_no_status_is_refused(content) -> None:
    assert refused(content) == "STATUS_MISSING"


def test_the_responder_answers_for_its_issuer_only() -> None:
    other = pki.issue("Member", STRANGER)
    content = answer(certificate=other.certificate, issuer=STRANGER.certificate)
    assert ocsp.load_der_ocsp_response(content).response_status is ocsp.OCSPResponseStatus.UNAUTHORIZED
    garbled = ocsp.load_der_ocsp_response(responder().answer(b"garbled", now=NOW))
    assert garbled.response_status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST
    assert refused(content) == "STATUS_MISSING"


def test_openssl_verifies_what_the_responder_says(tmp_path) -> None:
    tool = shutil.which("openssl")
    if tool is None:
        pytest.skip("openssl is not installed: nobody but ourselves looked at the status")
    (tmp_path / "answer.der").write_bytes(ANSWER)
    for name, certificate in (("member", CERTIFICATE), ("authority", ISSUER)):
        (tmp_path / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    done = subprocess.run(
        [
            tool, "ocsp", "-respin", "answer.der", "-issuer", "authority.pem", "-sha256", "-cert", "member.pem",
            "-CAfile", "authority.pem", "-no_nonce", "-attime", str(int(NOW.timestamp())),
            "-validity_period", "4000000000",
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Response verify OK" in done.stdout + done.stderr, done.stderr
    assert "member.pem: good" in done.stdout
