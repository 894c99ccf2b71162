"""What is journaled becomes evidence: logged, stamped, and exported so that strangers can check it."""

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import REGISTRY
from solmu.exchange.v1.evidence_pb2 import Statement as View

from services.exchange import evidence_store, log_keeper, proofs
from services.exchange.evidence import log, merkle, records, verifying
from services.exchange.evidence_rules import Backlog, Rules, Stamping
from services.exchange.evidence_store import OWN
from services.exchange.journal import Content, Journal
from services.exchange.keeping import FRAME, Keeping
from services.exchange.log_keeper import LogKeeper
from services.exchange.stamping import Stamper, StampPolicy
from services.runtime.database import Row
from services.runtime.errors import Fault, Unavailable
from services.runtime.outbox import Outbox
from services.runtime.sealing import FIRST, Vault
from services.runtime.telemetry import Telemetry
from tests.integration.exchange.trusting import SUBSYSTEM, Mesh, request

POLICIES = {
    "default/1": Rules(),
    "plain/1": Rules(content=View.CONTENT_STATE_KEPT),
    "sealed/1": Rules(content=View.CONTENT_STATE_ENCRYPTED, max_body_bytes=2_000_000),
    "none/1": Rules(stamping=Stamping.NONE),
    "brief/1": Rules(evidence_duration=timedelta(0), content=View.CONTENT_STATE_KEPT, content_duration=timedelta(0)),
}
VAULT = Vault({FIRST: b"r" * 32}, current=FIRST)


@pytest.fixture
def keeping(mesh: Mesh) -> Keeping:
    return Keeping(vault=VAULT, rules_of=POLICIES.__getitem__, certificate=mesh.certificate)


@pytest.fixture
def journal(database, keeping) -> Journal:
    return Journal(database, keep=keeping.keep)


@pytest.fixture
def stamper(database, mesh: Mesh) -> Stamper:
    return stamper_over(database, mesh)


def stamper_over(database, mesh: Mesh, *, uris: tuple[str, ...] | None = None, test_mode: bool = True) -> Stamper:
    outbox = Outbox(database=database, nats=None, node="solmu", service="exchange", telemetry=Telemetry())  # type: ignore[arg-type]
    authorities = mesh.authorities
    if uris is not None:
        authorities = [type(each)(each.name, uris, each.certificates) for each in authorities]
    return Stamper(
        database=database,
        outbox=outbox,
        time_stamps=mesh.time_stamps(test_mode=test_mode),
        authorities=lambda: authorities,
        interval=lambda: timedelta(0),
    )


async def view(database, statement):
    return await evidence_store.statement(database, statement.sha256, subsystems=[SUBSYSTEM])


def there(row: Row | None) -> Row:
    assert row is not None
    return row


async def latest_head(database) -> Row:
    return there(await evidence_store.head(database, OWN))


async def stamp_all(stamper: Stamper) -> None:
    while await stamper.stamp():
        pass


async def export(database, statement) -> bytes:
    row = await view(database, statement)
    batch = await evidence_store.batch(database, row["stamp_batch"]) if row["stamp_batch"] else None
    return proofs.whole(row, proofs.Batch.of(batch) if batch else None)


async def test_what_was_journaled_is_stamped_in_a_batch_and_proven_by_its_container(database, journal, mesh, stamper):
    entries = [mesh.entry(mesh.signer()) for _ in range(5)]
    await journal.append(*entries)
    assert (await view(database, entries[3].statement))["stamp_state"] == View.TIME_STAMP_STATE_PENDING
    await stamp_all(stamper)
    row = await view(database, entries[3].statement)
    assert row["stamp_state"] == View.TIME_STAMP_STATE_BATCHED
    report = verifying.verify(await export(database, entries[3].statement), anchors=mesh.anchors)
    assert report.outcome is verifying.Outcome.HOLDS, report.findings
    assert report.statement == entries[3].statement
    assert report.proven_time == row["stamp_time"]


