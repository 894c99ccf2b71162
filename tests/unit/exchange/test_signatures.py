"""Signed form 1: signed and verified without XML, and verified by xmlsec1, which reads it as XML."""

import base64
import hashlib
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from solmu.exchange.v1 import statements_pb2

from services.exchange.evidence import signatures, xades
from services.exchange.evidence.signatures import STATEMENT_FILE, Algorithm, BatchPlace, Form, PinnedKey
from services.exchange.evidence.statements import Kind, Statement, parse
from services.runtime.errors import Fault, InvalidArgument
from tests.unit.exchange import pki
from tests.unit.exchange.pki import MEMBER, NOW, OTHER
from tests.unit.exchange.samples import statement

MESH = pki.mesh()
PINNED = MESH.member.pinned()
SECOND = int(NOW.timestamp())


def signed(sample: Statement) -> signatures.Signature:
    return signatures.sign(sample, key=MESH.member.key, pinned=PINNED, now=SECOND)


def reason(sample: Statement, signature: signatures.Signature, pinned: PinnedKey | None = PINNED) -> str:
    with pytest.raises(Fault) as refusal:
        signatures.verify(sample, signature, pinned)
    return refusal.value.reason


def test_numbers_are_those_of_the_contract() -> None:
    for ours, theirs, prefix in (
        (Algorithm, statements_pb2.SignatureAlgorithm, "SIGNATURE_ALGORITHM_"),
        (Form, statements_pb2.SignatureForm, "SIGNATURE_FORM_"),
    ):
        assert {prefix + each.name: each.value for each in ours} == {
            name: value for name, value in theirs.items() if value
        }


def holder(algorithm: Algorithm) -> pki.Holder:
    return pki.issue("City", MESH.authority, key=pki.new_key(algorithm))


@pytest.mark.parametrize("algorithm", Algorithm)
def test_what_a_member_signs_verifies_with_the_pinned_algorithm(algorithm) -> None:
    signer = holder(algorithm)
    pinned = signer.pinned(algorithm=algorithm)
    sample = statement()
    signature = signatures.sign(sample, key=signer.key, pinned=pinned, now=SECOND)
    signatures.verify(sample, signature, pinned)
    assert reason(statement(Kind.RECEIPT), signature, pinned) == "SIGNATURE_INVALID"


@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_key_is_pinned_with_its_own_algorithm_only(algorithm) -> None:
    signer = holder(algorithm)
    for other in set(Algorithm) - {algorithm}:
        with pytest.raises(InvalidArgument) as refusal:
            signer.pinned(algorithm=other)
        assert refusal.value.reason == "SIGNATURE_FORM_REFUSED"


@given(st.data())
def test_a_tampered_statement_does_not_verify(data) -> None:
    sample = statement()
    signature = signed(sample)
    content = bytearray(sample.content)
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 127))
    try:
        changed = parse(bytes(content))
    except Fault:
        return
    assert reason(changed, signature) in {"SIGNATURE_INVALID", "SIGNER_NOT_SENDER"}


@given(st.integers(0, 63), st.integers(1, 255))
def test_a_tampered_value_does_not_verify(at, mask) -> None:
    signature = signed(statement())
    value = bytearray(signature.value)
    value[at] ^= mask
    assert reason(statement(), replace(signature, value=bytes(value))) == "SIGNATURE_INVALID"


@pytest.mark.parametrize("value", [b"", bytes(63), bytes(64), b"\xff" * 64, bytes(65)])
def test_a_value_of_another_form_does_not_verify(value) -> None:
    assert reason(statement(), replace(signed(statement()), value=value)) == "SIGNATURE_INVALID"


def test_the_signing_time_is_signed() -> None:
    assert reason(statement(), replace(signed(statement()), signing_time=SECOND + 1)) == "SIGNATURE_INVALID"


def test_a_certificate_that_the_directory_lacks_is_refused() -> None:
    assert reason(statement(), signed(statement()), None) == "CERTIFICATE_UNKNOWN"


def test_a_key_swapped_for_the_certificate_named_is_refused() -> None:
    assert reason(statement(), signed(statement()), MESH.other.pinned()) == "KEY_CERTIFICATE_MISMATCH"


