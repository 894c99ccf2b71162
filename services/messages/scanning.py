"""Has attachments scanned, and releases or refuses the messages that wait for them.

Every process of the service takes part. An attachment is claimed for a while,
scanned, and judged in one transaction with what follows from the verdict; where
a process dies in between, another claims it again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from solmu.messages.v1 import events_pb2

from services.messages import attachment_store, blob_store, course, holding
from services.messages.blobs import Blobs
from services.messages.clamd import ScannerAway, Verdict
from services.messages.holding import State
from services.messages.servicers import courses, views
from services.messages.servicers.courses import Move
from services.runtime import outbox
from services.runtime.database import PASSING, Connection, Database, Row
from services.runtime.errors import Fault, Unavailable
from services.runtime.outbox import Event, Outbox
from services.runtime.sealing import Vault

if TYPE_CHECKING:
    from services.messages.clamd import Clamd

logger = logging.getLogger(__name__)

AT_ONCE = 4
"""Scans of one process at the same time; clamd has ten threads unless told otherwise."""

CLAIM = timedelta(minutes=10)
"""How long one scan may take before another process tries: 2 GiB take a few minutes."""

POLL_INTERVAL = 2.0
"""Seconds between two looks for what another process left."""

RETRY = timedelta(seconds=15)
"""Until the next try where the scanner is away."""

PATIENCE = timedelta(hours=24)
"""How long an attachment waits for a scanner; then it counts as one that cannot be scanned."""

_VERDICTS = {
    Verdict.CLEAN: State.CLEAN,
    Verdict.INFECTED: State.INFECTED,
    Verdict.NOT_SCANNED: State.SCAN_FAILED,
}


class Scanning:
    """Scans, and draws the consequences."""

    def __init__(self, *, database: Database, blobs: Blobs, vault: Vault, outbox: Outbox, clamd: Clamd) -> None:
        self._database = database
        self._blobs = blobs
        self._vault = vault
        self._outbox = outbox
        self._clamd = clamd
        self._uploaded = asyncio.Event()

    def wake(self) -> None:
        """Says that an attachment waits, after the commit that made it wait."""
        self._uploaded.set()

    async def run(self) -> None:
        """Scans for as long as the process runs."""
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            self._uploaded.clear()
            try:
                while await self.next(now=datetime.now(UTC)):
                    pass
            except PASSING as error:
                logger.warning("scanning waits", extra={"error": type(error).__qualname__})
            try:
                await asyncio.wait_for(self._uploaded.wait(), POLL_INTERVAL)
            except TimeoutError:
                pass

    async def next(self, *, now: datetime) -> bool:
        """Scans and judges the attachment that has waited longest. False: none waits."""
        row = await attachment_store.claim(self._database, now=now, until=now + CLAIM)
        if row is None:
            return False
        attachment_id: UUID = row["attachment_id"]
        try:
            verdict = await self._scan(row)
        except (ScannerAway, Unavailable):  # the scanner, or the store
            if now - row["upload_time"] < PATIENCE:
                logger.warning("the scanner is away", extra={"attachment": str(attachment_id)})
                await attachment_store.postpone(self._database, attachment_id, until=now + RETRY)
                return True
            verdict = Verdict.NOT_SCANNED
        except Fault:  # what is stored does not open
            verdict = Verdict.NOT_SCANNED
        await self._judge(row, _VERDICTS[verdict], now=datetime.now(UTC))
        return True

    async def _scan(self, row: Row) -> Verdict:
        sealer = views.blob_sealer(row, vault=self._vault)
        return await self._clamd.scan(self._blobs.read(row["blob_id"], sealer, offset=0, size=row["size_bytes"]))

    async def _judge(self, row: Row, state: State, *, now: datetime) -> None:
        attachment_id: UUID = row["attachment_id"]
        async with self._database.transaction() as transaction:
            if not await attachment_store.set_judged(transaction, attachment_id, state=state):
                return
            if state is State.INFECTED:
                await blob_store.leave(transaction, [row["blob_id"]])
            waiting = await attachment_store.hold_waiting(transaction, attachment_id)
            if state is not State.SCAN_FAILED:
                await self._outbox.append(transaction, _judged(attachment_id, state, waiting, now=now))
            await _settle(transaction, self._outbox, waiting, now=now)
        self._outbox.wake()
        if state is not State.CLEAN:
            logger.warning("attachment held back", extra={"attachment": str(attachment_id), "state": state.name})


async def _settle(transaction: Connection, outbox: Outbox, rows: Sequence[Row], *, now: datetime) -> None:
    """Releases or refuses what waited for an attachment, unless it waits for another too."""
    moves = []
    for row, before in zip(rows, await courses.of(transaction, rows), strict=True):
        reachable = courses.reachable(row, now=now)
        states = [State(one) for one in row["attachment_states"]]
        outcome = holding.settled(states, deliverable=reachable or before.paper.any or before.abroad)
        if outcome is None:
            continue
        if outcome.rejection:
            after = course.rejected(before, outcome.rejection)
        else:
            after = course.cleared(before, reachable=reachable, now=now)
        moves.append(Move(row, before, after))
    await courses.keep(transaction, outbox, moves, now=now)


def _judged(attachment_id: UUID, state: State, waiting: Sequence[Row], *, now: datetime) -> list[Event]:
    """What is told of a verdict: to each message that waits for it, or to nobody's feed."""
    told = []
    references: list[events_pb2.MessageReference | None] = [courses.reference(row) for row in waiting]
    for reference in references or [None]:
        event = events_pb2.AttachmentJudged(
            attachment=f"attachments/{attachment_id}", infected=state is State.INFECTED, reference=reference
        )
        event.time.FromDatetime(now)
        told.append(outbox.event(event, now=now))
    return told
