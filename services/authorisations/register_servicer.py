"""RegisterService: knows the registers and takes in what they say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from solmu.authorisations.v1 import registers_pb2
from solmu.authorisations.v1.audit_pb2 import AuditRecord
from solmu.authorisations.v1.events_pb2 import DeathsChanged, RegisterImported
from solmu.authorisations.v1.parties_pb2 import Party, ValidityPeriod
from solmu.authorisations.v1.register_records_pb2 import RegisterRecord

from services.authorisations import (
    callers,
    fact_store,
    issuing,
    mandate_store,
    messages,
    records,
    register_store,
    registers,
)
from services.authorisations.audit_log import AuditLog
from services.authorisations.mandates import Cause
from services.authorisations.register_facts import RegisterFacts
from services.authorisations.registers import BANKRUPTCY, CARE_ROLES, DISSOLUTION, Stream
from services.authorisations.revisions import Revisions, Write
from services.authorisations.theme_store import ThemeStore
from services.runtime import pages
from services.runtime.database import Database, Row
from services.runtime.errors import Aborted, Fault, InvalidArgument, PermissionDenied, not_found
from services.runtime.facts.checking import DEAD
from services.runtime.outbox import Event, event
from services.runtime.parties import PartyNames

CHANGEABLE = ("display_name", "importer", "contents", "greatest_age")
"""Fields of a register that an update may name."""

DEATHS_IN_AN_EVENT = 1_000
"""Some 150 KB; NATS takes a megabyte."""

Request = registers_pb2.ImportRecordsRequest


@dataclass
class _Arrival:
    """An import that is arriving."""

    import_id: UUID
    header: Request.Header
    as_of: datetime
    stream: Stream
    announced: int | None = None
    ending: list[tuple[str, str, int]] = field(default_factory=list)
    """Parties whose mandates end: the party, the record that says so, and an organisation's phase or 0 for a death."""

    @property
    def register_id(self) -> str:
        return self.header.register.removeprefix("registers/")

    @property
    def snapshot(self) -> bool:
        return self.header.mode == registers_pb2.Import.MODE_SNAPSHOT