async def test_a_stamp_of_its_own_needs_no_batch(database, journal, mesh):
    policy = StampPolicy(database=database, time_stamps=mesh.time_stamps(), authorities=lambda: mesh.authorities)
    signer, statement = mesh.signer(), request()
    first = mesh.entry(signer, statement)
    token = await policy.token(Rules(stamping=Stamping.SYNCHRONOUS), first.signature.value)
    await journal.append(type(first)(**{**vars(first), "time_stamp": token}))
    row = await view(database, statement)
    assert row["stamp_state"] == View.TIME_STAMP_STATE_SINGLE
    assert verifying.verify(await export(database, statement), anchors=mesh.anchors).outcome is verifying.Outcome.HOLDS


async def test_where_the_policy_asks_for_no_stamp_there_is_none(database, journal, mesh, stamper):
    entry = mesh.entry(mesh.signer(), policy="none/1")
    await journal.append(entry)
    await stamp_all(stamper)
    assert (await view(database, entry.statement))["stamp_state"] == View.TIME_STAMP_STATE_NONE


async def test_a_signer_whose_certificate_is_nowhere_is_not_journaled(database, journal, mesh):
    signer = mesh.signer()
    del mesh.signers[signer.pinned.sha256]
    entry = mesh.entry(signer)
    with pytest.raises(Fault, match="CERTIFICATE_UNKNOWN"):
        await journal.append(entry)
    assert await database.fetchval("select count(*) from statement where sha256 = $1", entry.statement.sha256) == 0


async def test_the_log_grows_and_proves_what_it_holds(database, journal, mesh):
    keeper = LogKeeper(database=database, key=lambda: key)
    key = mesh.signer("FI/MUN/0245437-2/node")
    await journal.append(*(mesh.entry(mesh.signer()) for _ in range(3)))
    while await keeper.append():
        pass
    assert await keeper.sign()
    assert not await keeper.sign()
    first = await latest_head(database)
    entries = [mesh.entry(mesh.signer()) for _ in range(6)]
    await journal.append(*entries)
    assert await keeper.append() == 6
    assert await keeper.sign()
    second = await latest_head(database)
    head = log.verify_head(second["head"], second["signature"], key.pinned)
    assert head.size == second["tree_size"] == first["tree_size"] + 6
    for entry in entries:
        row = there(await evidence_store.leaf(database, entry.statement.sha256))
        path = await log_keeper.inclusion_path(database, row["log_index"], head.size)
        leaf = log.check_inclusion(proofs.leaf(row).encode(), row["log_index"], head, path)
        assert leaf.statement_sha256 == entry.statement.sha256
    path = await log_keeper.consistency_path(database, first["tree_size"], head.size)
    log.check_continues(log.parse_head(first["head"]), head, path)


async def test_the_log_has_every_statement_once_and_its_root_follows_from_all_leaves(database, journal, mesh):
    keeper = LogKeeper(database=database, key=lambda: None)
    await journal.append(*(mesh.entry(mesh.signer()) for _ in range(7)))
    while await keeper.append():
        pass
    size = await evidence_store.log_size(database)
    leaves = await evidence_store.leaf_hashes(database, start=0, limit=size)
    assert len(leaves) == size * 32
    assert await log_keeper.root(database, size) == merkle.root_of(
        [leaves[at : at + 32] for at in range(0, len(leaves), 32)]
    )
    logged = await database.fetchval("select count(*) from evidence where log_index is not null")
    assert logged == await database.fetchval("select count(distinct log_index) from evidence")


async def test_without_a_key_the_log_grows_and_no_head_is_signed(database, journal, mesh):
    keeper = LogKeeper(database=database, key=lambda: None)
    await journal.append(mesh.entry(mesh.signer()))
    while await keeper.append():
        pass
    assert not await keeper.sign()


