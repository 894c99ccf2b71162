"""What is appended is there once, whoever appends at the same time."""

import asyncio
import hashlib
import uuid
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import cast

import pytest
from nats.aio.client import Client
from solmu.exchange.v1 import events_pb2, evidence_pb2, exchanges_pb2, statements_pb2

from services.exchange.evidence.statements import Kind, Statement
from services.exchange.evidence_store import Certificate, Evidence, Kept
from services.exchange.journal import Entry, Journal
from services.runtime.database import Database, Row
from services.runtime.errors import Fault, InvalidArgument
from services.runtime.outbox import Outbox
from services.runtime.telemetry import Telemetry
from tests.unit.exchange import samples

SUBSYSTEM = "FI/MUN/0245437-2/letters"


def entry(statement: Statement, *, own: bool = False) -> Entry:
    signature = statements_pb2.Signature(
        form=statements_pb2.SIGNATURE_FORM_XADES_1, signing_time=1, certificate_sha256=bytes(32), value=bytes(64)
    )
    return Entry(statement=statement, signature=signature, own=own, subsystem=SUBSYSTEM, policy="default/1")


def request(**lines: str) -> Statement:
    return samples.statement(Kind.REQUEST, **{"id": str(uuid.uuid4()), **lines})


async def count(database: Database, statement: Statement) -> int:
    return int(await database.fetchval("select count(*) from statement where sha256 = $1", statement.sha256))


async def test_appends_at_the_same_time_are_all_written(database):
    journal = Journal(database)
    statements = [request() for _ in range(600)]
    await asyncio.gather(*(journal.append(entry(statement)) for statement in statements))
    assert [await count(database, statement) for statement in statements] == [1] * 600


async def test_an_id_is_accepted_once_even_at_the_same_time_and_with_other_content(database):
    journal, first = Journal(database), request()
    again = request(id=first.lines["id"], body_bytes="7")
    results = await asyncio.gather(
        journal.append(entry(first)), Journal(database).append(entry(again)), return_exceptions=True
    )
    refusals = [result for result in results if isinstance(result, BaseException)]
    assert len(refusals) == 1
    assert isinstance(refusals[0], Fault)
    assert refusals[0].reason == "STATEMENT_REPLAYED"
    assert await count(database, first) + await count(database, again) == 1
    with pytest.raises(Fault, match="STATEMENT_REPLAYED"):
        await journal.append(entry(first))


async def test_a_call_within_the_node_has_its_statement_on_both_sides(database):
    journal, statement = Journal(database), request()
    await asyncio.gather(journal.append(entry(statement, own=True)), journal.append(entry(statement)))
    assert await count(database, statement) == 2


async def test_what_cannot_be_kept_is_not_written(database):
    def keep(entries):
        raise ValueError(f"{len(entries)} cannot be kept")

    statement = request()
    with pytest.raises(ValueError, match="cannot be kept"):
        await Journal(database, keep=keep).append(entry(statement))
    assert await count(database, statement) == 0


def evidence_of(entries: Collection[Entry], *, frames: tuple[tuple[int, int, bytes], ...] = ()) -> Kept:
    evidence = [
        Evidence(
            key=one.key,
            stamp_state=evidence_pb2.Statement.TIME_STAMP_STATE_NONE,  # other tests stamp what waits
            status_sha256=None,
            head_state=2 if frames else 0,
            body_state=0,
            content_key=b"",
            content_expire_time=None,
            expire_time=datetime.now(UTC) + timedelta(days=1),
        )
        for one in entries
    ]
    certificates = [Certificate(one.statement.sha256, b"certificate", (b"issuing", b"root")) for one in entries]
    return Kept(evidence, certificates, content=[(one.key, *frame) for one in entries for frame in frames])


async def evidence(database: Database, statement: Statement) -> list[Row]:
    rows: list[Row] = await database.fetch(
        "select e.* from evidence e join statement using (seq) where sha256 = $1", statement.sha256
    )
    return rows


async def test_a_replay_does_not_spoil_the_appends_beside_it(database):
    journal, old, fresh = Journal(database), request(), request()
    await journal.append(entry(old))
    both = Journal(database, keep=evidence_of)
    results = await asyncio.gather(both.append(entry(old)), both.append(entry(fresh)), return_exceptions=True)
    assert isinstance(results[0], Fault)
    assert isinstance(results[1], int)
    assert [len(await evidence(database, one)) for one in (old, fresh)] == [0, 1]


async def test_a_statement_that_comes_twice_at_the_same_time_is_accepted_once(database):
    journal, statement = Journal(database, keep=evidence_of), request()
    results = await asyncio.gather(*(journal.append(entry(statement)) for _ in range(5)), return_exceptions=True)
    assert [type(result) for result in results].count(InvalidArgument) == 4
    assert len(await evidence(database, statement)) == 1


async def test_a_statement_has_its_evidence_and_its_signers_authorities_in_their_order(database):
    statement = request()
    await Journal(database, keep=evidence_of).append(entry(statement))
    assert len(await evidence(database, statement)) == 1
    chain = await database.fetchval("select chain from signing_certificate where sha256 = $1", statement.sha256)
    assert chain == [b"issuing", b"root"]


async def test_content_of_a_replay_is_not_kept(database):
    frames = ((1, 0, b"head"), (2, 0, b"body"))
    journal, statement, fresh = Journal(database, keep=partial(evidence_of, frames=frames)), request(), request()
    await Journal(database).append(entry(statement))
    await asyncio.gather(journal.append(entry(statement)), journal.append(entry(fresh)), return_exceptions=True)
    kept = "select data from content join statement using (seq) where sha256 = $1 order by part"
    assert await database.fetch(kept, statement.sha256) == []
    assert [row["data"] for row in await database.fetch(kept, fresh.sha256)] == [b"head", b"body"]


async def test_a_refused_proof_is_kept_with_its_reason(database):
    proof = entry(request()).proof
    exchange_id = str(uuid.uuid4())
    outbox = Outbox(
        database=database, nats=cast("Client", None), node="node", service="exchange", telemetry=Telemetry()
    )  # its relay does not run here
    await Journal(database, outbox=outbox).refuse(
        exchange_id=exchange_id,
        node="FI/MUN/1/n",
        reason="SIGNATURE_INVALID",
        proof=proof,
        side=exchanges_pb2.SIDE_PROVIDER,
    )
    row = await database.fetchrow("select * from refused_proof where exchange_id = $1", uuid.UUID(exchange_id))
    assert (row["reason"], row["statement"]) == ("SIGNATURE_INVALID", proof.statement)
    told = await database.fetch("delete from outbox where type = 'solmu.exchange.v1.ProofRefused' returning payload")
    (refused,) = [each for each in map(_proof_refused, told) if each.subject == f"exchanges/{exchange_id}"]
    assert (refused.reason, refused.side, refused.node) == (
        "SIGNATURE_INVALID",
        exchanges_pb2.SIDE_PROVIDER,
        "nodes/FI~MUN~1~n",
    )
    assert refused.statement == f"statements/{hashlib.sha256(proof.statement).hexdigest()}"


def _proof_refused(row: Row) -> events_pb2.ProofRefused:
    return events_pb2.ProofRefused.FromString(row["payload"])
