"""The journal: every statement that this node has signed or accepted, and every exchange, written for good.

Who appends waits until it is committed. Appends that come together are written
in one transaction, so that a busy node pays for one commit what a quiet one
pays for one exchange.

What is done with statements later (log, time stamps, containers) reads the
table `statement` in the order of `seq`, or takes part in the transaction by
`Keep`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from solmu.exchange.v1 import events_pb2, exchanges_pb2, statements_pb2

from services.exchange import configuration_store, journal_store, names
from services.exchange.evidence.statements import Statement, parse
from services.runtime.database import PASSING, Connection, Database
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
    def key(self) -> tuple[bytes, bool]:
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


Keep = Callable[[Connection, Mapping[int, Entry]], Awaitable[None]]
"""Does what else belongs into the transaction that writes these statements, given by their `seq`."""


@dataclass(frozen=True)
class _Append:
    entries: Sequence[Entry]
    exchange: Exchange | None


class Journal:
    """The journal of a process. `keep` takes part in its transactions; `outbox` tells of proofs that were refused."""

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
        revision = await self._transactions.ask(_Append(entries, exchange))
        if revision is None:
            raise InvalidArgument("STATEMENT_REPLAYED", "a statement with this id was accepted before")
        return revision

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
        """Writes appends in one transaction; returns the revision for each, None where a statement was accepted before.

        What became of an exchange is written either way.
        """
        entries = [entry for append in appends for entry in append.entries]
        exchanges = [append.exchange for append in appends if append.exchange is not None]
        async with self._database.transaction() as transaction:
            written = await journal_store.insert_statements(transaction, entries) if entries else {}
            if exchanges:
                await journal_store.insert_exchanges(transaction, exchanges)
            if self._keep is not None and written:
                await self._keep(transaction, {written[entry.key]: entry for entry in entries if entry.key in written})
            revision = await configuration_store.revision(transaction)
        for exchange in exchanges:
            TRANSACTIONS.labels("call", _DIRECTIONS[exchange.side]).inc()
        return [revision if all(entry.key in written for entry in append.entries) else None for append in appends]


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
