"""Officers' proposals in PostgreSQL."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from uuid import UUID

from services.authorisations.mandates import Actor
from services.authorisations.proposals import Proposal, State
from services.runtime.database import Connection, Database, Row

_COLUMNS = (
    "proposal_id, change, purpose, stored, proposed_by, create_time, expire_time, decided_by, decide_time, result,"
    " token, revision"
)


async def insert(transaction: Connection, proposal: Proposal, *, request_id: UUID, digest: bytes) -> None:
    """Adds a proposal, with the request that made it."""
    await transaction.execute(
        f"insert into proposal ({_COLUMNS}, officer, request_id, digest)"
        " values ($1, $2, $3, $4, $5, $6, $7, null, null, '', $8, $9, $10, $11, $12)",
        proposal.proposal_id,
        proposal.change,
        proposal.purpose,
        proposal.stored,
        json.dumps(asdict(proposal.proposed_by)),
        proposal.create_time,
        proposal.expire_time,
        proposal.token,
        proposal.revision,
        proposal.proposed_by.person,
        request_id,
        digest,
    )


async def update(transaction: Connection, proposal: Proposal) -> None:
    """Writes what a decision changes."""
    await transaction.execute(
        "update proposal set stored = $2, decided_by = $3, decide_time = $4, result = $5, token = $6, revision = $7"
        " where proposal_id = $1",
        proposal.proposal_id,
        proposal.stored,
        json.dumps(asdict(proposal.decided_by)) if proposal.decided_by else None,
        proposal.decide_time,
        proposal.result,
        proposal.token,
        proposal.revision,
    )


async def find(reader: Database | Connection, proposal_id: UUID) -> Proposal | None:
    """The proposal of this id."""
    row = await reader.fetchrow(f"select {_COLUMNS} from proposal where proposal_id = $1", proposal_id)
    return _proposal(row) if row else None


async def remembered(reader: Connection, *, officer: str, request_id: UUID) -> tuple[bytes, Proposal] | None:
    """The digest of an officer's earlier request, and what it made."""
    row = await reader.fetchrow(
        f"select digest, {_COLUMNS} from proposal where officer = $1 and request_id = $2", officer, request_id
    )
    return (row["digest"], _proposal(row)) if row else None


async def page(reader: Database, *, state: int, at: datetime, before: UUID | None, size: int) -> list[Proposal]:
    """At most `size` proposals older than one, the newest first: in a state at an instant, or 0 for in any."""
    rows = await reader.fetch(
        f"select {_COLUMNS} from proposal where ($1::uuid is null or proposal_id < $1)"
        " and ($2 = 0 or $2 = case when stored = 1 and expire_time <= $3 then 5 else stored end)"
        " order by proposal_id desc limit $4",
        before,
        state,
        at,
        size,
    )
    return [_proposal(row) for row in rows]


def _proposal(row: Row) -> Proposal:
    return Proposal(
        proposal_id=row["proposal_id"],
        change=row["change"],
        purpose=row["purpose"],
        stored=State(row["stored"]),
        proposed_by=Actor(**json.loads(row["proposed_by"])),
        create_time=row["create_time"],
        expire_time=row["expire_time"],
        decided_by=Actor(**json.loads(row["decided_by"])) if row["decided_by"] else None,
        decide_time=row["decide_time"],
        result=row["result"],
        token=row["token"],
        revision=row["revision"],
    )
