"""Revisions of the facts: consistency tokens, and the order in which writes commit.

A write of facts takes the next revision first and holds it to its commit, so
that the order of revisions is that of commits and a token of a later revision
covers every earlier one. Within the transaction the changes are kept for
watchers, and go out as an event.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from solmu.authorisations.v1 import watch_pb2
from solmu.authorisations.v1.audit_pb2 import AuditRecord
from solmu.authorisations.v1.events_pb2 import FactsChanged
from solmu.authorisations.v1.facts_pb2 import FactChange
from solmu.authorisations.v1.parties_pb2 import Party
from solmu.authorisations.v1.watch_pb2 import WatchResponse

from services.authorisations import callers, messages, revision_store
from services.authorisations.audit_log import AuditLog
from services.authorisations.revision_store import Head
from services.runtime import database
from services.runtime.database import Connection, Database
from services.runtime.facts import tokens
from services.runtime.facts.tokens import token
from services.runtime.outbox import Event, Outbox, event

logger = logging.getLogger(__name__)

PART = 500
"""Changes in one part of a watch, and the most that an event carries: well under a message of 4 MiB."""

KEPT_DAYS = 7
"""How long changes are kept one by one: as long as a watcher may be away and go on where it was."""

SWEEP_INTERVAL = 3600.0
"""Seconds between two deletions of old changes."""


@dataclass
class Write:
    """A transaction that writes facts."""

    transaction: Connection
    head: Head
    """The revision that this transaction makes."""
    method: str
    """The method that writes: `{service}/{method}`."""
    changes: list[FactChange] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    records: list[AuditRecord] = field(default_factory=list)

    def note(self, kind: AuditRecord.Kind.ValueType, resource: str, *parties: str, purpose: str = "") -> None:
        """Has the audit record say, with the commit, that the caller changed a resource that concerns the parties."""
        self.records.append(
            AuditRecord(
                kind=kind,
                actor=messages.actor(callers.actor()),
                method=f"{watch_pb2.DESCRIPTOR.package}.{self.method}",
                resource=resource,
                parties=[Party(name=party) for party in parties],
                purpose=purpose,
            )
        )

    @property
    def token(self) -> str:
        """The consistency token that covers this transaction, once it has committed."""
        return token(self.head.epoch, self.head.revision)


class Revisions:
    """Gives writes their revisions, and reads theirs. `clock` gives the time, with its zone."""

    def __init__(self, *, database: Database, outbox: Outbox, audit: AuditLog, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._outbox = outbox
        self._audit = audit
        self._clock = clock
        self.written: list[Callable[[], None]] = []
        """Called after each commit of this process."""
        self.latest = ""
        """The token of the newest commit of this process; what it judges afterwards includes it."""

    @asynccontextmanager
    async def writing(self, method: str) -> AsyncIterator[Write]:
        """A transaction that writes facts: changes, events, records and revision commit with what the block does.

        `method` is the one that writes, as the record names it: "ThemeService/HideTheme".
        """
        async with self._database.transaction() as transaction:
            write = Write(transaction, await revision_store.advance(transaction, now=self._clock()), method)
            yield write
            await self._keep(write)
        self.latest = max(self.latest, write.token)
        self._outbox.wake()
        for heard in self.written:
            heard()

    async def head(self, at_least: str = "", *, reader: Connection | None = None) -> str:
        """The token of the newest revision. Raises InvalidArgument, CONSISTENCY_TOKEN_UNKNOWN, for `at_least`."""
        head = await revision_store.head(reader or self._database)
        newest = token(head.epoch, head.revision)
        tokens.check(at_least, head=newest)
        return newest

    async def sweep(self) -> None:
        """Forgets old changes for as long as the process runs; several processes may."""
        while True:
            try:
                await revision_store.forget(self._database, before=self._clock() - timedelta(days=KEPT_DAYS))
            except database.PASSING as error:
                logger.warning("old changes wait", extra={"error": type(error).__qualname__})
            await asyncio.sleep(SWEEP_INTERVAL)

    async def _keep(self, write: Write) -> None:
        head = write.head
        parts = [write.changes[start : start + PART] for start in range(0, len(write.changes), PART)] or [[]]
        await revision_store.keep(
            write.transaction, head, [WatchResponse(changes=part).SerializeToString() for part in parts]
        )
        if write.changes:
            write.events.append(_facts_changed(write, parts))
        if write.events:
            await self._outbox.append(write.transaction, write.events)
        await self._audit.record(write.records, writer=write.transaction)


def _facts_changed(write: Write, parts: Sequence[Sequence[FactChange]]) -> Event:
    return event(
        FactsChanged(
            consistency_token=write.token,
            previous_consistency_token=token(write.head.epoch, write.head.revision - 1),
            changes=parts[0] if len(parts) == 1 else [],
        ),
        now=write.head.commit_time,
    )
