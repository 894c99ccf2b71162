"""SQL of the journal."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from solmu.exchange.v1 import statements_pb2

from services.exchange.evidence.statements import Kind
from services.runtime.database import Connection
from services.runtime.ids import new_id

if TYPE_CHECKING:
    from services.exchange.journal import Entry, Exchange

KINDS = {kind: number for number, kind in enumerate(Kind, start=1)}
"""The numbers of kinds in the table `statement`."""


async def insert_statements(transaction: Connection, entries: Sequence[Entry]) -> dict[tuple[bytes, bool], int]:
    """Writes statements; returns the `seq` of those that were not there, by digest and `own`."""
    rows = await transaction.fetch(
        "insert into statement (sha256, own, exchange_id, kind, subsystem, content, signature, certificate_sha256,"
        " time_stamp, policy, sender) select * from unnest($1::bytea[], $2::boolean[], $3::uuid[], $4::smallint[],"
        " $5::text[], $6::bytea[], $7::bytea[], $8::bytea[], $9::bytea[], $10::text[], $11::text[])"
        " on conflict do nothing returning sha256, own, seq",
        [entry.statement.sha256 for entry in entries],
        [entry.own for entry in entries],
        [UUID(entry.statement.lines["id"]) for entry in entries],
        [KINDS[entry.statement.kind] for entry in entries],
        [entry.subsystem for entry in entries],
        [entry.statement.content for entry in entries],
        [entry.signature.SerializeToString() for entry in entries],
        [entry.signature.certificate_sha256 for entry in entries],
        [entry.time_stamp for entry in entries],
        [entry.policy for entry in entries],
        [entry.statement.sender[1] for entry in entries],
    )
    return {(row["sha256"], row["own"]): row["seq"] for row in rows}


async def insert_exchanges(transaction: Connection, exchanges: Sequence[Exchange]) -> None:
    """Writes what became of exchanges. One of the same id and side stays as it was written first."""
    rows = [
        (
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
        for one in exchanges
    ]
    await transaction.execute(
        "insert into exchange (exchange_id, side, message_id, consumer, service, consumer_node, provider_node, method,"
        " status, outcome, reason, refused_by, on_behalf, request_sha256, response_sha256, measurement, request_bytes,"
        " response_bytes, backend_share, start_time, end_time) select * from unnest($1::uuid[], $2::smallint[],"
        " $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::integer[], $10::smallint[],"
        " $11::text[], $12::smallint[], $13::boolean[], $14::bytea[], $15::bytea[], $16::bytea[], $17::bigint[],"
        " $18::bigint[], $19::real[], $20::timestamptz[], $21::timestamptz[]) on conflict do nothing",
        *zip(*rows, strict=True),
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
