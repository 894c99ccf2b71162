"""WatchService: lets a consumer hold the facts and judge checks by itself."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence

from solmu.authorisations.v1 import watch_pb2
from solmu.authorisations.v1.facts_pb2 import FactChange
from solmu.authorisations.v1.watch_pb2 import WatchResponse

from services.authorisations import fact_store, messages, revision_store
from services.authorisations.check_servicer import roles_for
from services.authorisations.register_facts import RegisterFacts
from services.authorisations.revision_store import Head
from services.authorisations.revisions import PART, Revisions, revision_of, token
from services.authorisations.theme_store import ThemeStore
from services.runtime import identity
from services.runtime.database import Connection, Database, Row
from services.runtime.errors import FailedPrecondition

HEARTBEAT = 1.0
"""Seconds after which something is sent though nothing is new; consumers give up after three."""

POLL_INTERVAL = 0.05
"""Seconds between two looks for what other processes committed; this process is woken by its own commits."""

SNAPSHOTS = 2
"""Snapshots read at once: each holds a connection to the database while it is sent."""

READ = 20
"""Parts of changes read at once."""


class WatchServicer:
    """Answers WatchService. `revoked` says whether a client is."""

    def __init__(
        self,
        *,
        database: Database,
        revisions: Revisions,
        themes: ThemeStore,
        registers: RegisterFacts,
        revoked: Callable[[str], bool],
    ) -> None:
        self._database = database
        self._themes = themes
        self._registers = registers
        self._revoked = revoked
        self._snapshots = asyncio.Semaphore(SNAPSHOTS)
        self._news = asyncio.Event()
        revisions.written.append(self._wake)

    async def GetHead(self, _: watch_pb2.GetHeadRequest) -> watch_pb2.Head:
        """Returns the newest revision, and the oldest from which a watch can go on."""
        head = await revision_store.head(self._database)
        oldest = await revision_store.oldest(self._database)
        return watch_pb2.Head(
            consistency_token=token(head.epoch, head.revision),
            oldest_consistency_token=token(head.epoch, oldest - 1),
            commit_time=messages.timestamp(head.commit_time),
        )

    async def Watch(self, request: watch_pb2.WatchRequest) -> AsyncGenerator[WatchResponse]:
        """Streams the facts, where no position is given, and then every change of them."""
        caller = identity.caller()
        wanted = _Wanted(request.themes, await self._roles(request.themes))
        head = await revision_store.head(self._database)
        if request.after_consistency_token:
            head = Head(head.epoch, revision_of(request.after_consistency_token, head), head.commit_time)
            if head.revision < await revision_store.oldest(self._database) - 1:
                raise FailedPrecondition("WATCH_POSITION_GONE", "the changes after this revision are not kept")
        else:
            async for seen, part in self._snapshot(wanted):
                head = seen
                yield part
        async for part in self._follow(head, wanted):
            if (fault := identity.still_valid(caller, revoked=self._revoked)) is not None:
                raise fault
            yield part

    async def _follow(self, head: Head, wanted: _Wanted) -> AsyncIterator[WatchResponse]:
        """Every change after a revision, and heartbeats."""
        after, said = head.revision, time.monotonic()
        while True:
            self._news.clear()
            rows = await revision_store.changes(self._database, after=after, limit=READ)
            while rows and not rows[-1]["last"]:  # one large transaction, whole
                rows += await revision_store.parts(self._database, rows[-1]["revision"], after=rows[-1]["part"])
            for row in rows:
                after, said = row["revision"], time.monotonic()
                yield _changes(head.epoch, row, wanted)
            if not rows:
                if time.monotonic() - said >= HEARTBEAT:
                    said = time.monotonic()
                    yield WatchResponse(kind=WatchResponse.KIND_HEARTBEAT, consistency_token=token(head.epoch, after))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), POLL_INTERVAL)

    async def _snapshot(self, wanted: _Wanted) -> AsyncIterator[tuple[Head, WatchResponse]]:
        """All facts as one transaction sees them, each part with the revision of the whole."""
        async with self._snapshots, self._database.transaction() as transaction:
            await transaction.execute("set transaction isolation level repeatable read read only")
            head = await revision_store.head(transaction)
            part: list[FactChange] = []
            async for change in self._all(transaction):
                if wanted.has(change):
                    part.append(change)
                if len(part) == PART:
                    yield head, _snapshot_part(head, part)
                    part = []
            if part:
                yield head, _snapshot_part(head, part)
        yield (
            head,
            WatchResponse(
                kind=WatchResponse.KIND_SNAPSHOT_END,
                consistency_token=token(head.epoch, head.revision),
                commit_time=messages.timestamp(head.commit_time),
            ),
        )

    async def _all(self, transaction: Connection) -> AsyncIterator[FactChange]:
        themes = await self._themes.in_use(transaction)
        for theme in themes:
            yield messages.theme_fact(theme)
        async for change in fact_store.mandates(transaction):
            yield change
        ages = messages.ages_named(themes)
        async for change in fact_store.records(transaction, self._registers, ages):
            yield change

    async def _roles(self, themes: Collection[str]) -> frozenset[str]:
        return frozenset(
            role
            for theme in await self._themes.in_use(self._database)
            if theme.name in themes
            for role in roles_for(theme.rules)
        )

    def _wake(self) -> None:
        self._news.set()


class _Wanted:
    """Which facts a watch is about: those of its themes, the roles that count in them, and all blocks."""

    def __init__(self, themes: Sequence[str], roles: frozenset[str]) -> None:
        self._themes = frozenset(themes)
        self._roles = roles

    def has(self, change: FactChange) -> bool:
        if not self._themes or not change.HasField("fact"):
            return True
        fact = change.fact
        content = fact.WhichOneof("content")
        if content == "mandate":
            return fact.mandate.theme in self._themes
        if content == "theme":
            return fact.name in self._themes
        return content == "block" or fact.register_right.role in self._roles


def _changes(epoch: bytes, row: Row, wanted: _Wanted) -> WatchResponse:
    kept = WatchResponse.FromString(row["content"])
    return WatchResponse(
        kind=WatchResponse.KIND_CHANGES if row["last"] else WatchResponse.KIND_CHANGES_PART,
        consistency_token=token(epoch, row["revision"]),
        previous_consistency_token=token(epoch, row["revision"] - 1),
        commit_time=messages.timestamp(row["commit_time"]),
        changes=[change for change in kept.changes if wanted.has(change)],
    )


def _snapshot_part(head: Head, part: Sequence[FactChange]) -> WatchResponse:
    return WatchResponse(
        kind=WatchResponse.KIND_SNAPSHOT, consistency_token=token(head.epoch, head.revision), changes=part
    )
