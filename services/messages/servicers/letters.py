"""LetterService: the spool, as a print house pulls from it and reports to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

from google.protobuf.timestamp_pb2 import Timestamp
from solmu.messages.v1 import letters_pb2, messages_pb2

from services.messages import course, deliveries, digests, letter_store
from services.messages.course import Course
from services.messages.deliveries import State
from services.messages.servicers import courses, names, views
from services.messages.servicers.courses import Move
from services.runtime import identity, status
from services.runtime.database import Connection, Database, Row
from services.runtime.errors import FailedPrecondition, Fault, InvalidArgument, not_found
from services.runtime.outbox import Outbox
from services.runtime.sealing import Vault

Letter = letters_pb2.Letter
Report = letters_pb2.ReportLettersRequest.Report

DEFAULT_LETTERS = 100
"""Letters claimed at once where the print house does not say."""

DEFAULT_LEASE = timedelta(hours=1)

SKEW = timedelta(minutes=5)
"""How far a print house's clock may be ahead; what is reported from further in the future is a mistake."""


@dataclass
class Held:
    """A letter whose message is locked, and where it is by now."""

    row: Row
    at: Course


class Letters:
    """Gives letters to print houses, and takes their reports."""

    def __init__(self, *, database: Database, outbox: Outbox, vault: Vault) -> None:
        self._database = database
        self._outbox = outbox
        self._vault = vault

    async def ClaimLetters(self, request: letters_pb2.ClaimLettersRequest) -> letters_pb2.ClaimLettersResponse:
        """Claims what has waited longest; what turns out to be stopped meanwhile is left out."""
        lease = request.lease.ToTimedelta() if request.HasField("lease") else DEFAULT_LEASE
        letters: list[Letter] = []
        looked = True
        while looked and not letters:
            looked, letters = await self._claim(request.max_letters or DEFAULT_LETTERS, lease)
        return letters_pb2.ClaimLettersResponse(letters=letters)

    async def GetLetter(self, request: letters_pb2.GetLetterRequest) -> Letter:
        """A letter, for the print house that claimed it last."""
        row = await letter_store.letter(self._database, names.uid(request.name, 1), claimant=identity.caller().party)
        if row is None:
            raise not_found(request.name)
        (known,) = await courses.of(self._database, [row])
        return self._view(row, known)

    async def ReportLetters(self, request: letters_pb2.ReportLettersRequest) -> letters_pb2.ReportLettersResponse:
        """Takes each report that can be taken; the others are refused one by one."""
        response = letters_pb2.ReportLettersResponse()
        now = names.now()
        async with self._database.transaction() as transaction:
            held = await self._hold(transaction, request.reports)
            moves = []
            for index, report in enumerate(request.reports):
                try:
                    moves.append(_reported(held, report, field=f"reports[{index}]", now=now))
                except Fault as fault:
                    refusal = response.refusals.add(index=index)
                    refusal.status.CopyFrom(status.to_status(fault, service="messages"))
            await courses.keep(transaction, self._outbox, moves, now=now)
        self._outbox.wake()
        for report in request.reports:
            found = held.get(names.uid(report.letter, 1))
            response.letters.append(self._view(found.row, found.at) if found else Letter(name=report.letter))
        return response

    async def _claim(self, limit: int, lease: timedelta) -> tuple[bool, list[Letter]]:
        """Whether there was anything to look at, and what of it is claimed now."""
        now, claim, claimant = names.now(), uuid4(), identity.caller().party
        until = now + lease
        async with self._database.transaction() as transaction:
            rows = await letter_store.hold_waiting(transaction, now=now, limit=limit)
            moves = [
                Move(row, before, _claimed(row, before, until=until, now=now))
                for row, before in zip(rows, await courses.of(transaction, rows), strict=True)
            ]
            await courses.keep(transaction, self._outbox, moves, now=now)
            mine = [move for move in moves if move.after.letter and move.after.letter.claim_end_time == until]
            await letter_store.set_claimed(
                transaction, [move.row["message_id"] for move in mine], claim=claim, claimant=claimant, until=until
            )
        self._outbox.wake()
        return bool(rows), [self._view(move.row, move.after, claim=str(claim)) for move in mine]

    async def _hold(self, transaction: Connection, reports: Sequence[Report]) -> dict[UUID, Held]:
        """The letters of reports that the caller has claimed last."""
        ids = sorted({names.uid(report.letter, 1, field="reports.letter") for report in reports})
        rows = await letter_store.hold(transaction, ids, claimant=identity.caller().party)
        known = await courses.of(transaction, rows)
        return {row["message_id"]: Held(row, at) for row, at in zip(rows, known, strict=True)}

    def _view(self, row: Row, known: Course, *, claim: str = "") -> Letter:
        assert known.letter is not None
        content = messages_pb2.Message.FromString(views.opened(row, vault=self._vault))
        return Letter(
            name=f"letters/{row['message_id']}",
            attachment=f"attachments/{row['attachment_id']}",
            page_count=row["page_count"],
            options=content.paper.options,
            state=int(known.letter.state),  # type: ignore[arg-type]  # numbers as in the contract
            create_time=names.timestamp(row["letter_create_time"]),
            lease_end_time=names.timestamp(known.letter.claim_end_time),
            claim=claim,
            size_bytes=row["size_bytes"],
            sha256=digests.opened(row, vault=self._vault, key="letter_key"),
        )


def _claimed(row: Row, before: Course, *, until: datetime, now: datetime) -> Course:
    """The course of a letter once it is claimed; one whose mailbox was erased has nothing to print any more."""
    if row["data_key"] is None or row["letter_key"] is None:
        return course.reported(before, State.FAILED, time=now, now=now)
    return course.claimed(before, until=until, now=now)


def _reported(held: dict[UUID, Held], report: Report, *, field: str, now: datetime) -> Move:
    """How a report moves its letter. Raises Fault where it is not to be taken."""
    found = held.get(names.uid(report.letter, 1))
    if found is None:
        raise not_found(report.letter)
    if str(found.row["claim"]) != report.claim.lower():
        raise FailedPrecondition(
            "LETTER_CLAIM_LOST", "the letter was claimed again since; do not print it", letter=report.letter
        )
    before = found.at
    found.at = course.reported(
        before,
        deliveries.State(report.state),
        time=_time(report.time, not_before=found.row["letter_create_time"], field=f"{field}.time", now=now),
        now=now,
        cost=_cost(report, field=field),
        cost_currency=report.cost_currency,
    )
    return Move(found.row, before, found.at)


def _time(given: Timestamp, *, not_before: datetime, field: str, now: datetime) -> datetime:
    time = given.ToDatetime(UTC)
    if not_before - SKEW <= time <= now + SKEW:
        return time
    what = "lies before the letter, or in the future"
    raise InvalidArgument("TIME_INVALID", f"{field} {what}", violations=[(field, what)], field=field)


def _cost(report: Report, *, field: str) -> Decimal | None:
    if bool(report.cost) != bool(report.cost_currency):
        what = "and its currency are given together"
        raise InvalidArgument("FIELD_INVALID", f"{field}.cost {what}", violations=[(f"{field}.cost", what)])
    return Decimal(report.cost) if report.cost else None
