"""Evidence records (RFC 4998): one time stamp for a batch, a short record for each of its members.

A member of a batch is a group of data objects (a statement and its signature
file; or a head of the log alone). Its record leads from the objects' digests to
the time stamp, and needs nothing of the other members.

What is written and read is a record's first archive time stamp with SHA-256.
Renewals (section 5) are not: one that has been renewed is refused, not
half-checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Annotated

from cryptography.hazmat import asn1

from services.exchange.evidence import timestamps
from services.exchange.evidence.timestamps import SHA256, AlgorithmIdentifier, Stamp
from services.runtime.errors import InvalidArgument

MAX_BATCH = 10_000
"""Members of a batch: as many as X-Road's; a tree of them is built in 30 ms, and a record has 14 hashes."""

MAX_LISTS = 64
"""Lists of hashes in a record that is read: the depth of any tree there can be."""

MAX_BYTES = 64 * 1024
"""Length of a record that is read: a token and a path."""


@asn1.sequence
class _ArchiveTimeStamp:
    """ArchiveTimeStamp (section 4.1); its module has implicit tags."""

    digest: Annotated[AlgorithmIdentifier | None, asn1.Implicit(0)]
    tree: Annotated[list[list[bytes]] | None, asn1.Implicit(2)]
    time_stamp: asn1.TLV


@asn1.sequence
class _EvidenceRecord:
    """EvidenceRecord (section 3.1), without crypto and encryption info."""

    version: int
    digests: list[AlgorithmIdentifier]
    chains: list[list[_ArchiveTimeStamp]]


Group = Sequence[bytes]
"""The SHA-256 of each data object of a member."""


def member(group: Group) -> bytes:
    """What stands for a member in the tree: the digest of its one object, or a digest over those of several."""
    return _combined(group)


class Batch:
    """The hash tree over the members of a batch (section 4.2), each given as `member`."""

    def __init__(self, members: Sequence[bytes]) -> None:
        if not 0 < len(members) <= MAX_BATCH:
            raise ValueError(f"a batch has 1 to {MAX_BATCH} members")
        self._levels = [members]
        while len(below := self._levels[-1]) > 1:
            self._levels.append([_combined(below[at : at + 2]) for at in range(0, len(below), 2)])

    @property
    def root(self) -> bytes:
        """What the time stamp is asked for: its imprint is this, not a digest of it."""
        return self._levels[-1][0]

    def record(self, index: int, group: Group, token: bytes) -> bytes:
        """The evidence record (DER) of a member, given as a whole, once the time stamp over `root` is there."""
        lists = [list(group)] if len(group) > 1 else []
        at = index
        for level in self._levels[:-1]:
            if at ^ 1 < len(level):
                lists.append([level[at ^ 1]] if lists else [*group, level[at ^ 1]])
            at //= 2
        stamp = _ArchiveTimeStamp(digest=None, tree=lists or None, time_stamp=asn1.decode_der(asn1.TLV, token))
        return asn1.encode_der(_EvidenceRecord(version=1, digests=[SHA256], chains=[[stamp]]))


def verify(record: bytes, group: Group, *, authorities: Collection[bytes]) -> Stamp:
    """Verifies that a record proves the data objects of these digests, all of them and no others.

    Steps, after section 4.3, with EVIDENCE_RECORD_INVALID for 1 to 4:

    1. The record is one, with one archive time stamp and SHA-256.
    2. The first list of hashes holds the digest of each data object; where there are several objects, nothing else.
    3. Each list is sorted, concatenated and hashed, and the result joins the next list.
    4. Without lists there is one object, and its digest goes to the time stamp itself.
    5. The time stamp is over what came of this: as `timestamps.verify` says.

    What the caller must still check: that the data objects are all that has to be proven.
    """
    lists, token = _read(record)  # 1
    if not group or (not lists and len(group) > 1):  # 4
        raise _invalid()
    if lists and (not set(group) <= set(lists[0]) or (len(group) > 1 and len(lists[0]) != len(group))):  # 2
        raise _invalid()
    result: bytes | None = None
    for hashes in lists:  # 3
        result = _joined(hashes if result is None else [*hashes, result])
    return timestamps.verify(token, group[0] if result is None else result, authorities=authorities)  # 5


def time_stamp(record: bytes) -> bytes:
    """The token in a record. Raises InvalidArgument, EVIDENCE_RECORD_INVALID."""
    return _read(record)[1]


def _read(record: bytes) -> tuple[list[list[bytes]], bytes]:
    try:
        if len(record) > MAX_BYTES:
            raise _invalid()
        found = asn1.decode_der(_EvidenceRecord, record)
        ((stamp,),) = found.chains
    except ValueError:
        raise _invalid() from None
    algorithms = [*found.digests, *([stamp.digest] if stamp.digest else [])]
    lists = stamp.tree or []
    digest_size = hashlib.sha256().digest_size
    if (
        found.version != 1
        or any(each.algorithm != SHA256.algorithm for each in algorithms)
        or SHA256.algorithm not in [each.algorithm for each in found.digests]
        or len(lists) > MAX_LISTS
        or any(not hashes or any(len(each) != digest_size for each in hashes) for hashes in lists)
    ):
        raise _invalid()
    return lists, asn1.encode_der(stamp.time_stamp)


def _combined(hashes: Sequence[bytes]) -> bytes:
    return _joined(hashes) if len(hashes) > 1 else hashes[0]


def _joined(hashes: Collection[bytes]) -> bytes:
    return hashlib.sha256(b"".join(sorted(hashes))).digest()


def _invalid() -> InvalidArgument:
    return InvalidArgument("EVIDENCE_RECORD_INVALID", "the evidence record does not lead to its time stamp")
