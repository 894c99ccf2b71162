"""Containers to try things with: a member's evidence, whole or with one thing wrong."""

import hashlib
from datetime import datetime

from rfc3161_client import decode_timestamp_response

from services.exchange.evidence import container, records, signatures, status, timestamps, xades
from services.exchange.evidence.container import Container
from services.exchange.evidence.signatures import BATCH_FILE, STATEMENT_FILE, Signature
from services.exchange.evidence.statements import Statement
from services.exchange.evidence.status import Responder
from services.exchange.evidence.timestamps import Authority
from services.exchange.evidence.verifying import Anchors
from tests.unit.exchange import pki
from tests.unit.exchange.pki import NOW
from tests.unit.exchange.samples import statement

MESH = pki.mesh()
SECOND = int(NOW.timestamp())
ANCHORS = Anchors(authorities=[MESH.authority.der], signers=[MESH.member.der])


def stamp(imprint: bytes, *, by: pki.Holder = MESH.stamping, now: datetime = NOW) -> bytes:
    """A token over a digest."""
    authority = Authority(certificate=by.certificate, key=by.key)  # type: ignore[arg-type]
    answer = authority.answer(timestamps.request(imprint, nonce=7), now=now, serial=1)
    return bytes(decode_timestamp_response(answer).time_stamp_token())


def stapled(
    holder: pki.Holder = MESH.member,
    *,
    by: pki.Holder = MESH.responder,
    now: datetime = NOW,
    revoked: datetime | None = None,
) -> bytes:
    """What a responder says of a holder's certificate."""
    authority = MESH.authority.certificate
    responder = Responder(issuer=authority, certificate=by.certificate, key=by.key)  # type: ignore[arg-type]
    if revoked:
        responder.revoked[holder.certificate.serial_number] = revoked
    return responder.answer(status.request(holder.certificate, authority), now=now)


def signed(
    sample: Statement | None = None,
    *,
    holder: pki.Holder = MESH.member,
    single: bool = False,
    word: bytes | None = None,
    second: int = SECOND,
) -> Container:
    """A statement with its signature: with a stamp of its own where `single`, with none otherwise."""
    sample = sample or statement()
    pinned = holder.pinned()
    signature = signatures.sign(sample, key=holder.key, pinned=pinned, now=second)
    return _container(STATEMENT_FILE, sample.content, signature, holder, single=single, word=word)


def batch(samples: list[Statement]) -> list[tuple[Container, Signature]]:
    """Statements under one signature, each with its container."""
    pinned = MESH.member.pinned()
    made = signatures.sign_batch(samples, key=MESH.member.key, pinned=pinned, now=SECOND)
    return [
        (_container(BATCH_FILE, signatures.signed_file(sample, each)[1], each, MESH.member), each)
        for sample, each in zip(samples, made, strict=True)
    ]


def _container(
    name: str,
    content: bytes,
    signature: Signature,
    holder: pki.Holder,
    *,
    single: bool = False,
    word: bytes | None = None,
) -> Container:
    imprint = hashlib.sha256(signatures.signature_value(signature.value)).digest()
    file = xades.write(
        holder.pinned(),
        file=name,
        file_sha256=hashlib.sha256(content).digest(),
        signing_time=signature.signing_time,
        value=signature.value,
        time_stamp=stamp(imprint) if single else b"",
        status=stapled(holder) if word is None else word,
    )
    return Container(name, content, file)


def recorded(*held: Container, now: datetime = NOW, by: pki.Holder = MESH.stamping) -> list[Container]:
    """The containers with their evidence records, of one batch."""
    tree = records.Batch([records.member(each.group) for each in held])
    token = stamp(tree.root, now=now, by=by)
    return [
        Container(each.file, each.content, each.signature, tree.record(at, each.group, token))
        for at, each in enumerate(held)
    ]


def whole(sample: Statement | None = None) -> bytes:
    """A container in which everything holds, as a file."""
    others = [signed(statement(message_id=str(number))) for number in range(4)]
    return container.write(recorded(*others, signed(sample))[-1])
