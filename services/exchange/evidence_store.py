"""SQL of evidence: what is kept of each statement, the log, time stamps, heads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from services.runtime.database import Connection, Database, Row

Writer = Connection | Database

Key = tuple[bytes, bool]
"""Under which a statement is kept: its digest, and whether this node signed it."""

OWN = ""
"""How the tables of heads spell this node."""


@dataclass(frozen=True)
class Certificate:
    """A signer's certificate."""

    sha256: bytes
    certificate: bytes
    """DER."""
    chain: tuple[bytes, ...]
    """Those of the authorities above it, DER."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What goes with a statement that is written, by its key."""

    key: Key
    stamp_state: int
    status_sha256: bytes | None
    head_state: int
    body_state: int
    content_key: bytes
    content_expire_time: datetime | None
    expire_time: datetime


@dataclass(frozen=True)
class Kept:
    """What is kept beside statements: once for each, and once for all that it proves."""

    evidence: Sequence[Evidence] = ()
    certificates: Sequence[Certificate] = ()
    statuses: Mapping[bytes, bytes] = field(default_factory=dict)
    """What responders said, by its SHA-256."""
    content: Sequence[tuple[Key, int, int, bytes]] = ()
    """Key of the statement, part, frame and data."""


async def insert_content(transaction: Connection, frames: Iterable[tuple[int, int, int, bytes]]) -> None:
    """Keeps content: number of the statement, part, frame and data."""
    await transaction.executemany("insert into content (seq, part, frame, data) values ($1, $2, $3, $4)", list(frames))


async def content(database: Database, seq: int, part: int, *, first: int) -> AsyncIterator[tuple[int, bytes]]:
    """Frames of a part, with their numbers."""
    frame = first
    while True:
        data = await database.fetchval(
            "select data from content where seq = $1 and part = $2 and frame = $3", seq, part, frame
        )
        if data is None:
            return
        yield frame, data
        frame += 1


# What is shown

VIEW = (
    "select s.seq, s.sha256, s.own, s.exchange_id, s.kind, s.subsystem, s.content, s.signature, s.time_stamp,"
    " s.policy, s.append_time, e.log_index, e.stamp_state, e.stamp_batch, e.stamp_place, e.stamp_time, e.head_state,"
    " e.body_state, e.content_key, e.content_expire_time, e.expire_time, c.certificate, c.chain, o.answer"
    " from statement s join evidence e using (seq)"
    " left join certificate_status o on o.sha256 = e.status_sha256"
    " left join signing_certificate c on c.sha256 = s.certificate_sha256"
)


async def statement(database: Database, sha256: bytes, *, subsystems: Sequence[str]) -> Row | None:
    """A statement with its evidence, where it is kept for one of these subsystems; the one signed here first."""
    return await database.fetchrow(
        f"{VIEW} where s.sha256 = $1 and s.subsystem = any($2) order by s.own desc limit 1", sha256, subsystems
    )


async def statements(
    database: Database,
    *,
    subsystem: str,
    exchange_id: Any,
    kinds: Sequence[int],
    start: datetime | None,
    end: datetime | None,
    before: int | None,
    limit: int,
) -> list[Row]:
    """Statements that are kept for a subsystem, latest first."""
    return await database.fetch(
        f"{VIEW} where s.subsystem = $1 and ($2::uuid is null or s.exchange_id = $2)"
        " and (cardinality($3::smallint[]) = 0 or s.kind = any($3))"
        " and ($4::timestamptz is null or s.append_time >= $4) and ($5::timestamptz is null or s.append_time < $5)"
        " and ($6::bigint is null or s.seq < $6)"
        " order by s.seq desc limit $7",
        subsystem,
        exchange_id,
        kinds,
        start,
        end,
        before,
        limit,
    )


_REFUSED = (
    "select refused_proof_id, exchange_id, sha256, subsystem, reason, statement as content, signature,"
    " certificate_status, log_index, refuse_time from refused_proof"
)


async def refused(database: Database, sha256: bytes, *, subsystems: Sequence[str]) -> Row | None:
    """The last refusal of a statement, where it was for one of these subsystems."""
    return await database.fetchrow(
        f"{_REFUSED} where sha256 = $1 and subsystem = any($2) order by refused_proof_id desc limit 1",
        sha256,
        subsystems,
    )


