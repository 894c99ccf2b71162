"""Time stamps and evidence records: made here, refused where they do not hold, and looked at by tools of others."""

import hashlib
import shutil
import subprocess
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from services.exchange.evidence import records, timestamps
from services.exchange.evidence.records import Batch
from services.exchange.evidence.timestamps import Authority
from services.runtime.errors import InvalidArgument
from tests.unit.exchange import pki
from tests.unit.exchange.pki import NOW

MESH = pki.mesh()
TRUSTED = [MESH.authority.der]


def digest(text: object) -> bytes:
    return hashlib.sha256(repr(text).encode()).digest()


def authority(holder: pki.Holder = MESH.stamping) -> Authority:
    assert isinstance(holder.key, ec.EllipticCurvePrivateKey)
    return Authority(certificate=holder.certificate, key=holder.key)


def answered(imprint: bytes, *, by: Authority | None = None, now=NOW) -> bytes:
    return (by or authority()).answer(timestamps.request(imprint, nonce=7), now=now, serial=1)


def token(imprint: bytes, *, by: pki.Holder = MESH.stamping, now=NOW, trusted=TRUSTED) -> bytes:
    return timestamps.token_of(answered(imprint, by=authority(by), now=now), imprint, nonce=7, authorities=trusted)


def refused(call, *given, **named) -> str:
    with pytest.raises(InvalidArgument) as refusal:
        call(*given, **named)
    return refusal.value.reason


def refused_or_the_same(verify, content, proven) -> None:
    try:
        stamp = verify(content, proven, authorities=TRUSTED)
    except InvalidArgument as refusal:
        assert refusal.reason.startswith(("TIME_STAMP", "EVIDENCE_RECORD"))
    else:
        assert (stamp.time, stamp.authority) == (NOW, MESH.stamping.certificate)


TOKEN = token(digest("statement"))


def test_a_stamp_says_when_and_who() -> None:
    stamp = timestamps.verify(TOKEN, digest("statement"), authorities=TRUSTED)
    assert (stamp.time, stamp.authority) == (NOW, MESH.stamping.certificate)


def test_a_stamp_over_other_bytes_is_refused() -> None:
    assert refused(timestamps.verify, TOKEN, digest("another"), authorities=TRUSTED) == "TIME_STAMP_IMPRINT_MISMATCH"


def test_a_stamp_of_an_authority_that_is_not_recognised_is_refused() -> None:
    for trusted in ([], [pki.issue("Authority").der], [MESH.other.der]):
        reason = refused(timestamps.verify, TOKEN, digest("statement"), authorities=trusted)
        assert reason == "TIME_STAMP_AUTHORITY_UNKNOWN"


@pytest.mark.parametrize(
    "holder",
    [
        MESH.member,
        MESH.responder,
        pki.issue("Not critical", MESH.authority, purpose=ExtendedKeyUsageOID.TIME_STAMPING, critical=False),
    ],
    ids=["a member's", "a status responder's", "not critical"],
)
def test_a_stamp_by_a_certificate_that_is_not_for_time_stamping_is_refused(holder) -> None:
    made = answered(digest("statement"), by=authority(holder))
    reason = refused(timestamps.token_of, made, digest("statement"), nonce=7, authorities=TRUSTED)
    assert reason == "TIME_STAMP_AUTHORITY_UNKNOWN"


def test_a_stamp_from_outside_of_its_certificates_time_is_refused() -> None:
    for now in (NOW - timedelta(days=2), NOW + timedelta(days=400)):
        made = answered(digest("statement"), now=now)
        reason = refused(timestamps.token_of, made, digest("statement"), nonce=7, authorities=TRUSTED)
        assert reason == "TIME_STAMP_INVALID"


def test_an_answer_to_another_request_is_refused() -> None:
    made = answered(digest("statement"))
    assert refused(timestamps.token_of, made, digest("statement"), nonce=8, authorities=TRUSTED) == "TIME_STAMP_INVALID"


