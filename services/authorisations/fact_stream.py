"""The facts and then every change of them, from PostgreSQL, as a stream of `WatchResponse`.

Watchers of other processes read it, and this process's own facts in memory do.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence

from solmu.authorisations.v1.facts_pb2 import FactChange
from solmu.authorisations.v1.watch_pb2 import WatchRequest, WatchResponse

from services.authorisations import fact_store, messages, revision_store
from services.authorisations.register_facts import RegisterFacts
from services.authorisations.revision_store import Head
from services.authorisations.revisions import PART, Revisions
from services.authorisations.theme_store import ThemeStore
from services.runtime import database
from services.runtime.database import Connection, Database, Row
from services.runtime.errors import FailedPrecondition, Unavailable
from services.runtime.facts import tokens
from services.runtime.facts.tokens import token
from services.runtime.facts.wire import rules

HEARTBEAT = 1.0
"""Seconds after which something is sent though nothing is new; consumers give up after three."""

LOOK_INTERVAL = 1.0
"""Seconds between two looks whether it still does, and for one answer."""

RETRY_INTERVAL = 0.1
"""Seconds before it is listened to anew."""

SNAPSHOTS = 2
"""Snapshots read at once: each holds a connection to the database while it is sent."""

READ = 20
"""Parts of changes read at once."""


class FactStream:
    """Reads facts and their changes. It is a source of facts (`runtime/facts/cache.py`)."""

    def __init__(
        self, *, database: Database, revisions: Revisions, themes: ThemeStore, registers: RegisterFacts
    ) -> None:
        self._database = database
        self._revisions = revisions
        self._themes = themes
        self._registers = registers
        self._snapshots = asyncio.Semaphore(SNAPSHOTS)
        self._news = asyncio.Event()
        revisions.written.append(self._wake)

    async def look(self) -> None:
        """Wakes watchers for what other processes commit, for as long as the process runs."""
        while True:
            with contextlib.suppress(*database.PASSING):
                async with self._database.listening(revision_store.CHANNEL, self._hear) as connection:
                    await self._watch_over(connection)
            await asyncio.sleep(RETRY_INTERVAL)

    async def _watch_over(self, connection: Connection) -> None:
        """Wakes watchers for what was committed before this, and raises what is in PASSING once nothing is heard."""
        seen = -1
        while True:
            async with asyncio.timeout(LOOK_INTERVAL):
                head = await revision_store.head(connection)
            if head.revision != seen:
                seen = head.revision
                self._wake()
            await asyncio.sleep(LOOK_INTERVAL)

    def _hear(self, revision: str) -> None:
        if int(revision) > tokens.revision(self._revisions.latest):  # else it is this process's own, which woke already
            self._wake()

    async def head(self) -> str:
        """The consistency token of the newest revision. Raises Unavailable."""
        with _away():
            return await self._revisions.head()

    async def watch(self, request: WatchRequest) -> AsyncGenerator[WatchResponse]:
        """The facts, where no position is given, and then every change of them; for ever.

        Raises InvalidArgument, CONSISTENCY_TOKEN_UNKNOWN; FailedPrecondition,
        WATCH_POSITION_GONE; Unavailable.
        """
        with _away():
            async for part in self._watch(request):
                yield part

    async def _watch(self, request: WatchRequest) -> AsyncIterator[WatchResponse]:
        wanted = await self._wanted(request.themes)
        head = await revision_store.head(self._database)
        if request.after_consistency_token:
            tokens.check(request.after_consistency_token, head=token(head.epoch, head.revision))
            head = Head(head.epoch, tokens.revision(request.after_consistency_token), head.commit_time)
            if head.revision < await revision_store.oldest(self._database) - 1:
                raise FailedPrecondition("WATCH_POSITION_GONE", "the changes after this revision are not kept")
        else:
            async for seen, part in self._snapshot(wanted):
                head = seen
                yield part
        async for part in self._follow(head, wanted):
            yield part

    async def _follow(self, head: Head, wanted: _Wanted) -> AsyncIterator[WatchResponse]:
        """Every change after a revision, and heartbeats."""
        after, said = head.revision, time.monotonic()
        while True:
            news = self._news
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
                    async with asyncio.timeout(HEARTBEAT):  # wait_for of Python 3.11 may swallow a cancellation
                        await news.wait()

    async def _snapshot(self, wanted: _Wanted) -> AsyncIterator[tuple[Head, WatchResponse]]:
        """All facts as one transaction sees them, each part with the revision of the whole."""
        async with self._snapshots, self._database.transaction() as transaction:
            await transaction.execute("set transaction isolation level repeatable read read only")
            head = await revision_store.head(transaction)
            part: list[FactChange] = []
            async for change in self._all(transaction, wanted):
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

    async def _all(self, transaction: Connection, wanted: _Wanted) -> AsyncIterator[FactChange]:
        themes = await self._themes.in_use(transaction)
        for theme in themes:
            yield messages.theme_fact(theme)
        async for change in fact_store.mandates(transaction, wanted.theme_ids):
            yield change
        ages = messages.ages_named(themes)
        async for change in fact_store.records(transaction, self._registers, ages):
            yield change
        async for change in fact_store.registers(transaction):
            yield change

    async def _wanted(self, names: Sequence[str]) -> _Wanted:
        themes = [theme for theme in await self._themes.in_use(self._database) if theme.name in names]
        return _Wanted(names, frozenset().union(*(theme.rules.roles for theme in themes)))

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


@contextlib.contextmanager
def _away() -> Iterator[None]:
    try:
        yield
    except database.PASSING:
        raise Unavailable("UNAVAILABLE", "the database is away; try again", retry_after=1.0) from None


class _Wanted:
    """Which facts a watch is about: those of its themes, the roles that count in them, all blocks and registers."""

    def __init__(self, themes: Sequence[str], roles: frozenset[str]) -> None:
        self._themes = frozenset(themes)
        self._roles = roles

    @property
    def theme_ids(self) -> frozenset[str]:
        """The ids of its themes; none for all."""
        return frozenset(theme.removeprefix("themes/") for theme in self._themes)

    def has(self, change: FactChange) -> bool:
        if not self._themes or not change.HasField("fact"):
            return True
        fact = change.fact
        content = fact.WhichOneof("content")
        if content == "mandate":
            return fact.mandate.theme in self._themes
        if content == "theme":
            return fact.name in self._themes
        return content in {"block", "register"} or fact.register_right.role in self._roles

    def widens(self, change: FactChange) -> bool:
        """Whether a change makes rights matter that the watch has left out until now."""
        return change.name in self._themes and not rules(change.fact.theme).roles <= self._roles


def _changes(epoch: bytes, row: Row, wanted: _Wanted) -> WatchResponse:
    kept = WatchResponse.FromString(row["content"])
    if any(wanted.widens(change) for change in kept.changes):
        raise FailedPrecondition("WATCH_POSITION_GONE", "a theme of the watch has come into use")
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