class RegisterServicer:
    """Answers RegisterService. `clock` gives the time, with its zone."""

    def __init__(
        self,
        *,
        database: Database,
        revisions: Revisions,
        themes: ThemeStore,
        facts: RegisterFacts,
        issuing: issuing.Issuing,
        audit: AuditLog,
        parties: PartyNames,
        clock: Callable[[], datetime],
        new_id: Callable[[], UUID],
    ) -> None:
        self._database = database
        self._revisions = revisions
        self._themes = themes
        self._facts = facts
        self._issuing = issuing
        self._audit = audit
        self._parties = parties
        self._clock = clock
        self._new_id = new_id

    async def CreateRegister(self, request: registers_pb2.CreateRegisterRequest) -> registers_pb2.Register:
        """Makes a register known."""
        asked = request.register
        async with self._revisions.writing("RegisterService/CreateRegister") as write:
            values = _values(asked) | {"register_id": request.register_id, "create_time": self._clock()}
            await register_store.insert(write.transaction, values)
            write.note(AuditRecord.KIND_REGISTER, f"registers/{request.register_id}")
            row = await _told(write, request.register_id)
        return _register(row, write.token)

    async def GetRegister(self, request: registers_pb2.GetRegisterRequest) -> registers_pb2.Register:
        """Returns a register."""
        token = await self._revisions.head(request.consistency_token)
        row = await register_store.find(self._database, _id(request.name))
        if row is None:
            raise not_found(request.name)
        return _register(row, token)

    async def ListRegisters(self, request: registers_pb2.ListRegistersRequest) -> registers_pb2.ListRegistersResponse:
        """Returns a page of registers."""
        token = await self._revisions.head(request.consistency_token)
        size = pages.size(request.page_size)
        after = pages.key(request.page_token, question="registers")
        rows = await register_store.page(self._database, after=after, size=size + 1)
        more = len(rows) > size
        return registers_pb2.ListRegistersResponse(
            registers=[_register(row) for row in rows[:size]],
            next_page_token=pages.token(rows[size - 1]["register_id"], question="registers") if more else "",
            consistency_token=token,
        )

    async def UpdateRegister(self, request: registers_pb2.UpdateRegisterRequest) -> registers_pb2.Register:
        """Changes a register."""
        asked = request.register
        paths = list(request.update_mask.paths) or [one.name for one, _ in asked.ListFields() if one.name in CHANGEABLE]
        for path in paths:
            if path not in CHANGEABLE:
                raise InvalidArgument("UPDATE_MASK_INVALID", f"{path} cannot be changed", field=path)
        async with self._revisions.writing("RegisterService/UpdateRegister") as write:
            row = await register_store.find(write.transaction, _id(asked.name))
            if row is None:
                raise not_found(asked.name)
            if asked.etag and asked.etag != str(row["revision"]):
                raise Aborted("ETAG_MISMATCH", "the register has changed; read it again", resource=asked.name)
            fresh = dict(row) | {key: value for key, value in _values(asked).items() if key in paths}
            await register_store.update(write.transaction, fresh)
            write.note(AuditRecord.KIND_REGISTER, asked.name)
            row = await _told(write, _id(asked.name))
        return _register(row, write.token)

    async def ImportRecords(self, parts: AsyncIterator[Request]) -> registers_pb2.Import:
        """Takes in a snapshot or a delta, whole or not at all."""
        arrival = await self._begin(parts)
        request_id = UUID(arrival.header.request_id)
        known = await register_store.find_import(self._database, arrival.register_id, request_id=request_id)
        if known is not None:
            return _import(known)
        try:
            await self._receive(parts, arrival)
            async with self._revisions.writing("RegisterService/ImportRecords") as write:
                row = await self._apply(write, arrival)
        finally:
            await register_store.leave(self._database, arrival.import_id)
        return _import(row)

    async def GetImport(self, request: registers_pb2.GetImportRequest) -> registers_pb2.Import:
        """Returns an import."""
        row = await register_store.get_import(self._database, _id(request.name), messages.uid(request.name, 3))
        if row is None:
            raise not_found(request.name)
        return _import(row)

    async def ListImports(self, request: registers_pb2.ListImportsRequest) -> registers_pb2.ListImportsResponse:
        """Returns a page of a register's imports."""
        question, size = f"imports {request.parent}", pages.size(request.page_size)
        key = pages.key(request.page_token, question=question)
        rows = await register_store.imports(
            self._database, _id(request.parent), before=UUID(key) if key else None, size=size + 1
        )
        more = len(rows) > size
        return registers_pb2.ListImportsResponse(
            imports=[_import(row) for row in rows[:size]],
            next_page_token=pages.token(str(rows[size - 1]["import_id"]), question=question) if more else "",
        )

    async def SearchRecords(self, request: registers_pb2.SearchRecordsRequest) -> registers_pb2.SearchRecordsResponse:
        """Finds what the registers say about a party, and records that somebody looked."""
        token = await self._revisions.head(request.consistency_token)
        party = messages.party_name(request.party, self._parties, field="party")
        at = messages.instant(request.at) if request.HasField("at") else self._clock()
        question, size = f"records {party} {request.at.ToNanoseconds()}", pages.size(request.page_size)
        first = int(pages.key(request.page_token, question=question) or 0)
        rows = await register_store.about(self._database, party, at=at)
        await self._audit.record(
            [
                AuditRecord(
                    kind=AuditRecord.KIND_LOOKUP,
                    actor=messages.actor(callers.actor()),
                    method=f"{registers_pb2.DESCRIPTOR.package}.RegisterService/SearchRecords",
                    parties=[Party(name=party)],
                    purpose=request.purpose,
                )
            ]
        )
        last = first + size
        return registers_pb2.SearchRecordsResponse(
            records=[_record(row) for row in rows[first:last]],
            next_page_token=pages.token(str(last), question=question) if len(rows) > last else "",
            consistency_token=token,
        )

    async def _begin(self, parts: AsyncIterator[Request]) -> _Arrival:
        first = await anext(parts, None)
        if first is None or not first.HasField("header"):
            raise registers.invalid([("header", "the stream does not begin with its header")])
        header = first.header
        row = await register_store.find(self._database, _id(header.register))
        if row is None:
            raise not_found(header.register)
        if callers.actor().client != row["importer"]:
            raise PermissionDenied("IMPORTER_NOT_ALLOWED", "the client is not the register's importer")
        snapshot = header.mode == registers_pb2.Import.MODE_SNAPSHOT
        return _Arrival(
            self._new_id(), header, messages.instant(header.as_of), Stream(frozenset(row["contents"]), snapshot)
        )

    async def _receive(self, parts: AsyncIterator[Request], arrival: _Arrival) -> None:
        """Checks and keeps what arrives. Raises InvalidArgument, IMPORT_INVALID."""
        try:
            async for part in parts:
                if part.HasField("header") or arrival.announced is not None:
                    raise registers.invalid([("part", "the parts are in the wrong order")])
                if part.HasField("trailer"):
                    arrival.announced = part.trailer.record_count
                else:
                    await self._keep(part.batch, arrival)
        except Fault as fault:
            if fault.reason != "FIELD_INVALID":
                raise
            broken = [(f"records[{arrival.stream.count}+].{path}", text) for path, text in fault.violations]
            raise registers.invalid(arrival.stream.faults + broken) from None
        arrival.stream.close(arrival.announced)

    async def _keep(self, batch: Request.Batch, arrival: _Arrival) -> None:
        good = []
        for message in batch.records:
            try:
                said = records.said(message, as_of=arrival.as_of, parties=self._parties, zone=self._facts.zone)
            except Fault as fault:
                arrival.stream.take(fault)
                continue
            arrival.stream.take(said)
            record = self._new_id()
            sealer = self._facts.birth_days
            birth_day = sealer.seal(said.birth_day, record=record) if said.birth_day else None
            good.append((record, said, sealer.digest(message.SerializeToString(deterministic=True)), birth_day))
            if said.death is not None or said.phase in (BANKRUPTCY, DISSOLUTION):
                name = f"{arrival.header.register}/records/{record}"
                if (said.start or arrival.as_of) <= self._clock():
                    arrival.ending.append((said.subject, name, said.phase))
        if good and not arrival.stream.faults:
            await register_store.arrive(self._database, arrival.import_id, good)

    async def _apply(self, write: Write, arrival: _Arrival) -> dict[str, Any]:
        register = await register_store.find(write.transaction, arrival.register_id)
        assert register is not None
        latest = register["latest_import"]
        now = self._clock()
        registers.in_order(
            register=arrival.header.register,
            snapshot=arrival.snapshot,
            builds_on=arrival.header.builds_on,
            latest=f"{arrival.header.register}/imports/{latest}" if latest else "",
            as_of=arrival.as_of,
            latest_as_of=register["as_of"],
            now=now,
        )
        unknown = await register_store.unknown_removals(write.transaction, arrival.register_id, arrival.import_id)
        if unknown:
            raise registers.invalid([("records", f"{len(unknown)} records are removed that are not there")])
        added, changed, ended = await register_store.apply(
            write.transaction,
            arrival.register_id,
            arrival.import_id,
            snapshot=arrival.snapshot,
            as_of=arrival.as_of,
        )
        ages = messages.ages_named(await self._themes.in_use(write.transaction))
        touched = await register_store.touched(write.transaction, arrival.register_id, arrival.import_id, arrival.as_of)
        write.changes += [fact_store.record_change(row, self._facts, ages) for row in touched]
        values = {
            "import_id": arrival.import_id,
            "register_id": arrival.register_id,
            "request_id": UUID(arrival.header.request_id),
            "mode": arrival.header.mode,
            "as_of": arrival.as_of,
            "create_time": now,
            "record_count": arrival.stream.count,
            "added_count": added,
            "changed_count": changed,
            "ended_count": ended,
            "mandates_ended_count": await self._end_mandates(write, arrival, now)
            + await self._end_with_care(write, touched, now),
            "importer": callers.actor().client,
            "token": write.token,
        }
        await register_store.keep_import(write.transaction, values)
        await _told(write, arrival.register_id)
        name = f"{arrival.header.register}/imports/{arrival.import_id}"
        write.note(AuditRecord.KIND_REGISTER, name)
        write.events.append(event(RegisterImported(name=name, as_of=arrival.header.as_of), now=now))
        write.events += await _deaths(write, touched, now)
        return values

    async def _end_mandates(self, write: Write, arrival: _Arrival, now: datetime) -> int:
        """Ends the mandates of those who died, and of organisations that ended or went bankrupt."""
        count = 0
        by_party = {party: (record, phase) for party, record, phase in arrival.ending}
        for mandate in await mandate_store.open_of(write.transaction, sorted(by_party)):
            for party, died in ((mandate.principal, Cause.PRINCIPAL_DIED), (mandate.delegate, Cause.DELEGATE_DIED)):
                if party not in by_party:
                    continue
                record, phase = by_party[party]
                if phase == BANKRUPTCY and party != mandate.principal:
                    continue
                cause = Cause.ORGANISATION_ENDED if phase else died
                count += await self._issuing.end(write, mandate, cause, record=record, now=now)
                break
        return count

    async def _end_with_care(self, write: Write, touched: Sequence[Row], now: datetime) -> int:
        """Ends the mandates that custodians and guardians gave whose care has ended, and notes when the others will."""
        ended: dict[str, dict[str, str]] = {}
        for row in touched:
            if row["role"] in CARE_ROLES:
                over = ended.setdefault(row["object"], {})
                if row["held_until"] is not None and row["held_until"] <= now:
                    over[row["subject"]] = messages.record_name(row["register_id"], row["record"])
        wards = sorted(await mandate_store.principals(write.transaction, ended))
        return sum([await self._issuing.uphold(write, ward, ended[ward], now=now) for ward in wards])


