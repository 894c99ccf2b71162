"""What is appended is there once, whoever appends at the same time."""

import asyncio
import hashlib
import uuid
from typing import cast

import pytest
from nats.aio.client import Client
from solmu.exchange.v1 import events_pb2, exchanges_pb2, statements_pb2

from services.exchange.evidence.statements import Kind, Statement
from services.exchange.journal import Entry, Journal
from services.runtime.database import Database, Row
from services.runtime.errors import Fault
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


async def test_what_takes_part_in_the_transaction_can_undo_it(database):
    async def keep(_transaction, entries):
        raise ValueError(f"{len(entries)} cannot be kept")

    statement = request()
    with pytest.raises(ValueError, match="cannot be kept"):
        await Journal(database, keep=keep).append(entry(statement))
    assert await count(database, statement) == 0


async def test_a_replay_does_not_spoil_the_appends_beside_it(database):
    journal, old, fresh = Journal(database), request(), request()
    await journal.append(entry(old))
    kept: list[Statement] = []

    async def keep(_transaction, entries):
        kept.extend(one.statement for one in entries.values())

    both = Journal(database, keep=keep)
    results = await asyncio.gather(both.append(entry(old)), both.append(entry(fresh)), return_exceptions=True)
    assert isinstance(results[0], Fault)
    assert isinstance(results[1], int)
    assert kept == [fresh]


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
