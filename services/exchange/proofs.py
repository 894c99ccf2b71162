"""Evidence as strangers take it: signature files, containers and evidence records, made of what is stored. Pure."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, replace

from solmu.exchange.v1 import statements_pb2

from services.exchange.evidence import container, records, signatures, xades
from services.exchange.evidence.container import Container
from services.exchange.evidence.log import Leaf
from services.exchange.evidence.signatures import BatchPlace, Form, PinnedKey, Signature
from services.exchange.evidence.statements import Statement, parse
from services.runtime.database import Row

HASH_BYTES = 32


def signature_of(message: statements_pb2.Signature) -> Signature:
    """A signature as the pure modules take it."""
    place = None
    if message.HasField("batch"):
        place = BatchPlace(message.batch.count, message.batch.index, tuple(message.batch.path))
    return Signature(Form(message.form), message.signing_time, message.certificate_sha256, message.value, place)


def signature_message(signature: Signature) -> statements_pb2.Signature:
    """A signature as the contract has it."""
    place = signature.batch
    return statements_pb2.Signature(
        form=signature.form.value,  # type: ignore[arg-type]
        signing_time=signature.signing_time,
        certificate_sha256=signature.certificate_sha256,
        value=signature.value,
        batch=statements_pb2.BatchPlace(count=place.count, index=place.index, path=place.path) if place else None,
    )


def signed(row: Row) -> Container:
    """The container of a statement, as far as it goes without an evidence record. `row` is an `evidence_store.VIEW`.

    Always the same bytes: the batch of time stamps covers them before anybody
    asks for them.
    """
    signature = signature_of(statements_pb2.Signature.FromString(row["signature"]))
    said: Statement = parse(row["content"])
    name, content = signatures.signed_file(said, signature)
    pinned = _pinned(row["certificate"])
    file = xades.write(
        pinned,
        file=name,
        file_sha256=hashlib.sha256(content).digest(),
        signing_time=signature.signing_time,
        value=signature.value,
        time_stamp=row["time_stamp"],
        chain=row["chain"],
        status=row["answer"] or b"",
    )
    return Container(name, content, file)


def member(row: Row) -> bytes:
    """What stands for a statement in a batch of time stamps."""
    return records.member(signed(row).group)


def head_member(head: bytes) -> bytes:
    """What stands for a head of the log in a batch of time stamps."""
    return records.member(head_group(head))


def head_group(head: bytes) -> tuple[bytes]:
    """The data objects of a head: its bytes."""
    return (hashlib.sha256(head).digest(),)


@dataclass(frozen=True)
class Batch:
    """A batch of time stamps, laid out."""

    tree: records.Batch
    token: bytes

    @classmethod
    def of(cls, row: Row) -> Batch:
        """From a row of `stamp_batch`."""
        members = row["members"]
        hashes = [members[at : at + HASH_BYTES] for at in range(0, len(members), HASH_BYTES)]
        return cls(records.Batch(hashes), row["token"])

    def record(self, group: records.Group, place: int) -> bytes:
        """The evidence record of a member."""
        return self.tree.record(place, group, self.token)


def leaf(row: Row) -> Leaf:
    """A statement's leaf in the log. `row` is of `evidence_store.unlogged` or `leaf`."""
    signature = statements_pb2.Signature.FromString(row["signature"])
    return Leaf(
        time=row["append_time"],
        own=row["own"],
        statement_sha256=row["sha256"],
        form=signature.form,
        signing_time=signature.signing_time,
        certificate_sha256=signature.certificate_sha256.ljust(HASH_BYTES, b"\0")[:HASH_BYTES],
        value=b"" if row["refused"] else signature.value,
    )


def whole(row: Row, batch: Batch | None) -> bytes:
    """The container as a file, with its evidence record where it was stamped in a batch."""
    found = signed(row)
    if batch is not None:
        found = replace(found, record=batch.record(found.group, row["stamp_place"]))
    return container.write(found)


@functools.lru_cache(maxsize=1024)
def _pinned(certificate: bytes) -> PinnedKey:
    return PinnedKey.of(certificate)