async def test_heads_are_stamped_with_the_statements(database, journal, mesh, stamper):
    key = mesh.signer("FI/MUN/0245437-2/node")
    keeper = LogKeeper(database=database, key=lambda: key)
    await journal.append(mesh.entry(mesh.signer()))
    while await keeper.append():
        pass
    assert await keeper.sign()
    await stamp_all(stamper)
    head = await latest_head(database)
    batch = there(await evidence_store.batch(database, head["stamp_batch"]))
    group = proofs.head_group(head["head"])
    record = proofs.Batch.of(batch).record(group, head["stamp_place"])
    assert records.verify(record, group, authorities=mesh.anchors.authorities).time == batch["stamp_time"]


async def test_content_is_kept_as_the_policy_says(database, journal, keeping, mesh):
    body = bytes(range(256)) * 3000
    content = Content(head=b"POST\r\n/\r\n", body=body, trailers=b"grpc-status:0\r\n")
    lines = {"body_sha256": hashlib.sha256(body).hexdigest(), "body_bytes": str(len(body))}
    for policy, state in (
        ("default/1", View.CONTENT_STATE_NOT_KEPT),
        ("plain/1", View.CONTENT_STATE_KEPT),
        ("sealed/1", View.CONTENT_STATE_ENCRYPTED),
    ):
        entry = mesh.entry(mesh.signer(), request(**lines), policy=policy, content=content)
        await journal.append(entry)
        row = await view(database, entry.statement)
        assert (row["head_state"], row["body_state"]) == (state, state)
        for part, whole in (("head", content.head), ("body", body), ("trailers", content.trailers)):
            kept = b"".join([piece async for piece in keeping.read(database, row, part)])
            assert kept == (b"" if policy == "default/1" else whole)
        rest = b"".join([piece async for piece in keeping.read(database, row, "body", offset=FRAME + 7)])
        assert rest == (b"" if policy == "default/1" else body[FRAME + 7 :])
        stored = await database.fetchval("select data from content where seq = $1 and part = 1", row["seq"])
        assert (stored == content.head) is (policy == "plain/1")


async def test_a_body_that_is_too_large_or_went_by_is_not_kept(database, journal, mesh):
    body = bytes(2_000_001)
    lines = {"body_sha256": hashlib.sha256(body).hexdigest(), "body_bytes": str(len(body))}
    for given in (body, None):
        content = Content(head=b"POST\r\n/\r\n", body=given)
        entry = mesh.entry(mesh.signer(), request(**lines), policy="sealed/1", content=content)
        await journal.append(entry)
        row = await view(database, entry.statement)
        assert (row["head_state"], row["body_state"]) == (View.CONTENT_STATE_ENCRYPTED, View.CONTENT_STATE_NOT_KEPT)


async def test_content_goes_when_its_time_is_over_and_the_proof_stays(database, journal, keeping, mesh):
    entry = mesh.entry(mesh.signer(), policy="sealed/1", content=Content(head=b"POST\r\n/\r\n"))
    await journal.append(entry)
    kept = await view(database, entry.statement)
    await evidence_store.erase_content(database, now=datetime.now(UTC) + timedelta(days=29), limit=1000)
    assert (await view(database, entry.statement))["head_state"] == View.CONTENT_STATE_ENCRYPTED
    await evidence_store.erase_content(database, now=datetime.now(UTC) + timedelta(days=31), limit=1000)
    row = await view(database, entry.statement)
    assert (row["head_state"], row["content_key"]) == (View.CONTENT_STATE_ERASED, b"")
    assert [piece async for piece in keeping.read(database, row, "head")] == []
    assert kept["content_key"]
    assert proofs.signed(row) == proofs.signed(kept)


async def test_a_statement_goes_when_its_time_is_over_and_its_hash_stays_in_the_log(database, journal, mesh):
    entry = mesh.entry(mesh.signer(), policy="brief/1", content=Content(head=b"POST\r\n/\r\n"))
    await journal.append(entry)
    await evidence_store.erase_statements(database, now=datetime.now(UTC), limit=1000)
    assert await view(database, entry.statement), "what is not logged yet stays"
    keeper = LogKeeper(database=database, key=lambda: None)
    while await keeper.append():
        pass
    size = await evidence_store.log_size(database)
    await evidence_store.erase_statements(database, now=datetime.now(UTC), limit=1000)
    assert await view(database, entry.statement) is None
    assert await evidence_store.log_size(database) == size


