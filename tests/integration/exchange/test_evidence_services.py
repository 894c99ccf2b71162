"""EvidenceService and EvidenceLogService: what a client sees of evidence, and how it is proven to it."""

import hashlib
import io
import zipfile
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from solmu.exchange.v1 import evidence_log_pb2, evidence_pb2, exchanges_pb2
from solmu.exchange.v1.evidence_pb2 import Statement
from solmu.exchange.v1.identifiers_pb2 import Requester

from services.exchange.evidence import log, merkle, records, verifying
from services.exchange.evidence.statements import Kind
from services.exchange.evidence_batches import Batches
from services.exchange.evidence_rules import Rules
from services.exchange.journal import Content, Journal
from services.exchange.keeping import Keeping
from services.exchange.log_keeper import LogKeeper
from services.exchange.servicers.evidence import Evidence
from services.exchange.servicers.evidence_log import EvidenceLog
from services.runtime.errors import FailedPrecondition, Fault, InvalidArgument, NotFound
from services.runtime.sealing import FIRST, Vault
from tests.integration.exchange.test_evidence_keeping import stamp_all, stamper_over
from tests.integration.exchange.trusting import MEMBER, SUBSYSTEM, Mesh, request
from tests.unit.exchange import samples

NODE = f"{MEMBER}/node1"
OTHER = f"{MEMBER}/other"


@pytest.fixture
def keeping(mesh: Mesh) -> Keeping:
    rules = Rules(content=Statement.CONTENT_STATE_ENCRYPTED)
    return Keeping(
        vault=Vault({FIRST: b"r" * 32}, current=FIRST), rules_of=lambda _: rules, certificate=mesh.certificate
    )


@pytest.fixture
def journal(database, keeping) -> Journal:
    return Journal(database, keep=keeping.keep)


@pytest.fixture
def evidence(database, keeping) -> Evidence:
    return over(database, keeping, [SUBSYSTEM])


def over(database, keeping, subsystems: list[str]) -> Evidence:
    def seen(requester: Requester) -> list[str]:
        return [requester.subsystem.split("/")[1].replace("~", "/")] if requester.subsystem else subsystems

    return Evidence(database=database, keeping=keeping, batches=Batches(database), seen=seen)


@pytest.fixture
def log_service(database) -> EvidenceLog:
    return EvidenceLog(database=database, batches=Batches(database), node=lambda: NODE)


def name(statement) -> str:
    return f"statements/{statement.sha256.hex()}"


async def get(evidence: Evidence, statement) -> Statement:
    return await evidence.GetStatement(evidence_pb2.GetStatementRequest(name=name(statement)))


async def whole(stream) -> bytes:
    return b"".join([piece.data async for piece in stream])


async def logged(database, mesh: Mesh):
    key = mesh.signer(NODE)
    keeper = LogKeeper(database=database, key=lambda: key)
    while await keeper.append():
        pass
    await keeper.sign()
    return key


async def test_a_statement_shows_how_far_its_proof_is(database, journal, evidence, mesh):
    entry = mesh.entry(mesh.signer(), content=Content(head=b"POST\r\n/\r\n"))
    await journal.append(entry)
    fresh = await get(evidence, entry.statement)
    assert (fresh.kind, fresh.own, fresh.log_index) == (Statement.KIND_REQUEST, True, -1)
    assert fresh.time_stamp_state == Statement.TIME_STAMP_STATE_PENDING
    assert fresh.proof == entry.proof
    assert fresh.subject == f"exchanges/{entry.statement.lines['id']}"
    assert fresh.signer == "members/FI~MUN~0245437-2"
    assert fresh.head_state == Statement.CONTENT_STATE_ENCRYPTED
    assert fresh.body_state == Statement.CONTENT_STATE_UNSPECIFIED
    await logged(database, mesh)
    await stamp_all(stamper_over(database, mesh))
    done = await get(evidence, entry.statement)
    assert done.log_index >= 0
    assert done.time_stamp_state == Statement.TIME_STAMP_STATE_BATCHED
    assert done.HasField("time_stamp_time")
    assert records.time_stamp(done.evidence_record)
    assert hashlib.sha256(done.certificate).digest() == entry.signature.certificate_sha256


