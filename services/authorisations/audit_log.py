"""Writes the audit record, chains it and signs its heads.

An entry is recorded before its answer is given. One process chains what was
recorded, in batches, so that decisions need not wait for one another; whoever
keeps a signed head can prove that nothing up to it was changed or left out.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from solmu.authorisations.v1.audit_pb2 import AuditRecord

from services.authorisations import audit_store, check_records
from services.authorisations.audit_store import Entry
from services.runtime import database
from services.runtime.database import Connection, Database
from services.runtime.facts import wire
from services.runtime.gathering import Gathering

logger = logging.getLogger(__name__)

CHAIN_INTERVAL = 0.25
"""Seconds between two looks for entries to chain."""

CHAIN_BATCH = 2000
"""Entries chained in one transaction."""

SIGN_INTERVAL = timedelta(seconds=60)
"""How long the newest entries wait for a signed head at most; the contract promises a minute."""

RETRY_INTERVAL = 0.5
"""Seconds between two tries while PostgreSQL is away."""

HEAD_TYPE = "audit-head+jws"
"""The `typ` of a head's signature, by which nobody takes it for a token that the same key signs."""


class Sign(Protocol):
    """Signs a JSON object as a JWS in compact form."""

    def __call__(self, claims: Mapping[str, Any], *, typ: str) -> str:
        """The JWS."""


def entry_hash(previous: bytes, sequence: int, content: bytes) -> bytes:
    """The hash of an entry: SHA-256 over the hash before, the sequence as eight bytes, and the content."""
    return hashlib.sha256(previous + sequence.to_bytes(8, "big") + content).digest()


class AuditLog:
    """The record. `trace` gives the current traceparent, `new_ids` so many ids that sort by time."""

    def __init__(
        self,
        *,
        database: Database,
        clock: Callable[[], datetime],
        new_ids: Callable[[int], Sequence[UUID]],
        trace: Callable[[], str],
    ) -> None:
        self._connection = database.keep("audit record")
        self._commits = Gathering(self._commit)
        self._clock = clock
        self._new_ids = new_ids
        self._trace = trace

    def names(self, count: int) -> list[str]:
        """Names for entries to be recorded."""
        return [f"auditRecords/{one}" for one in self._new_ids(count)]

    async def record(self, records: Sequence[AuditRecord], *, writer: Connection | None = None) -> None:
        """Records entries. Each names its kind, actor, method and parties; the rest is given here."""
        now, trace_id = self._clock(), self._trace_id()
        time = wire.timestamp(now)
        entries = []
        for record, name in zip(records, self.names(len(records)), strict=True):
            record.name = name
            record.record_time.CopyFrom(time)
            record.trace_id = trace_id
            entries.append(
                Entry(
                    record=record.name.removeprefix("auditRecords/"),
                    record_time=now,
                    kind=record.kind,
                    client=record.actor.client,
                    resource=record.resource,
                    parties=tuple(sorted({party.name for party in record.parties if party.name})),
                    content=record.SerializeToString(deterministic=True),
                )
            )
        if writer is not None:
            await audit_store.append(writer, entries)
        elif entries:
            await self._commits.ask(entries)

    async def record_checks(self, checks: Sequence[check_records.Judged], shared: AuditRecord) -> None:
        """Records checks. `shared` names what is the same of all, actor and method; the rest is given here."""
        shared.record_time.CopyFrom(wire.timestamp(self._clock()))
        shared.trace_id = self._trace_id()
        if checks:
            await self._commits.ask(list(check_records.entries(checks, shared)))

    async def _commit(self, calls: Sequence[Sequence[Entry]]) -> Sequence[None]:
        await audit_store.append(self._connection, [entry for entries in calls for entry in entries])
        return [None] * len(calls)

    def _trace_id(self) -> str:
        trace = self._trace()
        return trace.split("-")[1] if trace else ""


class Chainer:
    """Chains what was recorded and signs the newest hash. One process does it at a time."""

    def __init__(
        self,
        *,
        database: Database,
        sign: Sign,
        issuer: str,
        clock: Callable[[], datetime],
        new_id: Callable[[], UUID],
    ) -> None:
        self._database = database
        self._sign = sign
        self._issuer = issuer
        self._clock = clock
        self._new_id = new_id

    async def run(self) -> None:
        """Works for as long as the process runs; waits while another process does."""
        while True:
            try:
                async with self._database.leading("audit chain") as lead:
                    while not lead.is_closed():
                        if await self.chain() < CHAIN_BATCH:
                            await self.sign()
                            await asyncio.sleep(CHAIN_INTERVAL)
            except database.PASSING as error:
                logger.warning("the audit chain waits", extra={"error": type(error).__qualname__})
                await asyncio.sleep(RETRY_INTERVAL)

    async def chain(self) -> int:
        """Chains one batch; returns how many entries."""
        async with self._database.transaction() as transaction:
            waiting = await audit_store.take_waiting(transaction, CHAIN_BATCH)
            if not waiting:
                return 0
            sequence, previous = await audit_store.last_link(transaction)
            links = []
            for row in waiting:
                sequence += 1
                own = entry_hash(previous, sequence, row["content"])
                links.append((sequence, row["record"], previous, own))
                previous = own
            await audit_store.link(transaction, links)
        return len(links)

    async def sign(self) -> bool:
        """Signs the newest hash where it is new and the last signature old; says whether it did."""
        now = self._clock()
        async with self._database.transaction() as transaction:
            sequence, content = await audit_store.last_link(transaction)
            last = await audit_store.last_head(transaction)
            if sequence == 0 or (
                last is not None and (last["sequence"] == sequence or now - last["sign_time"] < SIGN_INTERVAL)
            ):
                return False
            claims = {"sequence": sequence, "hash": content.hex(), "iat": int(now.timestamp()), "iss": self._issuer}
            await audit_store.add_head(
                transaction,
                head=self._new_id(),
                sequence=sequence,
                content=content,
                sign_time=now,
                jws=self._sign(claims, typ=HEAD_TYPE),
            )
        return True
