"""Keeps the log of this node's evidence: what was journaled becomes leaves, and heads are signed (evidence_log.proto).

One process does it at a time. Proofs are read from the stored hashes of
subtrees, in the depth of the tree.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from services.exchange import evidence_store, proofs
from services.exchange.evidence import log, merkle
from services.exchange.evidence.log import TreeHead
from services.exchange.evidence.merkle import Node
from services.exchange.evidence.signatures import PinnedKey, PrivateKey
from services.exchange.evidence_store import OWN, Writer
from services.runtime.database import Database

INTERVAL = 1.0
"""Seconds between two looks for what to log: a head a second at most."""

BATCH = 2000
"""Statements logged in one transaction."""


class LogKey(Protocol):
    """The node's key for its log."""

    @property
    def pinned(self) -> PinnedKey:
        """As the directory pins it."""
        ...

    @property
    def private(self) -> PrivateKey:
        """What signs."""
        ...


FindKey = Callable[[], LogKey | None]
"""The node's key for its log that is in use; None: it has none yet."""


class LogKeeper:
    """Makes the log grow."""

    def __init__(self, *, database: Database, key: FindKey) -> None:
        self._database = database
        self._key = key

    async def turn(self) -> float:
        """Logs all that waits, and signs a head; one process at a time."""
        while await self.append() == BATCH:
            pass
        await self.sign()
        return INTERVAL

    async def append(self) -> int:
        """Logs what was journaled; returns how many statements, at most BATCH."""
        async with self._database.transaction() as transaction:
            rows = await evidence_store.unlogged(transaction, BATCH)
            if not rows:
                return 0
            size = await evidence_store.log_size(transaction)
            known = await evidence_store.nodes(transaction, merkle.peaks(size))
            fresh = merkle.append(size, [proofs.leaf(row).hash() for row in rows], _from(known))
            await evidence_store.insert_leaves(transaction, rows, first=size, nodes=fresh)
        return len(rows)

    async def sign(self) -> bool:
        """Signs a head where the log has grown since the last one; says whether it did."""
        key = self._key()
        if key is None:
            return False
        size = await evidence_store.log_size(self._database)
        last = await evidence_store.head(self._database, OWN)
        if size == (last["tree_size"] if last else 0):
            return False
        now = datetime.now(UTC)
        head = TreeHead(now.replace(microsecond=now.microsecond // 1000 * 1000), size, await root(self._database, size))
        await evidence_store.insert_head(
            self._database,
            node=OWN,
            size=size,
            head=head.encode(),
            certificate_sha256=key.pinned.sha256,
            signature=log.sign_head(head, key=key.private, pinned=key.pinned),
            sign_time=head.time,
        )
        return True


async def root(writer: Writer, size: int) -> bytes:
    """The root of the log as it was when it had so many leaves."""
    known = await evidence_store.nodes(writer, merkle.peaks(size))
    return merkle.root(size, _from(known))


async def inclusion_path(writer: Writer, index: int, size: int) -> list[bytes]:
    """The path that proves a leaf in the tree of a size."""
    return await _read(writer, lambda node: merkle.inclusion_path(index, size, node))


async def consistency_path(writer: Writer, first: int, second: int) -> list[bytes]:
    """The path that proves that the tree of one size continues that of another."""
    return await _read(writer, lambda node: merkle.consistency_path(first, second, node))


async def _read(writer: Writer, path: Callable[[Node], list[bytes]]) -> list[bytes]:
    """Computes a path: once to learn which hashes it takes, and again with them, so that they are read at once."""
    wanted: dict[tuple[int, int], bytes] = {}

    def note(level: int, index: int) -> bytes:
        wanted[level, index] = b""
        return b""

    path(note)
    known = await evidence_store.nodes(writer, wanted)
    return path(_from(known))


def _from(known: dict[tuple[int, int], bytes]) -> Node:
    return lambda level, index: known[level, index]