async def _deaths(write: Write, touched: Sequence[Row], now: datetime) -> list[Event]:
    """What is said of deaths after an import: recorded, corrected or taken back."""
    persons = sorted({row["subject"] for row in touched if row["block"] == DEAD})
    said = {row["subject"]: row for row in await register_store.deaths(write.transaction, persons, now)}
    told = [messages.death(person, said.get(person)) for person in persons]
    parts = (told[start : start + DEATHS_IN_AN_EVENT] for start in range(0, len(told), DEATHS_IN_AN_EVENT))
    return [event(DeathsChanged(deaths=part), now=now) for part in parts]


def _id(name: str) -> str:
    return name.split("/")[1]


async def _told(write: Write, register_id: str) -> Row:
    """A register as it has become, which those who judge by facts are told."""
    row = await register_store.find(write.transaction, register_id)
    assert row is not None
    write.changes.append(messages.register_fact(row))
    return row


def _values(register: registers_pb2.Register) -> dict[str, Any]:
    return {
        "display_name": register.display_name,
        "importer": register.importer,
        "contents": list(register.contents),
        "greatest_age": register.greatest_age.ToTimedelta() if register.HasField("greatest_age") else None,
    }


def _register(row: Row, token: str = "") -> registers_pb2.Register:  # not a secret
    name = f"registers/{row['register_id']}"
    age = None
    if row["greatest_age"] is not None:
        age = Duration()
        age.FromTimedelta(row["greatest_age"])
    return registers_pb2.Register(
        name=name,
        display_name=row["display_name"],
        importer=row["importer"],
        contents=row["contents"],
        greatest_age=age,
        latest_import=f"{name}/imports/{row['latest_import']}" if row["latest_import"] else "",
        as_of=messages.timestamp(row["as_of"]),
        record_count=row["record_count"],
        create_time=messages.timestamp(row["create_time"]),
        etag=str(row["revision"]),
        consistency_token=token,
    )


def _import(row: Row | dict[str, Any]) -> registers_pb2.Import:
    return registers_pb2.Import(
        name=f"registers/{row['register_id']}/imports/{row['import_id']}",
        mode=row["mode"],
        as_of=messages.timestamp(row["as_of"]),
        create_time=messages.timestamp(row["create_time"]),
        record_count=row["record_count"],
        added_count=row["added_count"],
        changed_count=row["changed_count"],
        ended_count=row["ended_count"],
        mandates_ended_count=row["mandates_ended_count"],
        importer=row["importer"],
        consistency_token=row["token"],
    )


def _record(row: Row) -> RegisterRecord:
    record = RegisterRecord.FromString(row["content"])
    record.name = messages.record_name(row["register_id"], row["record"])
    record.validity.CopyFrom(
        ValidityPeriod(
            first_day=record.validity.first_day,
            last_day=record.validity.last_day,
            start_time=messages.timestamp(row["held_from"]),
            end_time=messages.timestamp(row["held_until"]),
        )
    )
    return record