def test_a_rejection_is_no_stamp() -> None:
    for asked in (b"", b"\x30\x00", timestamps.request(b"short", nonce=1)):
        made = authority().answer(asked, now=NOW, serial=1)
        assert refused(timestamps.token_of, made, b"short", nonce=1, authorities=TRUSTED) == "TIME_STAMP_INVALID"


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")  # an odd serial number
@given(st.data())
def test_a_stamp_with_a_byte_changed_is_refused_or_proves_the_same(data) -> None:
    """CMS leaves some bytes unsigned, such as the version of SignedData: they change nothing that is proven."""
    content = bytearray(TOKEN)
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    refused_or_the_same(timestamps.verify, bytes(content), digest("statement"))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_as_a_stamp_and_as_a_record(content) -> None:
    assert refused(timestamps.verify, content, digest("x"), authorities=TRUSTED) == "TIME_STAMP_INVALID"
    assert refused(records.verify, content, [digest("x")], authorities=TRUSTED) == "EVIDENCE_RECORD_INVALID"


def test_openssl_verifies_our_stamp(tmp_path) -> None:
    tool = shutil.which("openssl")
    if tool is None:
        pytest.skip("openssl is not installed: nobody but ourselves looked at the time stamp")
    (tmp_path / "token").write_bytes(TOKEN)
    (tmp_path / "authority.pem").write_bytes(MESH.authority.certificate.public_bytes(Encoding.PEM))

    def verified(imprint: bytes) -> bool:
        arguments = ["-token_in", "-in", "token", "-digest", imprint.hex(), "-CAfile", "authority.pem"]
        seconds = str(int(NOW.timestamp()))
        done = subprocess.run(
            [tool, "ts", "-verify", *arguments, "-attime", seconds], cwd=tmp_path, capture_output=True, check=False
        )
        return done.returncode == 0

    assert verified(digest("statement"))
    assert not verified(digest("another"))


groups = st.lists(st.integers(1, 3), min_size=1, max_size=20).map(
    lambda sizes: [[digest((member, each)) for each in range(size)] for member, size in enumerate(sizes)]
)


def tree(members) -> Batch:
    return Batch([records.member(group) for group in members])


@given(groups, st.data())
def test_every_member_of_a_batch_is_proven_by_its_record(members, data) -> None:
    batch = tree(members)
    stamped = token(batch.root)
    at = data.draw(st.integers(0, len(members) - 1))
    record = batch.record(at, members[at], stamped)
    assert records.verify(record, members[at], authorities=TRUSTED).time == NOW
    assert records.time_stamp(record) == stamped
    for other in ([], [*members[at], digest("more")], [digest("other")], [digest("other"), *members[at][1:]]):
        assert refused(records.verify, record, other, authorities=TRUSTED) in {
            "EVIDENCE_RECORD_INVALID",
            "TIME_STAMP_IMPRINT_MISMATCH",
        }


def test_an_object_left_out_of_a_group_is_noticed() -> None:
    members = [[digest("statement"), digest("signature"), digest("head")]]
    batch = tree(members)
    record = batch.record(0, members[0], token(batch.root))
    assert refused(records.verify, record, members[0][:2], authorities=TRUSTED) == "EVIDENCE_RECORD_INVALID"


def test_a_record_with_the_stamp_of_another_batch_is_refused() -> None:
    one, other = Batch([digest(1), digest(2)]), Batch([digest(1), digest(3)])
    record = one.record(0, [digest(1)], token(other.root))
    assert refused(records.verify, record, [digest(1)], authorities=TRUSTED) == "TIME_STAMP_IMPRINT_MISMATCH"


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")  # an odd serial number
@given(st.data())
def test_a_record_with_a_byte_changed_is_refused_or_proves_the_same(data) -> None:
    members = [[digest((member, 1)), digest((member, 2))] for member in range(3)]
    batch = tree(members)
    content = bytearray(batch.record(1, members[1], TOKEN_OF_THREE))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    refused_or_the_same(records.verify, bytes(content), members[1])


TOKEN_OF_THREE = token(tree([[digest((member, 1)), digest((member, 2))] for member in range(3)]).root)


def test_a_batch_has_a_limit() -> None:
    with pytest.raises(ValueError, match="10000"):
        Batch([])
