"""AuditService: reads the record of decisions and changes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

from solmu.authorisations.v1 import audit_pb2
from solmu.authorisations.v1.audit_pb2 import AuditRecord
from solmu.authorisations.v1.parties_pb2 import Party

from services.authorisations import audit_store, callers, messages
from services.authorisations.audit_log import AuditLog
from services.runtime import pages
from services.runtime.database import Database, Row
from services.runtime.errors import not_found
from services.runtime.parties import PartyNames

EXPORT_BATCH = 500
"""Entries of the chain read at once."""

_METHOD = f"{audit_pb2.DESCRIPTOR.package}.AuditService"


class AuditServicer:
    """Answers AuditService."""

    def __init__(self, *, database: Database, audit: AuditLog, parties: PartyNames) -> None:
        self._database = database
        self._audit = audit
        self._parties = parties

    async def ListOwnAuditRecords(
        self, request: audit_pb2.ListOwnAuditRecordsRequest
    ) -> audit_pb2.ListOwnAuditRecordsResponse:
        """Lists the entries that concern the caller's party, without what only auditors see."""
        party = callers.party_actor().party
        question, size = f"own audit records {party} {_span(request)}", pages.size(request.page_size)
        rows = await audit_store.page(
            self._database,
            party=party,
            start=_instant(request, "start_time"),
            end=_instant(request, "end_time"),
            before=_before(request.page_token, question),
            size=size + 1,
        )
        return audit_pb2.ListOwnAuditRecordsResponse(
            records=[_for_party(_record(row), party) for row in rows[:size]],
            next_page_token=_next(rows, size, question),
        )

    async def SearchAuditRecords(
        self, request: audit_pb2.SearchAuditRecordsRequest
    ) -> audit_pb2.SearchAuditRecordsResponse:
        """Finds entries, and records that somebody looked."""
        named = request.HasField("party")
        party = messages.party_name(request.party, self._parties, field="party") if named else ""
        question = f"audit records {party} {request.client} {request.resource} {sorted(request.kinds)} {_span(request)}"
        size = pages.size(request.page_size)
        rows = await audit_store.page(
            self._database,
            party=party,
            client=request.client,
            resource=request.resource,
            kinds=request.kinds,
            start=_instant(request, "start_time"),
            end=_instant(request, "end_time"),
            before=_before(request.page_token, question),
            size=size + 1,
        )
        records = [_record(row) for row in rows[:size]]
        looked_up = {one.name for record in records for one in record.parties} | {party}
        await self._look_up("SearchAuditRecords", looked_up, purpose=request.purpose)
        return audit_pb2.SearchAuditRecordsResponse(records=records, next_page_token=_next(rows, size, question))

    async def ExportAuditRecords(
        self, request: audit_pb2.ExportAuditRecordsRequest
    ) -> AsyncIterator[audit_pb2.ExportAuditRecordsResponse]:
        """Streams the chain as it is hashed."""
        async with self._database.transaction() as transaction:
            newest, _ = await audit_store.last_link(transaction)
        first, last = request.first_sequence or 1, min(request.last_sequence or newest, newest)
        await self._look_up("ExportAuditRecords", set())
        while first <= last:
            for row in await audit_store.chain(self._database, first=first, last=last, limit=EXPORT_BATCH):
                yield audit_pb2.ExportAuditRecordsResponse(**dict(row))
                first = row["sequence"] + 1

    async def GetAuditHead(self, _: audit_pb2.GetAuditHeadRequest) -> audit_pb2.AuditHead:
        """Returns the newest signed head."""
        row = await audit_store.last_head(self._database)
        if row is None:
            raise not_found("auditHeads/latest")
        return _head(row)

    async def ListAuditHeads(self, request: audit_pb2.ListAuditHeadsRequest) -> audit_pb2.ListAuditHeadsResponse:
        """Lists signed heads, the newest first."""
        size = pages.size(request.page_size)
        before = int(pages.key(request.page_token, question="audit heads") or 0)
        rows = await audit_store.heads(self._database, before=before, size=size + 1)
        more = pages.token(str(rows[size - 1]["sequence"]), question="audit heads") if len(rows) > size else ""
        return audit_pb2.ListAuditHeadsResponse(heads=[_head(row) for row in rows[:size]], next_page_token=more)

    async def _look_up(self, method: str, parties: set[str], *, purpose: str = "") -> None:
        record = AuditRecord(
            kind=AuditRecord.KIND_LOOKUP,
            actor=messages.actor(callers.actor()),
            method=f"{_METHOD}/{method}",
            parties=[Party(name=party) for party in sorted(parties) if party],
            purpose=purpose,
        )
        await self._audit.record([record])


def _record(row: Row) -> AuditRecord:
    record = AuditRecord.FromString(row["content"])
    record.sequence = row["sequence"]
    return record


def _for_party(record: AuditRecord, party: str) -> AuditRecord:
    """An entry as one of its parties sees it: who asked and what was answered, and of many parties itself only."""
    record.ClearField("check_steps")
    record.ClearField("purpose")
    record.ClearField("trace_id")
    if not record.HasField("check_request"):
        del record.parties[:]
        record.parties.add(name=party)
    return record


def _head(row: Row) -> audit_pb2.AuditHead:
    return audit_pb2.AuditHead(
        name=f"auditHeads/{row['head']}",
        sequence=row["sequence"],
        hash=row["hash"],
        sign_time=messages.timestamp(row["sign_time"]),
        jws=row["jws"],
    )


_Spanned = audit_pb2.ListOwnAuditRecordsRequest | audit_pb2.SearchAuditRecordsRequest


def _instant(request: _Spanned, field: Literal["start_time", "end_time"]) -> datetime | None:
    return messages.instant(getattr(request, field)) if request.HasField(field) else None


def _span(request: _Spanned) -> str:
    return f"{request.start_time.ToNanoseconds()} {request.end_time.ToNanoseconds()}"


def _before(page_token: str, question: str) -> UUID | None:
    key = pages.key(page_token, question=question)
    return UUID(key) if key else None


def _next(rows: Sequence[Row], size: int, question: str) -> str:
    return pages.token(str(rows[size - 1]["record"]), question=question) if len(rows) > size else ""
