"""SQL of the journal."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from solmu.exchange.v1 import statements_pb2

from services.exchange.evidence.statements import Kind
from services.exchange.evidence_store import Evidence, Kept, Key
from services.runtime.database import Connection, Database
from services.runtime.ids import new_id

if TYPE_CHECKING:
    from services.exchange.journal import Entry, Exchange

KINDS = {kind: number for number, kind in enumerate(Kind, start=1)}
"""The numbers of kinds in the table `statement`."""


_APPEND = """
with fresh as (
    insert into statement (sha256, own, exchange_id, kind, subsystem, content, signature, certificate_sha256,
        time_stamp, policy, sender)
    select * from unnest($1::bytea[], $2::boolean[], $3::uuid[], $4::smallint[], $5::text[], $6::bytea[], $7::bytea[],
        $8::bytea[], $9::bytea[], $10::text[], $11::text[])
    on conflict do nothing returning sha256, own, seq
), kept as (
    insert into evidence (seq, stamp_state, status_sha256, head_state, body_state, content_key, content_expire_time,
        expire_time)
    select seq, stamp_state, status_sha256, head_state, body_state, content_key, content_expire_time, expire_time
    from unnest($12::bytea[], $13::boolean[], $14::smallint[], $15::bytea[], $16::smallint[], $17::smallint[],
        $18::bytea[], $19::timestamptz[], $20::timestamptz[]) as e (sha256, own, stamp_state, status_sha256,
        head_state, body_state, content_key, content_expire_time, expire_time)
    join fresh using (sha256, own)
), certified as (
    insert into signing_certificate (sha256, certificate, chain)
    select sha256, certificate, array(
        select authority from unnest($23::bytea[], $24::bytea[]) with ordinality as a (signer, authority, place)
        where signer = sha256 order by place)
    from unnest($21::bytea[], $22::bytea[]) as c (sha256, certificate)
    on conflict do nothing
), answered as (
    insert into certificate_status (sha256, answer) select * from unnest($25::bytea[], $26::bytea[])
    on conflict do nothing
), ended as (
    insert into exchange (exchange_id, side, message_id, consumer, service, consumer_node, provider_node, method,
        status, outcome, reason, refused_by, on_behalf, request_sha256, response_sha256, measurement, request_bytes,
        response_bytes, backend_share, start_time, end_time)
    select * from unnest($27::uuid[], $28::smallint[], $29::text[], $30::text[], $31::text[], $32::text[], $33::text[],
        $34::text[], $35::integer[], $36::smallint[], $37::text[], $38::smallint[], $39::boolean[], $40::bytea[],
        $41::bytea[], $42::bytea[], $43::bigint[], $44::bigint[], $45::real[], $46::timestamptz[], $47::timestamptz[])
    on conflict do nothing
)
select revision, sha256, own, seq from configuration left join fresh on true
"""


async def append(
    writer: Connection | Database, entries: Collection[Entry], kept: Kept, exchanges: Sequence[Exchange] = ()
) -> tuple[int, dict[Key, int]]:
    """Writes statements with their evidence, its content aside, and what became of exchanges, by one statement.

    Returns the revision of the configuration, and the `seq` of the statements
    that were not there, by their keys. An exchange of the same id and side
    stays as it was written first.
    """
    rows = await writer.fetch(
        _APPEND,
        *_columns(11, (_statement(entry) for entry in entries)),
        *_columns(9, (_evidence(one) for one in kept.evidence)),
        [one.sha256 for one in kept.certificates],
        [one.certificate for one in kept.certificates],
        [one.sha256 for one in kept.certificates for _ in one.chain],
        [authority for one in kept.certificates for authority in one.chain],
        list(kept.statuses),
        list(kept.statuses.values()),
        *_columns(21, (_exchange(one) for one in exchanges)),
    )
    return rows[0]["revision"], {(row["sha256"], row["own"]): row["seq"] for row in rows if row["seq"] is not None}


def _columns(number: int, rows: Iterable[tuple[Any, ...]]) -> Iterable[Sequence[Any]]:
    return tuple(zip(*rows, strict=True)) or ((),) * number


def _statement(entry: Entry) -> tuple[Any, ...]:
    statement, signature = entry.statement, entry.signature
    return (
        statement.sha256,
        entry.own,
        UUID(statement.lines["id"]),
        KINDS[statement.kind],
        entry.subsystem,
        statement.content,
        signature.SerializeToString(),
        signature.certificate_sha256,
        entry.time_stamp,
        entry.policy,
        statement.sender[1],
    )


def _evidence(evidence: Evidence) -> tuple[Any, ...]:
    return (
        *evidence.key,
        evidence.stamp_state,
        evidence.status_sha256,
        evidence.head_state,
        evidence.body_state,
        evidence.content_key,
        evidence.content_expire_time,
        evidence.expire_time,
    )


def _exchange(one: Exchange) -> tuple[Any, ...]:
    return (
        one.exchange_id,
        one.side,
        one.message_id,
        one.consumer,
        one.service,
        one.consumer_node,
        one.provider_node,
        one.method,
        one.status,
        one.outcome,
        one.reason,
        one.refused_by,
        one.on_behalf,
        one.request_sha256,
        one.response_sha256,
        one.measurement.SerializeToString(),
        one.measurement.request_bytes,
        one.measurement.response_bytes,
        one.backend_share,
        one.start_time,
        one.end_time,
    )


async def insert_refused(
    transaction: Connection,
    *,
    exchange_id: UUID | None,
    node: str,
    subsystem: str,
    reason: str,
    proof: statements_pb2.Proof,
) -> None:
    """Keeps a proof that did not hold."""
    await transaction.execute(
        "insert into refused_proof (refused_proof_id, exchange_id, node, subsystem, reason, sha256, statement,"
        " signature, certificate_status) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        new_id(),
        exchange_id,
        node,
        subsystem,
        reason,
        hashlib.sha256(proof.statement).digest(),
        proof.statement,
        proof.signature.SerializeToString(),
        proof.certificate_status,
    )
