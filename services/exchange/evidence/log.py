"""The log of a node's evidence: leaves, signed heads, countersignatures (evidence_log.proto).

Structures are those of RFC 9162 in the presentation language of RFC 8446,
section 3; the tree is in `merkle`. Nothing here stores: who keeps the log
gives these functions what it has.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from services.exchange.evidence import merkle, signatures, statements
from services.exchange.evidence.signatures import PinnedKey, PrivateKey
from services.runtime.errors import InvalidArgument

COUNTERSIGNATURE = b"solmu-countersignature/1"

_LEAF = struct.Struct(">BQB32sBQ32sH")
_HEAD = struct.Struct(">QQB32sH")


@dataclass(frozen=True)
class Leaf:
    """A statement's entry in the log."""

    time: datetime
    """When it was kept; to the millisecond."""
    own: bool
    """Whether it was signed here."""
    statement_sha256: bytes
    form: int
    signing_time: int
    certificate_sha256: bytes
    value: bytes
    """The signature value; empty where no valid one came."""

    def encode(self) -> bytes:
        """The leaf's input (LogLeaf)."""
        fields = (self.statement_sha256, self.form, self.signing_time, self.certificate_sha256, len(self.value))
        return _LEAF.pack(1, milliseconds(self.time), self.own, *fields) + self.value

    def hash(self) -> bytes:
        """The leaf's hash in the tree."""
        return merkle.leaf_hash(self.encode())


def parse_leaf(content: bytes) -> Leaf:
    """Reads a leaf's input. Raises InvalidArgument, LOG_PROOF_INVALID."""
    if len(content) < _LEAF.size:
        raise _unproven("the leaf is not one")
    version, time, own, statement, form, signed, certificate, size = _LEAF.unpack_from(content)
    if version != 1 or own > 1 or len(content) != _LEAF.size + size or time > _LAST:
        raise _unproven("the leaf is not one")
    return Leaf(_instant(time), bool(own), statement, form, signed, certificate, content[_LEAF.size :])


@dataclass(frozen=True)
class TreeHead:
    """What a head says."""

    time: datetime
    size: int
    root: bytes

    def encode(self) -> bytes:
        """The bytes that are signed: TreeHeadDataV2 without extensions (RFC 9162, section 4.9)."""
        return _HEAD.pack(milliseconds(self.time), self.size, len(self.root), self.root, 0)


def parse_head(content: bytes) -> TreeHead:
    """Reads a head. Raises InvalidArgument, LOG_PROOF_INVALID."""
    if len(content) != _HEAD.size:
        raise _unproven("the head is not one")
    time, size, length, root, extensions = _HEAD.unpack(content)
    if length != len(root) or extensions or time > _LAST or size >> 63:
        raise _unproven("the head is not one")
    return TreeHead(_instant(time), size, root)


def sign_head(head: TreeHead, *, key: PrivateKey, pinned: PinnedKey) -> bytes:
    """The signature of a head (RFC 9162, section 4.10), with the node's key for its log."""
    return signatures.raw_sign(key, pinned.algorithm, head.encode())


def verify_head(content: bytes, signature: bytes, pinned: PinnedKey) -> TreeHead:
    """The head that a node signed.

    1. The bytes are a head: LOG_PROOF_INVALID.
    2. The key counted at the head's time: CERTIFICATE_EXPIRED.
    3. The signature verifies with the pinned algorithm: SIGNATURE_INVALID.

    What the caller must still check: that the key is pinned for the node's log,
    and that the head continues the last one seen (`check_continues`).
    """
    head = parse_head(content)  # 1
    signatures.check_period(pinned, int(head.time.timestamp()))  # 2
    signatures.raw_verify(pinned.public_key, pinned.algorithm, signature, content)  # 3
    return head


def countersign(node: str, head: bytes, *, now: datetime, key: PrivateKey, pinned: PinnedKey) -> bytes:
    """This node's word on the head of another one, named with "/".

    To be given only after `verify_head` and `check_continues`.
    """
    return signatures.raw_sign(key, pinned.algorithm, countersigned(node, head, now))


def verify_countersignature(node: str, head: bytes, *, time: datetime, value: bytes, pinned: PinnedKey) -> None:
    """Verifies a peer's word on the head of a node. Raises InvalidArgument: CERTIFICATE_EXPIRED, SIGNATURE_INVALID."""
    signatures.check_period(pinned, int(time.timestamp()))
    signatures.raw_verify(pinned.public_key, pinned.algorithm, value, countersigned(node, head, time))


def countersigned(node: str, head: bytes, time: datetime) -> bytes:
    """The bytes that a countersignature is made over."""
    return b"\n".join((COUNTERSIGNATURE, node.encode("ascii"), statements.spell(time).encode("ascii"), head))


def check_continues(seen: TreeHead | None, shown: TreeHead, path: Sequence[bytes]) -> None:
    """Refuses a head that does not continue the last one that was seen. Raises InvalidArgument, LOG_CONTRADICTED.

    A tree that has shrunk, or whose head is from before the last one, is as
    much a contradiction as another root. A first head is taken as it is.
    """
    if seen is None or seen.size == 0:
        return
    if shown.time < seen.time or not merkle.consistent(seen.size, seen.root, shown.size, shown.root, path):
        raise InvalidArgument("LOG_CONTRADICTED", "the head does not continue the last one that was seen")


def check_inclusion(leaf: bytes, index: int, head: TreeHead, path: Sequence[bytes]) -> Leaf:
    """The leaf, proven to be in the tree of a head. Raises InvalidArgument, LOG_PROOF_INVALID."""
    found = parse_leaf(leaf)
    if merkle.root_from_inclusion(merkle.leaf_hash(leaf), index, head.size, path) != head.root:
        raise _unproven("the path does not lead from the leaf to the head's root")
    return found


def milliseconds(time: datetime) -> int:
    """Milliseconds since 1970, without the rounding of floats."""
    delta = time - _EPOCH
    return (delta.days * 86400 + delta.seconds) * 1000 + delta.microseconds // 1000


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = milliseconds(datetime(9999, 12, 31, tzinfo=UTC))


def _instant(value: int) -> datetime:
    return datetime.fromtimestamp(value // 1000, UTC).replace(microsecond=value % 1000 * 1000)


def _unproven(text: str) -> InvalidArgument:
    return InvalidArgument("LOG_PROOF_INVALID", text)