def test_the_same_key_in_another_certificate_is_refused() -> None:
    """The signature names the certificate, not only the key."""
    again = pki.issue("City", MESH.authority, key=MESH.member.key).pinned()
    assert reason(statement(), signed(statement()), again) == "KEY_CERTIFICATE_MISMATCH"
    renamed = replace(signed(statement()), certificate_sha256=again.sha256)
    assert reason(statement(), renamed, again) == "SIGNATURE_INVALID"


def test_a_signature_by_another_members_key_is_refused() -> None:
    theirs = MESH.other.pinned(OTHER)
    signature = signatures.sign(statement(), key=MESH.other.key, pinned=theirs, now=SECOND)
    assert reason(statement(), signature, theirs) == "SIGNER_NOT_SENDER"


def test_a_signature_from_outside_of_the_keys_time_is_refused() -> None:
    for start, end in ((NOW + timedelta(seconds=1), None), (None, NOW - timedelta(seconds=1))):
        pinned = PinnedKey(MESH.member.der, Algorithm.ECDSA_P256_SHA256, MEMBER, start, end)
        assert reason(statement(), signed(statement()), pinned) == "CERTIFICATE_EXPIRED"
    for second in (0, SECOND + 400 * 86400, 2**62):
        assert reason(statement(), replace(signed(statement()), signing_time=second)) == "CERTIFICATE_EXPIRED"


@given(st.integers(1, 40), st.data())
def test_one_signature_covers_every_statement_of_a_batch(count, data) -> None:
    batch = [statement(message_id=str(number)) for number in range(count)]
    made = signatures.sign_batch(batch, key=MESH.member.key, pinned=PINNED, now=SECOND)
    at = data.draw(st.integers(0, count - 1))
    signatures.verify(batch[at], made[at], PINNED)
    place = made[at].batch
    assert place is not None
    assert reason(statement(message_id="other"), made[at]) in {"SIGNATURE_INVALID", "BATCH_PATH_INVALID"}
    for wrong in (
        replace(place, index=at + 1),
        replace(place, count=count + 1),
        BatchPlace(count, at, (*place.path, bytes(32))),
    ):
        assert reason(batch[at], replace(made[at], batch=wrong)) in {"SIGNATURE_INVALID", "BATCH_PATH_INVALID"}


def test_a_batch_has_a_limit() -> None:
    assert (
        reason(
            statement(),
            replace(signed(statement()), form=Form.XADES_1_BATCH, batch=BatchPlace(1025, 0, (bytes(32),) * 11)),
        )
        == "BATCH_PATH_INVALID"
    )
    with pytest.raises(ValueError, match="1024"):
        signatures.sign_batch([], key=MESH.member.key, pinned=PINNED, now=SECOND)


def test_a_form_that_does_not_agree_with_the_place_is_refused() -> None:
    signature = signed(statement())
    assert reason(statement(), replace(signature, form=Form.XADES_1_BATCH)) == "SIGNATURE_FORM_REFUSED"
    assert reason(statement(), replace(signature, batch=BatchPlace(1, 0, ()))) == "SIGNATURE_FORM_REFUSED"


