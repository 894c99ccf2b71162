"""The journal: every statement that this node has signed or accepted, and every exchange, written for good.

Who appends waits until it is committed. Appends that come together are written
by one statement, so that a busy node pays for one commit what a quiet one pays
for one exchange.

What is done with statements later (log, time stamps, containers) reads the
table `statement` in the order of `seq`, or is written with them by `Keep`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from solmu.exchange.v1 import events_pb2, exchanges_pb2, statements_pb2

from services.exchange import evidence_store, journal_store, names
from services.exchange.evidence.statements import Statement, parse
from services.exchange.evidence_store import Kept, Key
from services.runtime.database import PASSING, Database
from services.runtime.errors import Fault, InvalidArgument
from services.runtime.gathering import Gathering
from services.runtime.outbox import Outbox, event
from services.runtime.telemetry import TRANSACTIONS

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a statement holds the digests of, as far as it went through this node."""

    head: bytes = b""
    body: bytes | None = None
    """The body, where it was small enough to be in memory; None: it went by."""
    trailers: bytes = b""
    on_behalf_of: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A statement with what proves it."""

    statement: Statement
    signature: statements_pb2.Signature
    own: bool
    """Whether this node signed it."""
    subsystem: str
    """The subsystem of this node on whose behalf it is kept."""
    policy: str
    """By which policy of this node: id "/" revision."""
    certificate_status: bytes = b""
    time_stamp: bytes = b""
    content: Content = field(default_factory=Content)

    @property
    def key(self) -> Key:
        """Under which it is kept once: a call within the node has both, the own and the accepted one."""
        return self.statement.sha256, self.own

    @property
    def proof(self) -> statements_pb2.Proof:
        """As it travels."""
        return statements_pb2.Proof(
            statement=self.statement.content,
            signature=self.signature,
            certificate_status=self.certificate_status,
            time_stamp=self.time_stamp,
        )


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One call and its answer, as this node saw it. Identifiers are spelt with "/"."""

    exchange_id: UUID
    side: exchanges_pb2.Side.ValueType
    message_id: str
    consumer: str
    service: str
    consumer_node: str
    provider_node: str
    method: str
    status: int
    outcome: exchanges_pb2.Exchange.Outcome.ValueType
    reason: str
    refused_by: exchanges_pb2.Side.ValueType
    on_behalf: bool
    request_sha256: bytes | None
    response_sha256: bytes | None
    measurement: exchanges_pb2.Exchange.Measurement
    backend_share: float | None
    start_time: datetime
    end_time: datetime


Keep = Callable[[Collection[Entry]], Kept]
"""What else is written with these statements. Raises Fault where they cannot be taken."""


@dataclass(frozen=True)
class _Append:
    entries: Sequence[Entry]
    exchange: Exchange | None


