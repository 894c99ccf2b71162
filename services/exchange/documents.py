"""The signed documents of a mesh and how they are verified (directory_document.proto).

Steps as in The Update Framework (TUF 1.0, section 5), numbered as in the
contract. A document is the bytes that were signed and is never written again.
What the caller must still do: compare the first anchor's fingerprint with one
that came by another way, remember the highest version taken, and keep to the
order (anchors, directory, parts).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Protocol, TypeVar

import protovalidate
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp
from solmu.exchange.v1.directory_document_pb2 import (
    AnchorDocument,
    DirectoryDocument,
    DirectoryPart,
    DocumentSignature,
    RegistrationDocument,
    SignedDocument,
)

from services.exchange.evidence import signatures
from services.exchange.evidence.signatures import Algorithm
from services.runtime.errors import DataLoss, FailedPrecondition, Fault, InvalidArgument, Unavailable

M = TypeVar("M", bound=Message)

_VALIDATOR = protovalidate.Validator()


class Kind(Enum):
    """What kind of document it is: the line that is signed before its bytes."""

    ANCHOR = b"solmu-anchor/1\n"
    DIRECTORY = b"solmu-directory/1\n"
    REGISTRATION = b"solmu-registration/1\n"


class Signer(Protocol):
    """A key of this node that signs documents."""

    @property
    def public_key(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""

    def sign(self, content: bytes) -> bytes:
        """The signature value in the form of the key's algorithm."""


@dataclass(frozen=True)
class Anchor:
    """An anchor that was verified."""

    signed: SignedDocument
    document: AnchorDocument

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its document, hexadecimal: what persons compare."""
        return hashlib.sha256(self.signed.document).hexdigest()


@dataclass(frozen=True)
class Known:
    """The last directory that was taken."""

    version: int
    sha256: bytes


def sign(kind: Kind, document: bytes, signers: Iterable[Signer]) -> SignedDocument:
    """A document with a signature of each key."""
    return SignedDocument(
        document=document,
        signatures=[
            DocumentSignature(key_sha256=key_id(signer.public_key), value=signer.sign(kind.value + document))
            for signer in signers
        ],
    )


def key_id(public_key: bytes) -> bytes:
    """How signatures of documents name a key."""
    return hashlib.sha256(public_key).digest()


def signed_by(kind: Kind, signed: SignedDocument, public_key: bytes, algorithm: int) -> bool:
    """Whether a key, with the algorithm pinned to it, has signed a document."""
    wanted = key_id(public_key)
    for signature in signed.signatures:
        if signature.key_sha256 != wanted:
            continue
        try:
            key = serialization.load_der_public_key(public_key)
            signatures.raw_verify(key, Algorithm(algorithm), signature.value, kind.value + signed.document)
        except (Fault, ValueError, UnsupportedAlgorithm):
            continue
        return True
    return False


def signatures_of(kind: Kind, signed: SignedDocument, anchor: AnchorDocument) -> int:
    """How many of an anchor's keys have signed a document; a key counts once."""
    keys = {key.public_key: key.algorithm for key in anchor.keys}
    return sum(signed_by(kind, signed, public_key, algorithm) for public_key, algorithm in keys.items())


def read_anchor(signed: SignedDocument) -> Anchor:
    """An anchor as it stands, nothing verified. Raises InvalidArgument, DIRECTORY_MALFORMED."""
    return Anchor(signed, _read(signed.document, AnchorDocument()))


def verify_first_anchor(signed: SignedDocument, *, now: datetime) -> Anchor:
    """Step 1: an anchor that came out of band. Its fingerprint is the caller's to compare.

    Raises InvalidArgument (DIRECTORY_MALFORMED, DIRECTORY_SIGNATURE_INVALID) and Unavailable (DIRECTORY_EXPIRED).
    """
    anchor = read_anchor(signed)
    _check_threshold(Kind.ANCHOR, signed, anchor.document)
    _check_expiry(anchor.document.expire_time, now)
    return anchor