async def test_what_is_retained_is_never_kept_for_less(database, journal, mesh):
    entry = mesh.entry(mesh.signer(), policy="plain/1", content=Content(head=b"POST\r\n/\r\n"))
    await journal.append(entry)
    before = await view(database, entry.statement)
    later = before["expire_time"] + timedelta(days=1)
    await evidence_store.retain(database, before["seq"], expire=later, content_expire=later)
    await evidence_store.retain(database, before["seq"], expire=datetime.now(UTC), content_expire=None)
    row = await view(database, entry.statement)
    assert (row["expire_time"], row["content_expire_time"]) == (later, later)


async def test_an_outage_is_shown_and_worked_off(database, journal, mesh, stamper):
    away = stamper_over(database, mesh, uris=("http://127.0.0.1:9/time-stamps",))
    entries = [mesh.entry(mesh.signer()) for _ in range(4)]
    await journal.append(*entries)
    await away.turn()
    policy = StampPolicy(database=database, time_stamps=mesh.time_stamps(), authorities=lambda: mesh.authorities)
    await policy.look()
    assert policy.backlog.pending >= 4
    assert policy.backlog.failing_since is not None
    assert (REGISTRY.get_sample_value("solmu_time_stamps_waiting") or 0) >= 4
    assert (REGISTRY.get_sample_value("solmu_time_stamp_wait_seconds") or 0) > 0
    policy.admit(Rules())
    with pytest.raises(Unavailable, match="TIME_STAMP_UNAVAILABLE"):
        policy.admit(Rules(stop_when_away=True))
    with pytest.raises(Unavailable, match="TIME_STAMP_BACKLOG_FULL"):
        policy.admit(Rules(max_pending=4))
    with pytest.raises(Unavailable, match="TIME_STAMP_BACKLOG_FULL"):
        policy.admit(Rules(max_pending_age=timedelta(0)))
    await stamper.turn()
    await policy.look()
    assert policy.backlog == Backlog()
    assert REGISTRY.get_sample_value("solmu_time_stamps_waiting") == 0
    assert (await view(database, entries[0].statement))["stamp_state"] == View.TIME_STAMP_STATE_BATCHED


async def test_a_synchronous_stamp_falls_back_to_the_batch_or_stops(database, mesh):
    policy = StampPolicy(database=database, time_stamps=mesh.time_stamps(), authorities=list)
    assert await policy.token(Rules(stamping=Stamping.SYNCHRONOUS), bytes(64)) == b""
    with pytest.raises(Unavailable, match="TIME_STAMP_UNAVAILABLE"):
        await policy.token(Rules(stamping=Stamping.SYNCHRONOUS, stop_when_away=True), bytes(64))


async def test_a_policy_may_name_its_authorities(database, mesh):
    policy = StampPolicy(database=database, time_stamps=mesh.time_stamps(), authorities=lambda: mesh.authorities)
    named = Rules(stamping=Stamping.SYNCHRONOUS, authorities=("directories/FI/trustServices/other",))
    assert await policy.token(named, bytes(64)) == b""
    named = Rules(stamping=Stamping.SYNCHRONOUS, authorities=(mesh.authorities[0].name,))
    assert await policy.token(named, bytes(64))


async def test_a_node_in_service_takes_no_stamps_of_a_test_authority(database, journal, mesh):
    await journal.append(mesh.entry(mesh.signer()))
    with pytest.raises(Unavailable, match="TIME_STAMP_UNAVAILABLE"):
        await stamper_over(database, mesh, test_mode=False).stamp()


async def test_an_authority_that_is_away_is_passed_over_for_the_next(database, journal, mesh):
    await journal.append(mesh.entry(mesh.signer()))
    both = ("http://127.0.0.1:9/time-stamps", f"{mesh.origin}/authority", mesh.authorities[0].uris[0])
    assert await stamper_over(database, mesh, uris=both).stamp()