async def test_a_container_is_refused_while_its_stamp_is_to_come_and_proven_afterwards(
    database, journal, evidence, mesh
):
    entry = mesh.entry(mesh.signer())
    await journal.append(entry)
    asked = evidence_pb2.ExportEvidenceRequest(name=name(entry.statement))
    with pytest.raises(FailedPrecondition, match="EVIDENCE_PENDING"):
        await whole(evidence.ExportEvidence(asked))
    asked.allow_pending = True
    report = verifying.verify(await whole(evidence.ExportEvidence(asked)), anchors=mesh.anchors)
    assert report.outcome is verifying.Outcome.UNKNOWN
    await stamp_all(stamper_over(database, mesh))
    asked.allow_pending = False
    pieces = [piece async for piece in evidence.ExportEvidence(asked)]
    assert pieces[0].content_type == "application/vnd.etsi.asic-e+zip"
    content = b"".join(piece.data for piece in pieces)
    assert zipfile.ZipFile(io.BytesIO(content)).read("statement.txt") == entry.statement.content
    assert verifying.verify(content, anchors=mesh.anchors).outcome is verifying.Outcome.HOLDS


async def test_what_is_anothers_is_not_found(database, journal, keeping, mesh):
    entry = mesh.entry(mesh.signer(), content=Content(head=b"POST\r\n/\r\n"))
    await journal.append(entry)
    stranger = over(database, keeping, [OTHER])
    with pytest.raises(NotFound, match="RESOURCE_NOT_FOUND"):
        await get(stranger, entry.statement)
    for stream in (
        stranger.ExportEvidence(evidence_pb2.ExportEvidenceRequest(name=name(entry.statement), allow_pending=True)),
        stranger.DownloadContent(evidence_pb2.DownloadContentRequest(name=f"{name(entry.statement)}/contents/head")),
    ):
        with pytest.raises(NotFound, match="RESOURCE_NOT_FOUND"):
            await whole(stream)
    with pytest.raises(NotFound, match="RESOURCE_NOT_FOUND"):
        await stranger.RetainStatement(evidence_pb2.RetainStatementRequest(name=name(entry.statement)))


async def test_content_is_downloaded_from_any_place_while_it_is_kept(database, journal, evidence, mesh):
    body = bytes(range(256)) * 2000
    lines = {"body_sha256": hashlib.sha256(body).hexdigest(), "body_bytes": str(len(body))}
    entry = mesh.entry(mesh.signer(), request(**lines), content=Content(head=b"POST\r\n/\r\n", body=body))
    await journal.append(entry)
    asked = evidence_pb2.DownloadContentRequest(name=f"{name(entry.statement)}/contents/body")
    assert await whole(evidence.DownloadContent(asked)) == body
    asked.offset = 300_000
    assert await whole(evidence.DownloadContent(asked)) == body[300_000:]
    trailers = evidence_pb2.DownloadContentRequest(name=f"{name(entry.statement)}/contents/trailers")
    assert await whole(evidence.DownloadContent(trailers)) == b""
    await database.execute(
        "update evidence set content_expire_time = now() where seq = (select seq from statement where sha256 = $1)",
        entry.statement.sha256,
    )
    asked.offset = 0
    with pytest.raises(NotFound, match="CONTENT_NOT_KEPT"):
        await whole(evidence.DownloadContent(asked))
    assert (await get(evidence, entry.statement)).body_state == Statement.CONTENT_STATE_ERASED