def test_issuer_and_serial_are_the_certificates() -> None:
    name = MESH.member.certificate.issuer.public_bytes()
    encoded = signatures.issuer_serial(MESH.member.certificate)
    assert encoded[0] == 0x30
    assert name in encoded
    serial = MESH.member.certificate.serial_number
    assert encoded.endswith(serial.to_bytes(serial.bit_length() // 8 + 1, "big"))
    assert encoded[encoded.index(name) - 2] == 0xA4  # [4], explicit, around the name


def document(sample: Statement, **more) -> bytes:
    signature = signed(sample)
    return xades.write(
        PINNED,
        file=STATEMENT_FILE,
        file_sha256=sample.sha256,
        signing_time=signature.signing_time,
        value=signature.value,
        **more,
    )


def xmlsec1(folder, content: bytes, body: bytes) -> bool:
    tool = shutil.which("xmlsec1")
    if tool is None:
        pytest.skip("xmlsec1 is not installed (apt-get install xmlsec1): nobody but ourselves looked at the XAdES")
    (folder / "signatures0.xml").write_bytes(content)
    (folder / STATEMENT_FILE).write_bytes(body)
    (folder / "authority.pem").write_bytes(MESH.authority.certificate.public_bytes(Encoding.PEM))
    done = subprocess.run(
        [
            tool, "--verify",
            "--id-attr:Id", f"{signatures.XA}:SignedProperties",
            "--trusted-pem", "authority.pem", "--verification-gmt-time", "2026-11-21 06:30:00",
            "signatures0.xml",
        ],
        cwd=folder, capture_output=True, check=False,
    )  # fmt: skip
    return done.returncode == 0


@pytest.mark.parametrize("algorithm", Algorithm)
def test_xmlsec1_verifies_what_we_sign(tmp_path, algorithm) -> None:
    signer = holder(algorithm)
    pinned, sample = signer.pinned(algorithm=algorithm), statement()
    signature = signatures.sign(sample, key=signer.key, pinned=pinned, now=SECOND)
    content = xades.write(
        pinned, file=STATEMENT_FILE, file_sha256=sample.sha256, signing_time=SECOND, value=signature.value
    )
    assert xmlsec1(tmp_path, content, sample.content)


def test_xmlsec1_refuses_what_was_tampered_with(tmp_path) -> None:
    sample = statement()
    content = document(sample)
    assert not xmlsec1(tmp_path, content, sample.content.replace(b"http", b"grpc"))
    assert not xmlsec1(tmp_path, content.replace(b"2026-11-21T", b"2026-11-22T"), sample.content)


def test_the_file_is_read_back_as_it_was_written() -> None:
    sample = statement()
    found = xades.read(document(sample, time_stamp=b"stamp", chain=[b"one", b"two"], status=b"status"))
    assert (found.time_stamp, found.chain, found.status) == (b"stamp", (b"one", b"two"), b"status")
    assert (found.file, found.signing_time, found.certificate) == (STATEMENT_FILE, SECOND, MESH.member.der)
    assert xades.names_its_certificate(found, PINNED)
    assert xades.covers(found, PINNED, hashlib.sha256(sample.content).digest())
    assert xades.algorithm_of(found) is Algorithm.ECDSA_P256_SHA256


FORGERIES = [
    ("a document type", lambda text: text.replace(b"?><", b'?><!DOCTYPE a [<!ENTITY b "c">]><', 1)),
    ("a comment", lambda text: text.replace(b"<ds:KeyInfo>", b"<!-- --><ds:KeyInfo>")),
    ("white space", lambda text: text.replace(b"<ds:KeyInfo>", b"\n<ds:KeyInfo>")),
    ("a second signature", lambda text: text.replace(b"</asic:", b'<ds:Signature Id="S1"></ds:Signature></asic:')),
    ("another file", lambda text: text.replace(b'URI="statement.txt"', b'URI="other.txt"')),
    ("a path", lambda text: text.replace(b'URI="statement.txt"', b'URI="../statement.txt"')),
    ("bytes after the end", lambda text: text + b"\n"),
    ("base64 that is none", lambda text: text.replace(b"<ds:X509Certificate>", b"<ds:X509Certificate>*")),
    ("base64 in another spelling", lambda text: re.sub(rb"(Id=\"S0-sv\">)[^<]*", rb"\1AB==", text)),
    ("a day that is not", lambda text: text.replace(b"2026-11-21T", b"2026-11-31T")),
    ("other than ASCII", lambda text: text + b"\xff"),
    ("no end", lambda text: text[:-1]),
    ("too long", lambda text: text + b" " * xades.MAX_BYTES),
]


@pytest.mark.parametrize("forge", [each[1] for each in FORGERIES], ids=[each[0] for each in FORGERIES])
def test_a_file_that_is_not_of_the_template_is_not_read(forge) -> None:
    content = document(statement())
    assert forge(content) != content
    with pytest.raises(InvalidArgument) as refusal:
        xades.read(forge(content))
    assert refusal.value.reason == "CONTAINER_MALFORMED"


def test_what_is_wrapped_into_the_signed_parts_is_not_taken_for_them() -> None:
    sample = statement()
    extra = document(sample).replace(b"</ds:SignedInfo>", b"<ds:Object></ds:Object></ds:SignedInfo>")
    assert not xades.covers(xades.read(extra), PINNED, sample.sha256)
    certificate = base64.b64encode(PINNED.sha256)
    other = document(sample).replace(certificate, base64.b64encode(MESH.other.pinned().sha256))
    assert not xades.names_its_certificate(xades.read(other), PINNED)
