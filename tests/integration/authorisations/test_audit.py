"""The record: complete, unchangeable, chained, and open to those it is about."""

import asyncio
import hashlib

import asyncpg
import jwt
import pytest
from solmu.authorisations.v1 import audit_pb2
from solmu.authorisations.v1.audit_pb2 import AuditRecord
from solmu.authorisations.v1.parties_pb2 import Party

from services.authorisations import audit_store
from services.authorisations.audit_log import entry_hash
from services.runtime.identity import keys_of
from tests.integration.authorisations.people import give, make_theme, person
from tests.integration.authorisations.service import Service, calls_as
from tests.integration.authorisations.test_checks import check


async def chain_all(service: Service) -> None:
    while await service.chainer.chain():
        pass


async def export(service: Service, **span: int) -> list[audit_pb2.ExportAuditRecordsResponse]:
    request = audit_pb2.ExportAuditRecordsRequest(**span)
    return [entry async for entry in service.audit.ExportAuditRecords(request)]


async def asked_about(service: Service) -> tuple[str, str]:
    theme, owner, helper = await make_theme(service), person(), person()
    await give(service, theme.name, owner, helper)
    calls_as(person(), client="tax-office")
    await check(service, theme.name, helper, owner)
    return owner, helper


async def test_the_chain_verifies_from_the_first_entry_to_the_signed_head(service: Service):
    await asked_about(service)
    await chain_all(service)
    assert service.clock.time is not None
    await service.chainer.sign()
    entries = await export(service)
    previous = bytes(32)
    for number, entry in enumerate(entries, start=1):
        content = previous + number.to_bytes(8, "big") + entry.content
        assert (entry.sequence, entry.previous_hash) == (number, previous)
        previous = hashlib.sha256(content).digest()
        assert entry.hash == previous
    head = await service.audit.GetAuditHead(audit_pb2.GetAuditHeadRequest())
    assert head.hash == entries[head.sequence - 1].hash
    header = jwt.get_unverified_header(head.jws)
    key = keys_of(await service.keys.key_set()).get(header["kid"])
    if key is not None:  # an earlier test's head was signed with that test's key
        claims = jwt.decode(head.jws, key, algorithms=["ES256"], options={"verify_iat": False})
        assert (claims["sequence"], claims["hash"]) == (head.sequence, head.hash.hex())
    assert header["typ"] != "at+jwt"


async def test_two_chainers_at_once_leave_one_chain(service: Service):
    for _ in range(3):
        await asked_about(service)
    await asyncio.gather(*(service.chainer.chain() for _ in range(4)), return_exceptions=True)
    await chain_all(service)
    sequences = [row["sequence"] for row in await service.database.fetch("select sequence from audit_link order by 1")]
    assert sequences == list(range(1, len(sequences) + 1))
    assert await service.database.fetchval("select count(*) from audit_record") == len(sequences)


@pytest.mark.parametrize("table", ["audit_record", "audit_link", "audit_head"])
@pytest.mark.parametrize("what", ["update {} set record = record", "delete from {}", "truncate {} cascade"])
async def test_nothing_recorded_can_be_changed_or_deleted(service: Service, table: str, what: str):
    await asked_about(service)
    column = "head" if table == "audit_head" else "record"
    with pytest.raises(asyncpg.PostgresError, match="append-only"):
        await service.database.execute(what.format(table).replace("record = record", f"{column} = {column}"))


async def test_a_person_sees_who_asked_and_not_how_it_was_judged(service: Service):
    owner, helper = await asked_about(service)
    for party in (owner, helper):
        calls_as(party)
        own = await service.audit.ListOwnAuditRecords(audit_pb2.ListOwnAuditRecordsRequest())
        checks = [record for record in own.records if record.kind == AuditRecord.KIND_CHECK]
        assert [record.actor.client for record in checks] == ["clients/tax-office"]
        assert not checks[0].check_steps
        changes = [record for record in own.records if record.kind == AuditRecord.KIND_MANDATE]
        assert [record.method.rpartition(".")[2] for record in changes] == ["MandateService/CreateMandate"]
    calls_as(person())
    assert not (await service.audit.ListOwnAuditRecords(audit_pb2.ListOwnAuditRecordsRequest())).records


async def test_who_looks_into_the_record_is_in_it(service: Service):
    owner, _ = await asked_about(service)
    calls_as(person(), client="auditor")
    search = audit_pb2.SearchAuditRecordsRequest(party=Party(name=owner), purpose="case 7")
    found = await service.audit.SearchAuditRecords(search)
    assert any(record.check_steps for record in found.records)
    calls_as(owner)
    own = await service.audit.ListOwnAuditRecords(audit_pb2.ListOwnAuditRecordsRequest(page_size=1))
    assert (own.records[0].kind, own.records[0].actor.client) == (AuditRecord.KIND_LOOKUP, "clients/auditor")
    assert [one.name for one in own.records[0].parties] == [owner]


async def test_what_an_earlier_release_has_chained_is_not_chained_again(service: Service):
    await asked_about(service)
    async with service.database.transaction() as transaction:
        sequence, previous = await audit_store.last_link(transaction)
        row = await transaction.fetchrow(
            "select record, content from audit_record join audit_waiting using (record) order by record limit 1"
        )
        assert row is not None
        own = entry_hash(previous, sequence + 1, row["content"])
        await audit_store.link(transaction, [(sequence + 1, row["record"], previous, own)])
    await chain_all(service)
    links = await service.database.fetch("select sequence, record from audit_link order by sequence")
    assert [link["sequence"] for link in links] == list(range(1, len(links) + 1))
    assert {link["record"] for link in links} == {
        one["record"] for one in await service.database.fetch("select record from audit_record")
    }
    assert await service.database.fetchval("select count(*) from audit_waiting") == 0