async def refusals(
    database: Database,
    *,
    subsystem: str,
    exchange_id: Any,
    start: datetime | None,
    end: datetime | None,
    before: Any,
    limit: int,
) -> list[Row]:
    """What was refused of what was for a subsystem, latest first."""
    return await database.fetch(
        f"{_REFUSED} where subsystem = $1 and ($2::uuid is null or exchange_id = $2)"
        " and ($3::timestamptz is null or refuse_time >= $3) and ($4::timestamptz is null or refuse_time < $4)"
        " and ($5::uuid is null or refused_proof_id < $5) order by refused_proof_id desc limit $6",
        subsystem,
        exchange_id,
        start,
        end,
        before,
        limit,
    )


async def retain(database: Database, seq: int, *, expire: datetime, content_expire: datetime | None) -> None:
    """Has a statement, and what is kept of its content, kept for longer. Never shortens."""
    await database.execute(
        "update evidence set expire_time = greatest(expire_time, $2),"
        " content_expire_time = case when content_expire_time > now() then greatest(content_expire_time, $3)"
        " else content_expire_time end where seq = $1",
        seq,
        expire,
        content_expire,
    )


async def erase_content(database: Database, *, now: datetime, limit: int) -> int:
    """Erases content whose time is over, and the keys under which it was; returns of how many statements."""
    rows = await database.fetch(
        "with due as (select seq from evidence where (head_state in (2, 3) or body_state in (2, 3))"
        " and content_expire_time <= $1 limit $2 for update skip locked),"
        " gone as (delete from content c using due where c.seq = due.seq)"
        " update evidence e set content_key = '',"
        " head_state = case when head_state in (2, 3) then 4 else head_state end,"
        " body_state = case when body_state in (2, 3) then 4 else body_state end from due where e.seq = due.seq"
        " returning e.seq",
        now,
        limit,
    )
    return len(rows)


async def erase_statements(database: Database, *, now: datetime, limit: int) -> int:
    """Erases statements whose time is over; returns how many. Their hashes stay in the log."""
    rows = await database.fetch(
        "delete from statement where seq in (select seq from evidence where expire_time <= $1 and log_index is not null"
        " order by expire_time limit $2) returning seq",
        now,
        limit,
    )
    return len(rows)


# The log

_LEAF = "s.seq, null::uuid as refused, s.sha256, s.own, s.signature, s.append_time"


async def unlogged(transaction: Connection, limit: int) -> list[Row]:
    """Statements that wait for the log, in the journal's order, and what was refused."""
    return await transaction.fetch(
        f"(select {_LEAF} from evidence e join statement s using (seq)"
        " where e.log_index is null order by e.seq limit $1)"
        " union all (select null, refused_proof_id, sha256, false, signature, refuse_time from refused_proof"
        " where log_index is null and sha256 <> '' order by refuse_time limit $1) limit $1",
        limit,
    )


async def leaf(database: Database, sha256: bytes) -> Row | None:
    """What a statement's leaf is made of; of the one signed here where there are two, of a refused one at last."""
    return await database.fetchrow(
        f"select {_LEAF}, e.log_index from evidence e join statement s using (seq) where s.sha256 = $1"
        " and e.log_index is not null union all select null, refused_proof_id, sha256, false, signature, refuse_time,"
        " log_index from refused_proof where sha256 = $1 and log_index is not null order by own desc, seq limit 1",
        sha256,
    )


async def log_size(writer: Writer) -> int:
    """How many leaves the log has."""
    return int(await writer.fetchval("select coalesce(max(index) + 1, 0) from log_node where level = 0"))


