"""Time stamps: in batches with evidence records by default, one by one where a policy asks for it.

One process stamps batches at a time. Each batch is one token of an authority
over a tree of up to 10 000 statements and heads of the log (RFC 4998), so that
what an outage has heaped up is worked off at many times the rate at which it
came.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from solmu.exchange.v1 import events_pb2

from services.exchange import evidence_store, proofs
from services.exchange.authorities import TimeStampAuthority, TimeStamps, Token
from services.exchange.evidence import records, signatures
from services.exchange.evidence_rules import MAX_PENDING, Backlog, Rules, Stamping, check_backlog
from services.runtime.database import PASSING, Database, Row
from services.runtime.errors import Unavailable
from services.runtime.outbox import Outbox, event
from services.runtime.telemetry import TIME_STAMP_WAIT_SECONDS, TIME_STAMPS_WAITING

logger = logging.getLogger(__name__)

BATCH = records.MAX_BATCH
HEADS = 100
"""Places in a batch for heads of the log."""

LOOK_INTERVAL = 1.0
"""Seconds between two looks at what waits."""

RETRY_INTERVAL = 5.0
"""Seconds between two tries while no authority answers."""

WARNED_SHARE = 10
"""A backlog over one part in so many of its bound is told of."""

FindAuthorities = Callable[[], Sequence[TimeStampAuthority]]
"""The authorities that the directory recognises."""


class Stamper:
    """Stamps what waits. `interval` is how long a signature may wait (`MeshParameters.time_stamp_interval`)."""

    def __init__(
        self,
        *,
        database: Database,
        outbox: Outbox | None,
        time_stamps: TimeStamps,
        authorities: FindAuthorities,
        interval: Callable[[], timedelta],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._time_stamps = time_stamps
        self._authorities = authorities
        self._interval = interval
        self._clock = clock
        self._failing: datetime | None = None
        self._warned = False

    async def turn(self) -> float:
        """One batch where one is due; one process at a time."""
        waiting = await evidence_store.pending(self._database)
        number, oldest = waiting["number"], waiting["oldest"]
        due = number >= BATCH - HEADS or (oldest is not None and oldest + self._interval() <= self._clock())
        if due:
            try:
                number -= await self.stamp()
                self._failing = None
            except Unavailable as fault:
                self._failing = self._failing or self._clock()
                logger.warning("no time stamps", extra={"reason": fault.reason, "pending": number})
        await self._tell(number, oldest)
        if due and self._failing is not None:
            return RETRY_INTERVAL
        return 0.0 if due and number >= BATCH - HEADS else LOOK_INTERVAL

    async def stamp(self) -> int:
        """Stamps one batch of the oldest; returns how many statements.

        Raises Unavailable, TIME_STAMP_UNAVAILABLE, where no authority answers.
        """
        rows = await evidence_store.unstamped(self._database, BATCH - HEADS)
        heads = await evidence_store.unstamped_heads(self._database, HEADS)
        if not rows and not heads:
            return 0
        members = await asyncio.to_thread(_members, rows, heads)
        root = await asyncio.to_thread(lambda: records.Batch(members).root)
        token = await self._time_stamps.stamp(root, self._authorities())
        async with self._database.transaction() as transaction:
            batch = await evidence_store.insert_batch(
                transaction,
                members=b"".join(members),
                token=token.content,
                stamp_time=token.time,
                authority=token.authority,
            )
            await evidence_store.set_stamped(
                transaction,
                batch,
                token.time,
                statements=[row["seq"] for row in rows],
                sizes=[head["tree_size"] for head in heads],
            )
        return len(rows)

    async def _tell(self, pending: int, oldest: datetime | None) -> None:
        """Shows the backlog to the other processes, and tells of it where it has grown large, or is so no more."""
        await evidence_store.set_stamping(
            self._database, pending=pending, oldest=oldest if pending else None, failing=self._failing
        )
        large = pending * WARNED_SHARE > MAX_PENDING
        if large != self._warned and self._outbox is not None:
            self._warned = large
            told = events_pb2.BacklogChanged(
                queue="time_stamps", count=pending, bound=MAX_PENDING, stopped=pending >= MAX_PENDING
            )
            async with self._database.transaction() as transaction:
                await self._outbox.append(transaction, [event(told)])
            self._outbox.wake()


class StampPolicy:
    """Says to an exchange whether it may go on, and stamps it at once where its policy asks for that."""

    def __init__(self, *, database: Database, time_stamps: TimeStamps, authorities: FindAuthorities) -> None:
        self._database = database
        self._time_stamps = time_stamps
        self._authorities = authorities
        self.backlog = Backlog()

    async def follow(self) -> None:
        """Keeps up with the backlog, for as long as the process runs."""
        while True:
            try:
                await self.look()
            except PASSING as error:
                logger.warning("the backlog is not known", extra={"error": type(error).__qualname__})
            await asyncio.sleep(LOOK_INTERVAL)

    async def look(self) -> None:
        """Reads the backlog."""
        row = await evidence_store.stamping(self._database)
        TIME_STAMPS_WAITING.set(row["pending"])
        TIME_STAMP_WAIT_SECONDS.set((datetime.now(UTC) - row["oldest"]).total_seconds() if row["oldest"] else 0)
        self.backlog = Backlog(row["pending"], row["oldest"], row["failing_since"])

    def admit(self, rules: Rules) -> None:
        """Refuses an exchange whose evidence could not be stamped in time; see `evidence_rules.check_backlog`."""
        check_backlog(rules, self.backlog, now=datetime.now(UTC))

    def accept(self, value: bytes, token: bytes) -> bytes:
        """The time stamp that came with another node's signature value, where it counts; empty: the batch does it.

        Raises as `TimeStamps.accept`: what is over other bytes is no evidence of this.
        """
        return self._time_stamps.accept(token, _imprint(value), self._authorities()) if token else b""

    async def token(self, rules: Rules, value: bytes) -> bytes:
        """A time stamp over a signature value, where the policy asks for one at once; empty: the batch does it.

        Raises Unavailable, TIME_STAMP_UNAVAILABLE, where there is none and the
        policy does not go on without.
        """
        if rules.stamping is not Stamping.SYNCHRONOUS:
            return b""
        try:
            token: Token = await self._time_stamps.stamp(_imprint(value), chosen(self._authorities(), rules))
        except Unavailable:
            if rules.stop_when_away:
                raise
            return b""
        return token.content


def _imprint(value: bytes) -> bytes:
    return hashlib.sha256(signatures.signature_value(value)).digest()


def chosen(authorities: Sequence[TimeStampAuthority], rules: Rules) -> Sequence[TimeStampAuthority]:
    """The authorities that a policy names, in its order; all where it names none."""
    if not rules.authorities:
        return authorities
    known = {each.name: each for each in authorities}
    return [known[name] for name in rules.authorities if name in known]


def _members(rows: Sequence[Row], heads: Sequence[Row]) -> list[bytes]:
    return [proofs.member(row) for row in rows] + [proofs.head_member(head["head"]) for head in heads]