def verify_next_anchors(current: Anchor, following: Sequence[SignedDocument], *, now: datetime) -> Anchor:
    """Step 2: anchors one by one, each signed by the one before and by itself; of the last one the time must hold.

    Raises as step 1 does, and FailedPrecondition, DIRECTORY_ROLLED_BACK.
    """
    for signed in following:
        anchor = read_anchor(signed)
        if anchor.document.instance != current.document.instance:
            raise _malformed("the anchor is of another mesh")
        if anchor.document.version != current.document.version + 1:
            raise _rolled_back(anchor.document.version, current.document.version)
        _check_threshold(Kind.ANCHOR, signed, current.document)
        _check_threshold(Kind.ANCHOR, signed, anchor.document)
        current = anchor
    _check_expiry(current.document.expire_time, now)
    return current


def verify_directory(
    signed: SignedDocument, anchor: Anchor, *, known: Known | None, now: datetime
) -> DirectoryDocument:
    """Steps 3 to 5: a directory by the keys of the current anchor, not older than the last one, within its time.

    Raises as step 2 does.
    """
    document = _read(signed.document, DirectoryDocument())
    if document.instance != anchor.document.instance:  # 3
        raise _malformed("the directory is of another mesh")
    if document.anchor_version != anchor.document.version:
        raise InvalidArgument("DIRECTORY_SIGNATURE_INVALID", "the directory goes by another anchor")
    _check_threshold(Kind.DIRECTORY, signed, anchor.document)
    if known is not None:  # 4
        same = document.version == known.version and hashlib.sha256(signed.document).digest() == known.sha256
        if document.version <= known.version and not same:
            raise _rolled_back(document.version, known.version)
    _check_expiry(document.expire_time, now)  # 5
    return document


def verify_part(content: bytes, reference: DirectoryDocument.PartReference) -> DirectoryPart:
    """Step 6: a part of the size and digest that the directory names. Raises DataLoss, DIRECTORY_PART_MISMATCH."""
    if len(content) != reference.size_bytes or hashlib.sha256(content).digest() != reference.sha256:
        raise DataLoss("DIRECTORY_PART_MISMATCH", "a part of the directory has another digest or size")
    return _read(content, DirectoryPart())


def read_registration(signed: SignedDocument, *, instance: str) -> RegistrationDocument:
    """A registration for a mesh, its signatures not verified. Raises InvalidArgument, DIRECTORY_MALFORMED."""
    document = _read(signed.document, RegistrationDocument())
    if document.instance != instance:
        raise _malformed("the registration is for another mesh")
    return document


def instant(value: Timestamp) -> datetime:
    """A time of a document."""
    return value.ToDatetime(tzinfo=UTC)


def _read(content: bytes, message: M) -> M:
    try:
        message.ParseFromString(content)
    except DecodeError:
        raise _malformed("the document cannot be read") from None
    if _VALIDATOR.collect_violations(message):
        raise _malformed("the document breaks the contract's rules")
    return message


def _check_threshold(kind: Kind, signed: SignedDocument, anchor: AnchorDocument) -> None:
    if signatures_of(kind, signed, anchor) < anchor.threshold:
        raise InvalidArgument("DIRECTORY_SIGNATURE_INVALID", "the document lacks signatures of keys that count")


def _check_expiry(end: Timestamp, now: datetime) -> None:
    if instant(end) <= now:
        raise Unavailable(
            "DIRECTORY_EXPIRED", "the time of the directory or anchor is over", expire_time=instant(end).isoformat()
        )


def _rolled_back(version: int, known: int) -> Fault:
    return FailedPrecondition(
        "DIRECTORY_ROLLED_BACK",
        "the anchor or directory does not follow the one that was taken before",
        version=str(version),
        known_version=str(known),
    )


def _malformed(text: str) -> Fault:
    return InvalidArgument("DIRECTORY_MALFORMED", text)
