"""Directories and anchors as they are verified: one test per defect."""

import hashlib
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from solmu.exchange.v1.directory_document_pb2 import AnchorDocument, DirectoryDocument, DirectoryPart, SignedDocument
from solmu.exchange.v1.directory_pb2 import Node
from solmu.exchange.v1.statements_pb2 import SIGNATURE_ALGORITHM_ECDSA_P256_SHA256

from services.exchange import documents
from services.exchange.documents import Kind, Known
from services.exchange.evidence import signatures
from services.exchange.evidence.signatures import Algorithm
from services.runtime.errors import Fault
from tests.unit.exchange.pki import NOW, new_key


class Signer:
    def __init__(self) -> None:
        self.key = new_key()
        self.public_key = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, content: bytes) -> bytes:
        return signatures.raw_sign(self.key, Algorithm.ECDSA_P256_SHA256, content)


P256 = SIGNATURE_ALGORITHM_ECDSA_P256_SHA256
FIRST, SECOND, STRANGER = Signer(), Signer(), Signer()


def anchor(*keys, version=1, threshold=1, by=None, instance="FI", end=timedelta(days=100)):
    document = AnchorDocument(
        instance=instance,
        version=version,
        keys=[AnchorDocument.PublisherKey(public_key=key.public_key, algorithm=P256) for key in keys],
        threshold=threshold,
        publisher=AnchorDocument.Publisher(
            addresses=[Node.Address(host="localhost", port=1)], authorities=[b"authority"]
        ),
    )
    document.issue_time.FromDatetime(NOW)
    document.expire_time.FromDatetime(NOW + end)
    return documents.sign(Kind.ANCHOR, document.SerializeToString(), by or keys)


def directory(*by, version=3, instance="FI", anchor_version=1, end=timedelta(days=7), parts=()):
    document = DirectoryDocument(instance=instance, version=version, anchor_version=anchor_version, parts=parts)
    document.issue_time.FromDatetime(NOW)
    document.expire_time.FromDatetime(NOW + end)
    return documents.sign(Kind.DIRECTORY, document.SerializeToString(), by)


def verify(signed, known=None, by=None):
    held = documents.verify_first_anchor(by or anchor(FIRST), now=NOW)
    return documents.verify_directory(signed, held, known=known, now=NOW)


def reason(call, *arguments, **keywords):
    with pytest.raises(Fault) as refusal:
        call(*arguments, **keywords)
    return refusal.value.reason


def known(signed, version=3):
    return Known(version, hashlib.sha256(signed.document).digest())


def test_a_directory_signed_by_the_anchors_key_is_taken():
    assert verify(directory(FIRST)).version == 3


def test_a_directory_signed_by_another_key_is_refused():
    assert reason(verify, directory(STRANGER)) == "DIRECTORY_SIGNATURE_INVALID"


def test_a_directory_that_was_tampered_with_is_refused():
    signed = directory(FIRST)
    signed.document = signed.document.replace(b"FI", b"FO")
    assert reason(verify, signed) in {"DIRECTORY_SIGNATURE_INVALID", "DIRECTORY_MALFORMED"}


def test_a_directory_of_another_mesh_is_refused():
    assert reason(verify, directory(FIRST, instance="EE")) == "DIRECTORY_MALFORMED"


def test_a_directory_whose_time_is_over_is_refused():
    assert reason(verify, directory(FIRST, end=timedelta(0))) == "DIRECTORY_EXPIRED"


def test_a_directory_that_was_rolled_back_is_refused():
    newest = directory(FIRST, version=4)
    assert reason(verify, directory(FIRST, version=3), known(newest, 4)) == "DIRECTORY_ROLLED_BACK"


def test_two_directories_of_one_version_are_not_both_taken():
    held = directory(FIRST)
    other = directory(FIRST, end=timedelta(days=8))
    assert reason(verify, other, known(held)) == "DIRECTORY_ROLLED_BACK"
    assert verify(held, known(held)).version == 3


def test_a_threshold_takes_different_keys():
    by = anchor(FIRST, SECOND, threshold=2)
    twice = directory(FIRST, FIRST)
    assert reason(verify, twice, None, by) == "DIRECTORY_SIGNATURE_INVALID"
    assert verify(directory(FIRST, SECOND), None, by).version == 3


def test_a_signature_of_an_anchor_is_none_of_a_directory():
    signed = directory(FIRST)
    moved = documents.sign(Kind.ANCHOR, signed.document, [FIRST])
    assert reason(verify, moved) == "DIRECTORY_SIGNATURE_INVALID"


def test_an_anchor_is_followed_by_one_that_both_have_signed():
    current = documents.verify_first_anchor(anchor(FIRST), now=NOW)
    following = anchor(SECOND, version=2, by=[FIRST, SECOND])
    assert documents.verify_next_anchors(current, [following], now=NOW).document.version == 2
    for missing in ([FIRST], [SECOND]):
        unsigned = anchor(SECOND, version=2, by=missing)
        assert reason(documents.verify_next_anchors, current, [unsigned], now=NOW) == "DIRECTORY_SIGNATURE_INVALID"


def test_a_directory_signed_by_a_key_that_no_longer_counts_is_refused():
    current = documents.verify_first_anchor(anchor(FIRST), now=NOW)
    held = documents.verify_next_anchors(current, [anchor(SECOND, version=2, by=[FIRST, SECOND])], now=NOW)
    old = directory(FIRST, anchor_version=2)
    assert reason(documents.verify_directory, old, held, known=None, now=NOW) == "DIRECTORY_SIGNATURE_INVALID"
    assert reason(documents.verify_directory, directory(FIRST), held, known=None, now=NOW) == (
        "DIRECTORY_SIGNATURE_INVALID"
    )


def test_anchors_are_taken_one_by_one_and_forwards_only():
    current = documents.verify_first_anchor(anchor(FIRST, version=2), now=NOW)
    for version in (1, 2, 4):
        other = anchor(FIRST, version=version)
        assert reason(documents.verify_next_anchors, current, [other], now=NOW) == "DIRECTORY_ROLLED_BACK"


def test_an_anchor_whose_time_is_over_is_refused_unless_another_follows():
    current = documents.verify_first_anchor(anchor(FIRST), now=NOW)
    over = anchor(FIRST, version=2, end=timedelta(0))
    assert reason(documents.verify_next_anchors, current, [over], now=NOW) == "DIRECTORY_EXPIRED"
    fresh = anchor(FIRST, version=3)
    assert documents.verify_next_anchors(current, [over, fresh], now=NOW).document.version == 3


@pytest.mark.parametrize("content", [b"", b"\xff", b"\x0a\x02FI"])
def test_what_is_no_document_is_refused(content):
    signed = SignedDocument(document=content)
    assert reason(documents.verify_first_anchor, signed, now=NOW) == "DIRECTORY_MALFORMED"


def test_a_part_of_other_bytes_is_refused():
    part = DirectoryPart().SerializeToString() + b""
    reference = DirectoryDocument.PartReference(sha256=hashlib.sha256(part).digest(), size_bytes=1)
    assert reason(documents.verify_part, part, reference) == "DIRECTORY_PART_MISMATCH"
    swapped = DirectoryDocument.PartReference(sha256=bytes(32), size_bytes=len(part))
    assert reason(documents.verify_part, part, swapped) == "DIRECTORY_PART_MISMATCH"