async def test_statements_are_listed_latest_first_page_after_page(journal, evidence, mesh):
    entries = [mesh.entry(mesh.signer(), subsystem=OTHER) for _ in range(5)]
    for entry in entries:
        await journal.append(entry)
    named = Requester(subsystem=f"subsystems/{OTHER.replace('/', '~')}")
    asked = evidence_pb2.ListStatementsRequest(requester=named, page_size=2)
    found: list[str] = []
    while True:
        page = await evidence.ListStatements(asked)
        found += [each.name for each in page.statements]
        if not page.next_page_token:
            break
        asked.page_token = page.next_page_token
    assert found[:5] == [name(entry.statement) for entry in reversed(entries)]
    assert len(found) == len(set(found))
    asked.page_token = ""
    asked.subject = f"exchanges/{entries[1].statement.lines['id']}"
    assert [each.name for each in (await evidence.ListStatements(asked)).statements] == [name(entries[1].statement)]
    asked.kinds.append(Statement.KIND_RESPONSE)
    assert not (await evidence.ListStatements(asked)).statements
    by_time = evidence_pb2.ListStatementsRequest(
        requester=named, end_time=stamp(datetime.now(UTC) - timedelta(hours=1))
    )
    assert not (await evidence.ListStatements(by_time)).statements


async def test_who_stands_for_several_subsystems_names_one(database, keeping):
    with pytest.raises(InvalidArgument, match="REQUESTER_INVALID"):
        await over(database, keeping, [SUBSYSTEM, OTHER]).ListStatements(evidence_pb2.ListStatementsRequest())


async def test_a_refused_proof_is_evidence_with_its_defect(database, journal, evidence, log_service, mesh):
    statement = request(receiver=f"service {SUBSYSTEM}/persons")
    entry = mesh.entry(mesh.signer(), statement)
    await journal.refuse(
        exchange_id=statement.lines["id"],
        node="FI/COM/1/n",
        reason="SIGNATURE_INVALID",
        proof=entry.proof,
        side=exchanges_pb2.SIDE_PROVIDER,
    )
    shown = await get(evidence, statement)
    assert (shown.defect, shown.own, shown.kind) == ("SIGNATURE_INVALID", False, Statement.KIND_REQUEST)
    assert shown.proof == entry.proof
    listed = await evidence.ListStatements(evidence_pb2.ListStatementsRequest(defective_only=True, page_size=1))
    assert [each.name for each in listed.statements] == [name(statement)]
    await logged(database, mesh)
    proof = await log_service.GetInclusionProof(evidence_log_pb2.GetInclusionProofRequest(name=name(statement)))
    leaf = log.parse_leaf(proof.leaf)
    assert (leaf.statement_sha256, leaf.value, leaf.own) == (statement.sha256, b"", False)


async def test_what_was_refused_and_cannot_be_read_is_kept_all_the_same(database, journal, mesh):
    entry = mesh.entry(mesh.signer())
    proof = entry.proof
    proof.statement = b"nonsense \xff"
    await journal.refuse(
        exchange_id="no id", node="", reason="STATEMENT_MALFORMED", proof=proof, side=exchanges_pb2.SIDE_PROVIDER
    )
    await logged(database, mesh)
    row = await database.fetchrow("select * from refused_proof where statement = $1", proof.statement)
    assert row["subsystem"] == ""
    assert row["log_index"] is not None


async def test_a_statement_is_retained_for_longer_and_never_for_less(journal, evidence, mesh):
    entry = mesh.entry(mesh.signer())
    await journal.append(entry)
    before = (await get(evidence, entry.statement)).expire_time.ToDatetime(UTC)
    later = stamp(before + timedelta(days=100))
    asked = evidence_pb2.RetainStatementRequest(name=name(entry.statement), expire_time=later)
    assert (await evidence.RetainStatement(asked)).expire_time == later
    asked.expire_time.FromDatetime(before)
    assert (await evidence.RetainStatement(asked)).expire_time == later