async def insert_leaves(
    transaction: Connection, rows: Sequence[Row], *, first: int, nodes: Mapping[tuple[int, int], bytes]
) -> None:
    """Enters what was `unlogged` in the log from a place on, and the hashes that became complete by it."""
    await transaction.execute(
        "insert into log_node (level, index, hash) select * from unnest($1::smallint[], $2::bigint[], $3::bytea[])",
        [level for level, _ in nodes],
        [index for _, index in nodes],
        list(nodes.values()),
    )
    kept = [(row["seq"], first + at) for at, row in enumerate(rows) if row["refused"] is None]
    await transaction.execute(
        "update evidence e set log_index = g.place from unnest($1::bigint[], $2::bigint[]) as g (seq, place)"
        " where e.seq = g.seq",
        [seq for seq, _ in kept],
        [place for _, place in kept],
    )
    refused = [(row["refused"], first + at) for at, row in enumerate(rows) if row["refused"] is not None]
    if refused:
        await transaction.executemany("update refused_proof set log_index = $2 where refused_proof_id = $1", refused)


async def nodes(writer: Writer, wanted: Iterable[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
    """Hashes of the log, by level and index."""
    wanted = list(wanted)
    rows = await writer.fetch(
        "select n.level, n.index, n.hash from log_node n"
        " join unnest($1::smallint[], $2::bigint[]) as w (level, index) using (level, index)",
        [level for level, _ in wanted],
        [index for _, index in wanted],
    )
    return {(row["level"], row["index"]): row["hash"] for row in rows}


async def leaf_hashes(database: Database, *, start: int, limit: int) -> bytes:
    """Hashes of leaves, one after the other."""
    rows = await database.fetch(
        "select hash from log_node where level = 0 and index >= $1 order by index limit $2", start, limit
    )
    return b"".join(row["hash"] for row in rows)


# Heads

_HEAD = "node, tree_size, head, certificate_sha256, signature, sign_time, stamp_state, stamp_batch, stamp_place"


async def insert_head(
    writer: Writer,
    *,
    node: str,
    size: int,
    head: bytes,
    certificate_sha256: bytes,
    signature: bytes,
    sign_time: datetime,
) -> bool:
    """Keeps a head; says whether there was none of this size."""
    return (
        await writer.fetchval(
            "insert into tree_head (node, tree_size, head, certificate_sha256, signature, sign_time)"
            " values ($1, $2, $3, $4, $5, $6) on conflict do nothing returning tree_size",
            node,
            size,
            head,
            certificate_sha256,
            signature,
            sign_time,
        )
        is not None
    )


async def head(writer: Writer, node: str, size: int | None = None) -> Row | None:
    """The head of a size; without one the latest."""
    return await writer.fetchrow(
        f"select {_HEAD} from tree_head where node = $1 and ($2::bigint is null or tree_size = $2)"
        " order by tree_size desc limit 1",
        node,
        size,
    )


async def heads(database: Database, node: str, *, before: int | None, limit: int) -> list[Row]:
    """Heads, latest first."""
    return await database.fetch(
        f"select {_HEAD} from tree_head where node = $1 and ($2::bigint is null or tree_size < $2)"
        " order by tree_size desc limit $3",
        node,
        before,
        limit,
    )


async def insert_countersignature(
    writer: Writer, *, node: str, size: int, signer: str, time: datetime, certificate_sha256: bytes, value: bytes
) -> None:
    """Keeps a word on a head; the first of each signer stays."""
    await writer.execute(
        "insert into countersignature (node, tree_size, signer, time, certificate_sha256, value)"
        " values ($1, $2, $3, $4, $5, $6) on conflict do nothing",
        node,
        size,
        signer,
        time,
        certificate_sha256,
        value,
    )


async def countersignatures(writer: Writer, node: str, sizes: Sequence[int]) -> list[Row]:
    """Words on heads of these sizes."""
    return await writer.fetch(
        "select node, tree_size, signer, time, certificate_sha256, value from countersignature"
        " where node = $1 and tree_size = any($2) order by tree_size, signer",
        node,
        sizes,
    )


async def last_countersigned(writer: Writer, node: str, signer: str) -> Row | None:
    """The largest head of a node on which a signer has given its word."""
    return await writer.fetchrow(
        "select h.node, h.tree_size, h.head, h.certificate_sha256 as head_certificate_sha256, c.time,"
        " c.certificate_sha256, c.value from countersignature c"
        " join tree_head h using (node, tree_size) where c.node = $1 and c.signer = $2"
        " order by c.tree_size desc limit 1",
        node,
        signer,
    )


async def set_heads_aside(connection: Connection, node: str, name: str) -> None:
    """Keeps all heads of a node, and the words on them, under another name."""
    columns = _HEAD.removeprefix("node, ")
    await connection.execute(
        f"insert into tree_head ({_HEAD}) select $2, {columns} from tree_head where node = $1", node, name
    )
    await connection.execute("update countersignature set node = $2 where node = $1", node, name)
    await connection.execute("delete from tree_head where node = $1", node)


async def insert_contradiction(
    database: Database,
    *,
    node: str,
    earlier_size: int,
    head: bytes,
    signature: bytes,
    certificate_sha256: bytes,
    path: Sequence[bytes],
) -> None:
    """Keeps a head that contradicts an earlier one."""
    await database.execute(
        "insert into contradiction (node, earlier_size, head, signature, certificate_sha256, path)"
        " values ($1, $2, $3, $4, $5, $6)",
        node,
        earlier_size,
        head,
        signature,
        certificate_sha256,
        list(path),
    )


# Time stamps


async def unstamped(database: Database, limit: int) -> list[Row]:
    """Statements that wait for their time stamp, oldest first, with what their signature's file is made of."""
    return await database.fetch(
        f"{VIEW} where e.stamp_state = 1 order by e.seq limit $1",
        limit,
    )


async def unstamped_heads(database: Database, limit: int) -> list[Row]:
    """This node's heads that wait for their time stamp."""
    return await database.fetch(
        f"select {_HEAD} from tree_head where node = '' and stamp_state = 1 order by tree_size limit $1", limit
    )


async def insert_batch(
    transaction: Connection, *, members: bytes, token: bytes, stamp_time: datetime, authority: str
) -> int:
    """Keeps a batch; returns its number."""
    return int(
        await transaction.fetchval(
            "insert into stamp_batch (members, token, stamp_time, authority) values ($1, $2, $3, $4) returning batch",
            members,
            token,
            stamp_time,
            authority,
        )
    )


async def set_stamped(
    transaction: Connection, batch: int, stamp_time: datetime, *, statements: Sequence[int], sizes: Sequence[int]
) -> None:
    """Enters that statements, and then heads, were stamped in a batch, in this order."""
    await transaction.execute(
        "update evidence e set stamp_state = 2, stamp_batch = $1, stamp_time = $2, stamp_place = g.place - 1"
        " from unnest($3::bigint[]) with ordinality as g (seq, place) where e.seq = g.seq and e.stamp_state = 1",
        batch,
        stamp_time,
        statements,
    )
    await transaction.execute(
        "update tree_head h set stamp_state = 2, stamp_batch = $1, stamp_place = $2 + g.place - 1"
        " from unnest($3::bigint[]) with ordinality as g (size, place) where h.node = '' and h.tree_size = g.size",
        batch,
        len(statements),
        sizes,
    )


async def batch(database: Database, number: int) -> Row | None:
    """A batch."""
    return await database.fetchrow(
        "select batch, members, token, stamp_time, authority from stamp_batch where batch = $1", number
    )


async def pending(database: Database) -> Row:
    """How many statements wait for their time stamp, and since when the oldest does."""
    row = await database.fetchrow(
        "select count(*) as number, (select append_time from statement where seq ="
        " (select min(seq) from evidence where stamp_state = 1)) as oldest from evidence where stamp_state = 1"
    )
    assert row is not None
    return row


async def set_stamping(database: Database, *, pending: int, oldest: datetime | None, failing: datetime | None) -> None:
    """Tells the other processes how stamping goes."""
    await database.execute(
        "update stamping set pending = $1, oldest = $2, failing_since = $3, look_time = clock_timestamp()",
        pending,
        oldest,
        failing,
    )


async def stamping_rate(database: Database) -> float:
    """How many statements and heads a second were stamped in batches, over the last minute."""
    stamped: int = await database.fetchval(
        "select coalesce(sum(octet_length(members)) / 32, 0)::bigint from"
        " (select members, stamp_time from stamp_batch order by batch desc limit 100) b"
        " where stamp_time > clock_timestamp() - interval '1 minute'"
    )
    return stamped / 60


async def stamping(database: Database) -> Row:
    """How stamping goes."""
    row = await database.fetchrow("select pending, oldest, failing_since from stamping")
    assert row is not None
    return row