class Journal:
    """The journal of a process. `keep` says what goes with statements; `outbox` tells of proofs that were refused."""

    def __init__(self, database: Database, *, keep: Keep | None = None, outbox: Outbox | None = None) -> None:
        self._database = database
        self._keep = keep
        self._outbox = outbox
        self._transactions = Gathering(self._write)
        self._noting: set[asyncio.Task[None]] = set()

    async def append(self, *entries: Entry, exchange: Exchange | None = None) -> int:
        """Writes statements, and what became of their exchange; returns once they are committed.

        What is returned is the revision of the configuration as of then: who
        judged by an older one judges again.
        Raises InvalidArgument, STATEMENT_REPLAYED, where a statement of this
        kind and id was accepted before: what came with it is not written then.
        """
        return accepted(await self.begin(*entries, exchange=exchange))

    def begin(self, *entries: Entry, exchange: Exchange | None = None) -> asyncio.Future[int | None]:
        """Appends while the caller goes on; what it will be is for `accepted`."""
        return self._transactions.begin(_Append(entries, exchange))

    def note(self, exchange: Exchange) -> None:
        """Has what became of an exchange be written by itself, where nobody is left to wait for it."""
        task = asyncio.get_running_loop().create_task(self._noted(exchange))
        self._noting.add(task)
        task.add_done_callback(self._noting.discard)

    async def close(self) -> None:
        """Returns once all that was noted is written."""
        await asyncio.gather(*self._noting)

    async def refuse(
        self,
        *,
        exchange_id: str,
        node: str,
        reason: str,
        proof: statements_pb2.Proof,
        side: exchanges_pb2.Side.ValueType,
    ) -> None:
        """Keeps a proof that did not hold, with the reason, for the subsystem that it names as receiver; and tells."""
        subject = _uuid(exchange_id)
        async with self._database.transaction() as transaction:
            await journal_store.insert_refused(
                transaction,
                exchange_id=subject,
                node=node,
                subsystem=_receiver(proof.statement),
                reason=reason,
                proof=proof,
            )
            if self._outbox is not None:
                told = events_pb2.ProofRefused(
                    reason=reason,
                    side=side,
                    node=names.resource("nodes", node) if node else "",
                    subject=f"exchanges/{subject}" if subject else "",
                    statement=f"statements/{hashlib.sha256(proof.statement).hexdigest()}",
                )
                await self._outbox.append(transaction, [event(told)])
        if self._outbox is not None:
            self._outbox.wake()

    async def _noted(self, exchange: Exchange) -> None:
        try:
            await self.append(exchange=exchange)
        except PASSING as error:
            told = {"exchange": str(exchange.exchange_id), "error": type(error).__qualname__}
            logger.warning("an exchange is not on record", extra=told)

    async def _write(self, appends: Sequence[_Append]) -> list[int | None]:
        """Writes appends by one statement; returns the revision for each, None where a statement was accepted before.

        What became of an exchange is written either way.
        """
        bringing: dict[Key, tuple[Entry, _Append]] = {}
        for append in appends:
            for entry in append.entries:
                bringing.setdefault(entry.key, (entry, append))  # else a replay beside what it replays
        exchanges = [append.exchange for append in appends if append.exchange is not None]
        revision, written = await self._store([entry for entry, _ in bringing.values()], exchanges)
        for exchange in exchanges:
            TRANSACTIONS.labels("call", _DIRECTIONS[exchange.side]).inc()
        return [
            revision
            if all(entry.key in written and bringing[entry.key][1] is append for entry in append.entries)
            else None
            for append in appends
        ]

    async def _store(self, entries: Collection[Entry], exchanges: Sequence[Exchange]) -> tuple[int, Mapping[Key, int]]:
        kept = self._keep(entries) if self._keep is not None else Kept()
        if not kept.content:
            return await journal_store.append(self._database, entries, kept, exchanges)
        async with self._database.transaction() as transaction:
            revision, written = await journal_store.append(transaction, entries, kept, exchanges)
            frames = [(written[key], part, frame, data) for key, part, frame, data in kept.content if key in written]
            await evidence_store.insert_content(transaction, frames)
            return revision, written


def accepted(revision: int | None) -> int:
    """The revision that `Journal.begin` has come to. Raises as `Journal.append`."""
    if revision is None:
        raise InvalidArgument("STATEMENT_REPLAYED", "a statement with this id was accepted before")
    return revision


_DIRECTIONS = {
    exchanges_pb2.SIDE_CONSUMER: "out",
    exchanges_pb2.SIDE_PROVIDER: "in",
    exchanges_pb2.SIDE_BOTH: "within",
}


def _uuid(text: str) -> UUID | None:
    with contextlib.suppress(ValueError):
        return UUID(text)
    return None


def _receiver(content: bytes) -> str:
    """The subsystem that a statement is for, as it says; empty where it is none."""
    try:
        kind, identifier = parse(content).receiver
    except Fault:
        return ""
    return "/".join(identifier.split("/")[:4]) if kind in {"service", "subsystem"} else ""
