"""The audit record in PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from services.runtime.database import Connection, Database, KeptConnection, Row


class Entry(NamedTuple):
    """One entry of the record, as it is kept."""

    record: str
    """A UUID."""
    record_time: datetime
    kind: int
    client: str
    resource: str
    parties: tuple[str, ...]
    content: bytes


async def append(writer: KeptConnection | Connection, entries: Sequence[Entry]) -> None:
    """Adds entries in one statement; one that is there already stays as it is."""
    await writer.execute(
        "insert into audit_record (record, record_time, kind, client, resource, parties, content)"
        " select record, record_time, kind, client, resource, string_to_array(parties, ' '), content"
        " from unnest($1::uuid[], $2::timestamptz[], $3::smallint[], $4::text[], $5::text[], $6::text[], $7::bytea[])"
        " as entry (record, record_time, kind, client, resource, parties, content) on conflict (record) do nothing",
        [entry.record for entry in entries],
        [entry.record_time for entry in entries],
        [entry.kind for entry in entries],
        [entry.client for entry in entries],
        [entry.resource for entry in entries],
        [" ".join(entry.parties) for entry in entries],
        [entry.content for entry in entries],
    )


async def take_waiting(transaction: Connection, limit: int) -> list[Row]:
    """Entries that are not in the chain yet, in the order of their ids; they wait no longer once this commits."""
    return await transaction.fetch(
        "with taken as (delete from audit_waiting where record = any(array("
        "   select record from audit_waiting order by record limit $1)) returning record)"
        " select record, content from audit_record join taken using (record) where not exists"
        " (select from audit_link where audit_link.record = audit_record.record) order by record",
        limit,
    )


async def last_link(reader: Connection) -> tuple[int, bytes]:
    """The sequence and hash of the newest entry in the chain; 0 and zero bytes where it is empty."""
    row = await reader.fetchrow("select sequence, hash from audit_link order by sequence desc limit 1")
    return (row["sequence"], row["hash"]) if row else (0, bytes(32))


async def link(transaction: Connection, links: Sequence[tuple[int, UUID, bytes, bytes]]) -> None:
    """Adds to the chain: sequence, record, previous hash, hash."""
    await transaction.execute(
        "insert into audit_link (sequence, record, previous_hash, hash)"
        " select * from unnest($1::bigint[], $2::uuid[], $3::bytea[], $4::bytea[])",
        *(list(column) for column in zip(*links, strict=True)),
    )


async def last_head(reader: Database | Connection) -> Row | None:
    """The newest signed head."""
    return await reader.fetchrow(
        "select head, sequence, hash, sign_time, jws from audit_head order by sequence desc limit 1"
    )


async def add_head(
    transaction: Connection, *, head: UUID, sequence: int, content: bytes, sign_time: datetime, jws: str
) -> None:
    """Adds a signed head."""
    await transaction.execute(
        "insert into audit_head (head, sequence, hash, sign_time, jws) values ($1, $2, $3, $4, $5)",
        head,
        sequence,
        content,
        sign_time,
        jws,
    )


async def heads(reader: Database, *, before: int, size: int) -> list[Row]:
    """At most `size` heads below a sequence, the newest first; 0 for from the newest."""
    return await reader.fetch(
        "select head, sequence, hash, sign_time, jws from audit_head"
        " where $1 = 0 or sequence < $1 order by sequence desc limit $2",
        before,
        size,
    )


async def page(
    reader: Database,
    *,
    party: str,
    client: str = "",
    resource: str = "",
    kinds: Collection[int] = (),
    start: datetime | None,
    end: datetime | None,
    before: UUID | None,
    size: int,
) -> list[Row]:
    """At most `size` entries, the newest first; empty conditions count for any."""
    return await reader.fetch(
        "select record, content, coalesce(sequence, 0) as sequence"
        " from audit_record left join audit_link using (record)"
        " where ($1 = '' or parties @> array[$1]) and ($2 = '' or client = $2) and ($3 = '' or resource = $3)"
        " and (cardinality($4::smallint[]) = 0 or kind = any($4))"
        " and ($5::timestamptz is null or record_time >= $5) and ($6::timestamptz is null or record_time < $6)"
        " and ($7::uuid is null or record < $7) order by record desc limit $8",
        party,
        client,
        resource,
        sorted(kinds),
        start,
        end,
        before,
        size,
    )


async def chain(reader: Database, *, first: int, last: int, limit: int) -> list[Row]:
    """A stretch of the chain, with the entries' content."""
    return await reader.fetch(
        "select sequence, previous_hash, hash, content from audit_link join audit_record using (record)"
        " where sequence between $1 and $2 order by sequence limit $3",
        first,
        last,
        limit,
    )
