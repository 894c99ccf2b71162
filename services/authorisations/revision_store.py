"""Revisions of the facts in PostgreSQL."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from services.runtime.database import Connection, Database, Row
from services.runtime.facts.tokens import EPOCH_BYTES

CHANNEL = "facts"
"""Where PostgreSQL tells of each revision once it has committed."""


@dataclass(frozen=True)
class Head:
    """A revision of the facts."""

    epoch: bytes
    revision: int
    commit_time: datetime


async def begin_life(writer: Database, life: str) -> None:
    """Gives the facts the epoch of a life of the database.

    After a restore the same revisions are given again for other facts: the
    tokens of the life that was lost are known by their epoch, and refused. The
    events that are kept are published again: streams may not have come back,
    and consumers drop what they have dealt with.
    """
    epoch = hashlib.sha256(life.encode()).digest()[:EPOCH_BYTES]
    await writer.execute(
        "with begun as (update fact_head set epoch = $1 where epoch <> $1 returning 1)"
        " update outbox set publish_time = null where publish_time is not null and exists (select from begun)",
        epoch,
    )


async def advance(transaction: Connection, *, now: datetime) -> Head:
    """Takes the next revision, and has those who listen told when it commits.

    Other writers of facts wait until this transaction ends.
    """
    row = await transaction.fetchrow(
        "with next as (update fact_head set revision = revision + 1, commit_time = $1"
        " returning epoch, revision, commit_time)"
        " select epoch, revision, commit_time, pg_notify($2, revision::text) from next",
        now,
        CHANNEL,
    )
    assert row is not None
    return Head(row["epoch"], row["revision"], row["commit_time"])


async def head(reader: Database | Connection) -> Head:
    """The newest revision."""
    row = await reader.fetchrow("select epoch, revision, commit_time from fact_head")
    assert row is not None
    return Head(**row)


async def keep(transaction: Connection, head: Head, parts: Sequence[bytes]) -> None:
    """Keeps what a revision changed."""
    await transaction.execute(
        "insert into fact_change (revision, part, content, commit_time)"
        " select $1, number - 1, content, $3 from unnest($2::bytea[]) with ordinality as given (content, number)",
        head.revision,
        parts,
        head.commit_time,
    )


async def changes(reader: Database | Connection, *, after: int, limit: int) -> list[Row]:
    """At most `limit` parts of the revisions after one, in order, and whether each is its revision's last."""
    return await reader.fetch(
        "select revision, part, content, commit_time,"
        " part = (select max(other.part) from fact_change other where other.revision = fact_change.revision) as last"
        " from fact_change where (revision, part) > ($1, $2) order by revision, part limit $3",
        after,
        2**31 - 1,
        limit,
    )


async def parts(reader: Database | Connection, revision: int, *, after: int) -> list[Row]:
    """The parts of one revision after one of them."""
    return await reader.fetch(
        "select revision, part, content, commit_time, part = (select max(other.part) from fact_change other"
        " where other.revision = $1) as last from fact_change where revision = $1 and part > $2 order by part",
        revision,
        after,
    )


async def forget(writer: Database, *, before: datetime) -> None:
    """Deletes changes that were committed before a time, but for the newest revision's."""
    await writer.execute(
        "delete from fact_change where commit_time < $1 and revision < (select revision from fact_head)", before
    )


async def oldest(reader: Database | Connection) -> int:
    """The oldest revision whose changes are kept; 1 where there are none yet."""
    found: int = await reader.fetchval("select coalesce(min(revision), 1) from fact_change")
    return found
