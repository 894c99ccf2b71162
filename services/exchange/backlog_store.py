"""SQL of what waits: time stamps, envelopes, receipts, leaves of the log; and what is known of peers."""

from __future__ import annotations

from services.runtime.database import Connection, Database, Row


async def waiting(database: Database) -> dict[str, Row]:
    """How much waits in each queue, and since when the oldest does."""
    rows = await database.fetch(
        "select 'outgoing_envelopes' as queue, count(*) as number, min(e.create_time) as oldest,"
        " (select f.last_failure from recipient f where f.state = 1 and f.last_failure <> ''"
        " order by f.next_attempt_time desc limit 1) as last_failure"
        " from recipient r join envelope e using (envelope_id) where r.state = 1"
        " union all select 'incoming_envelopes', count(*), min(a.arrive_time), ''"
        " from delivery d join arrival a using (envelope_id) where d.state in (2, 3)"
        " union all select 'receipts', count(*), min(d.settle_time), '' from delivery d where d.receipt_due is not null"
        " union all select 'log_leaves', count(*), min(s.append_time), ''"
        " from evidence v join statement s using (seq) where v.log_index is null"
        " union all select 'certificate_status', count(*), min(refresh_time), coalesce(max(failure), '')"
        " from own_status where failure <> ''"
    )
    return {row["queue"]: row for row in rows}


async def of_peers(database: Database) -> dict[str, Row]:
    """What waits for each subsystem that something waits for."""
    rows = await database.fetch(
        "select r.subsystem, count(*) as number, min(e.create_time) as oldest"
        " from recipient r join envelope e using (envelope_id) where r.state = 1 group by r.subsystem"
    )
    return {row["subsystem"]: row for row in rows}


async def logs(database: Database) -> dict[str, Row]:
    """Of each peer: the last of its heads that this node countersigned, and whether it contradicted itself."""
    rows = await database.fetch(
        "select coalesce(c.node, x.node) as node, coalesce(c.tree_size, 0) as tree_size, x.node is not null as"
        " contradicted from (select node, max(tree_size) as tree_size from countersignature where signer = ''"
        " and node <> '' group by node) c full join (select distinct node from contradiction) x on x.node = c.node"
    )
    return {row["node"]: row for row in rows}


async def is_full(connection: Connection, subsystem: str, *, bound: int) -> bool:
    """Whether as many envelopes wait to be brought to a subsystem as may."""
    found: bool = await connection.fetchval(
        "select exists (select from recipient where subsystem = $1 and state = 1 offset $2)", subsystem, bound - 1
    )
    return found


async def is_inbox_full(database: Database, subsystem: str, *, bound: int) -> bool:
    """Whether as many envelopes wait to be received by a subsystem of this node as may."""
    found: bool = await database.fetchval(
        "select exists (select from delivery where subsystem = $1 and state in (2, 3) offset $2)", subsystem, bound - 1
    )
    return found
