"""EvidenceService: statements with what proves them, containers, content that is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from uuid import UUID

from google.api import httpbody_pb2
from solmu.exchange.v1 import evidence_pb2, statements_pb2
from solmu.exchange.v1.identifiers_pb2 import Requester

from services.exchange import evidence_store, proofs
from services.exchange.evidence import container, statements
from services.exchange.evidence.statements import Kind
from services.exchange.evidence_batches import Batches
from services.exchange.journal_store import KINDS
from services.exchange.keeping import Keeping
from services.runtime import pages
from services.runtime.database import Database, Row
from services.runtime.errors import FailedPrecondition, Fault, InvalidArgument, NotFound, not_found

Statement = evidence_pb2.Statement

PAGE = 100
PIECE = 256 * 1024
"""Bytes of a container in one message."""

SHOWN = (Statement.CONTENT_STATE_KEPT, Statement.CONTENT_STATE_ENCRYPTED)

Seen = Callable[[Requester], Sequence[str]]
"""The subsystems in whose name the caller looks, one at least, spelt with "/".

Raises the refusals of `Requester`.
"""


class Evidence:
    """Looks up and exports evidence."""

    def __init__(self, *, database: Database, keeping: Keeping, batches: Batches, seen: Seen) -> None:
        self._database = database
        self._keeping = keeping
        self._batches = batches
        self._seen = seen

    async def GetStatement(self, request: evidence_pb2.GetStatementRequest) -> Statement:
        """A statement with what proves it."""
        subsystems = self._seen(request.requester)
        row = await evidence_store.statement(self._database, _sha256(request.name), subsystems=subsystems)
        if row is not None:
            return await self._view(row)
        refused = await evidence_store.refused(self._database, _sha256(request.name), subsystems=subsystems)
        if refused is None:
            raise not_found(request.name)
        return _refused_view(refused)

    async def ListStatements(self, request: evidence_pb2.ListStatementsRequest) -> evidence_pb2.ListStatementsResponse:
        """Statements, latest first."""
        subsystem, *others = self._seen(request.requester)
        if others:
            raise InvalidArgument("REQUESTER_INVALID", "name the subsystem in whose name this is asked")
        size = pages.size(request.page_size, PAGE)
        question = f"{subsystem} {request.subject} {sorted(request.kinds)} {request.defective_only}"
        before = pages.key(request.page_token, question=question)
        exchange_id = UUID(request.subject.rsplit("/", 1)[-1]) if request.subject else None
        start = request.start_time.ToDatetime(UTC) if request.HasField("start_time") else None
        end = request.end_time.ToDatetime(UTC) if request.HasField("end_time") else None
        response = evidence_pb2.ListStatementsResponse()
        if request.defective_only:
            rows = await evidence_store.refusals(
                self._database,
                subsystem=subsystem,
                exchange_id=exchange_id,
                start=start,
                end=end,
                before=UUID(before) if before else None,
                limit=size + 1,
            )
            response.statements.extend(_refused_view(row) for row in rows[:size])
            last = "refused_proof_id"
        else:
            rows = await evidence_store.statements(
                self._database,
                subsystem=subsystem,
                exchange_id=exchange_id,
                kinds=list(request.kinds),
                start=start,
                end=end,
                before=int(before) if before else None,
                limit=size + 1,
            )
            response.statements.extend([await self._view(row) for row in rows[:size]])
            last = "seq"
        if len(rows) > size:
            response.next_page_token = pages.token(str(rows[size - 1][last]), question=question)
        return response

    async def ExportEvidence(self, request: evidence_pb2.ExportEvidenceRequest) -> AsyncIterator[httpbody_pb2.HttpBody]:
        """The container of a statement."""
        row = await self._row(request.name, self._seen(request.requester))
        pending = row["stamp_state"] == Statement.TIME_STAMP_STATE_PENDING
        if pending and not request.allow_pending:
            raise FailedPrecondition("EVIDENCE_PENDING", "the statement's time stamp is still to come")
        batch = await self._batches.get(row["stamp_batch"]) if row["stamp_batch"] else None
        file = proofs.whole(row, batch)
        for at in range(0, len(file), PIECE):
            media_type = container.MEDIA_TYPE if at == 0 else ""
            yield httpbody_pb2.HttpBody(content_type=media_type, data=file[at : at + PIECE])

    async def DownloadContent(
        self, request: evidence_pb2.DownloadContentRequest
    ) -> AsyncIterator[httpbody_pb2.HttpBody]:
        """Content whose digest a statement holds, while it is kept."""
        row = await self._row(request.name, self._seen(Requester()))
        part = request.name.rsplit("/", 1)[-1]
        state = row["head_state"] if part == "head" else row["body_state"]
        if state not in SHOWN or _is_over(row):
            raise NotFound("CONTENT_NOT_KEPT", "the content is not kept, or no longer")
        media_type = "application/octet-stream"
        async for piece in self._keeping.read(self._database, row, part, offset=request.offset):
            yield httpbody_pb2.HttpBody(content_type=media_type, data=piece)
            media_type = ""  # in the first message only

    async def RetainStatement(self, request: evidence_pb2.RetainStatementRequest) -> Statement:
        """Has a statement, and what is kept of its content, kept for longer."""
        subsystems = self._seen(Requester())
        row = await self._row(request.name, subsystems)
        until = request.content_expire_time.ToDatetime(UTC) if request.HasField("content_expire_time") else None
        await evidence_store.retain(
            self._database, row["seq"], expire=request.expire_time.ToDatetime(UTC), content_expire=until
        )
        return await self._view(await self._row(request.name, subsystems))

    async def _row(self, name: str, subsystems: Sequence[str]) -> Row:
        row = await evidence_store.statement(self._database, _sha256(name), subsystems=subsystems)
        if row is None:
            raise not_found("/".join(name.split("/")[:2]))
        return row

    async def _view(self, row: Row) -> Statement:
        view = _view(row)
        if row["stamp_batch"]:
            batch = await self._batches.get(row["stamp_batch"])
            view.evidence_record = batch.record(proofs.signed(row).group, row["stamp_place"])
        return view


def _view(row: Row) -> Statement:
    """A statement, but for its evidence record."""
    said = statements.parse(row["content"])
    view = Statement(
        name=f"statements/{row['sha256'].hex()}",
        kind=row["kind"],
        proof=statements_pb2.Proof(
            statement=row["content"],
            signature=statements_pb2.Signature.FromString(row["signature"]),
            certificate_status=row["answer"] or b"",
            time_stamp=row["time_stamp"],
        ),
        own=row["own"],
        signer=_resource("members", said.member),
        certificate=row["certificate"] or b"",
        subject=_subject(row["kind"], own=row["own"], subsystem=row["subsystem"], exchange_id=row["exchange_id"]),
        log_index=-1 if row["log_index"] is None else row["log_index"],
        time_stamp_state=row["stamp_state"],
        head_state=_left(row, "head_state"),
        body_state=_left(row, "body_state"),
    )
    view.create_time.FromDatetime(row["append_time"])
    view.expire_time.FromDatetime(row["expire_time"])
    if row["content_expire_time"] is not None:
        view.content_expire_time.FromDatetime(row["content_expire_time"])
    if row["stamp_time"] is not None:
        view.time_stamp_time.FromDatetime(row["stamp_time"])
    return view


def _refused_view(row: Row) -> Statement:
    """What was refused, as far as it can be understood."""
    view = Statement(
        name=f"statements/{row['sha256'].hex()}",
        proof=statements_pb2.Proof(
            statement=row["content"],
            signature=statements_pb2.Signature.FromString(row["signature"]),
            certificate_status=row["certificate_status"],
        ),
        defect=row["reason"],
        log_index=-1 if row["log_index"] is None else row["log_index"],
        time_stamp_state=Statement.TIME_STAMP_STATE_NONE,
    )
    view.create_time.FromDatetime(row["refuse_time"])
    try:
        said = statements.parse(row["content"])
    except Fault:
        return view
    view.kind = KINDS[said.kind]  # type: ignore[assignment]
    view.signer = _resource("members", said.member)
    view.subject = _subject(KINDS[said.kind], own=False, subsystem=row["subsystem"], exchange_id=UUID(said.lines["id"]))
    return view


def _subject(kind: int, *, own: bool, subsystem: str, exchange_id: UUID) -> str:
    """What a statement belongs to."""
    if kind <= KINDS[Kind.REFUSAL]:
        return f"exchanges/{exchange_id}"
    sent = own if kind == KINDS[Kind.ENVELOPE] else not own  # receipts go the other way
    return f"{_resource('subsystems', subsystem)}/{'envelopes' if sent else 'deliveries'}/{exchange_id}"


def _left(row: Row, name: str) -> Statement.ContentState.ValueType:
    """What is left of content: nothing once its time is over, whether it was swept yet or not."""
    state: Statement.ContentState.ValueType = row[name]
    return Statement.CONTENT_STATE_ERASED if state in SHOWN and _is_over(row) else state


def _is_over(row: Row) -> bool:
    return row["content_expire_time"] is not None and row["content_expire_time"] <= datetime.now(UTC)


def _sha256(name: str) -> bytes:
    return bytes.fromhex(name.split("/")[1])


def _resource(collection: str, identifier: str) -> str:
    return f"{collection}/{identifier.replace('/', '~')}"