async def test_receipts_belong_to_what_they_answer(journal, evidence, mesh):
    for own, collection in ((False, "envelopes"), (True, "deliveries")):
        statement = samples.statement(Kind.RECEIPT, id=request().lines["id"])
        await journal.append(mesh.entry(mesh.signer(), statement, own=own))
        subject = f"subsystems/{SUBSYSTEM.replace('/', '~')}/{collection}/{statement.lines['id']}"
        assert (await get(evidence, statement)).subject == subject


def stamp(time: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(time)
    return made


async def test_proofs_of_the_log_compute_to_its_signed_heads(database, journal, log_service, mesh):
    entry = mesh.entry(mesh.signer())
    await journal.append(entry)
    key = await logged(database, mesh)
    first = await log_service.GetTreeHead(evidence_log_pb2.GetTreeHeadRequest(name="nodes/-/treeHeads/latest"))
    assert first.name == f"nodes/{NODE.replace('/', '~')}/treeHeads/{first.tree_size}"
    head = log.verify_head(first.tree_head, first.signature, key.pinned)
    assert (head.size, head.root) == (first.tree_size, first.root_hash)
    included = await log_service.GetInclusionProof(
        evidence_log_pb2.GetInclusionProofRequest(name=name(entry.statement))
    )
    leaf = log.check_inclusion(included.leaf, included.leaf_index, head, included.path)
    assert leaf.statement_sha256 == entry.statement.sha256
    later = mesh.entry(mesh.signer())
    await journal.append(later)
    await logged(database, mesh)
    with pytest.raises(FailedPrecondition, match="EVIDENCE_PENDING"):
        await log_service.GetInclusionProof(
            evidence_log_pb2.GetInclusionProofRequest(name=name(later.statement), tree_size=first.tree_size)
        )
    proof = await log_service.GetConsistencyProof(
        evidence_log_pb2.GetConsistencyProofRequest(
            name=f"nodes/{NODE.replace('/', '~')}/treeHeads/latest", first_size=first.tree_size
        )
    )
    log.check_continues(head, log.parse_head(proof.second.tree_head), proof.path)
    leaves = await log_service.ListLeafHashes(
        evidence_log_pb2.ListLeafHashesRequest(parent="nodes/-", page_size=50_000)
    )
    hashes = [leaves.hashes[at : at + 32] for at in range(0, len(leaves.hashes), 32)]
    assert merkle.root_of(hashes[: first.tree_size]) == first.root_hash


async def test_heads_are_listed_and_stamped(database, journal, log_service, mesh):
    await journal.append(mesh.entry(mesh.signer()))
    await logged(database, mesh)
    await stamp_all(stamper_over(database, mesh))
    listed = await log_service.ListTreeHeads(evidence_log_pb2.ListTreeHeadsRequest(parent="nodes/-", page_size=1))
    (head,) = listed.tree_heads
    group = (hashlib.sha256(head.tree_head).digest(),)
    records.verify(head.evidence_record, group, authorities=mesh.anchors.authorities)


@pytest.mark.parametrize(
    "asked",
    [
        evidence_log_pb2.GetTreeHeadRequest(name="nodes/-/treeHeads/999999999"),
        evidence_log_pb2.GetTreeHeadRequest(name="nodes/FI~COM~1~n/treeHeads/latest"),
        evidence_log_pb2.GetInclusionProofRequest(name=f"statements/{'0' * 64}"),
        evidence_log_pb2.GetConsistencyProofRequest(name="nodes/-/treeHeads/latest", first_size=999_999_999),
        evidence_log_pb2.ListLeafHashesRequest(parent="nodes/FI~COM~1~n"),
    ],
    ids=lambda asked: asked.DESCRIPTOR.name,
)
async def test_what_the_log_does_not_have_is_not_found(database, journal, log_service, mesh, asked):
    await journal.append(mesh.entry(mesh.signer()))
    await logged(database, mesh)
    method = getattr(log_service, asked.DESCRIPTOR.name.removesuffix("Request"))
    with pytest.raises(Fault, match="RESOURCE_NOT_FOUND"):
        await method(asked)
