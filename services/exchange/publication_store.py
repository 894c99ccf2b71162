"""SQL of what the publisher works on, and of registrations."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from services.exchange.publication import Change, Entries, Entry, Key
from services.runtime.database import Connection, Database, Row

REGISTRATION = (
    "registration_id, instance, own, applicant, document, state, rejection, create_time, decide_time,"
    " directory_version, revision"
)


async def insert_publication(
    transaction: Connection, *, instance: str, lifetime: timedelta, parameters: bytes, entries: Entries
) -> None:
    """Begins to publish a mesh."""
    await transaction.execute(
        "insert into publication (instance, lifetime, parameters) values ($1, $2, $3)", instance, lifetime, parameters
    )
    await _set(transaction, instance, entries)


async def publication(transaction: Connection | Database, instance: str) -> Row | None:
    """How a mesh is published; None where this node does not."""
    return await transaction.fetchrow(
        "select instance, lifetime, parameters, changed from publication where instance = $1", instance
    )


async def lock(transaction: Connection, instance: str) -> Row | None:
    """As `publication`, kept from others until the end of the transaction."""
    return await transaction.fetchrow(
        "select instance, lifetime, parameters, changed from publication where instance = $1 for update", instance
    )


async def entries(transaction: Connection, instance: str) -> dict[Key, bytes]:
    """The directory as it is to be."""
    rows = await transaction.fetch("select kind, identifier, content from draft_entry where instance = $1", instance)
    return {(Entry(row["kind"]), row["identifier"]): row["content"] for row in rows}


async def apply(transaction: Connection, instance: str, change: Change) -> None:
    """Changes entries; they wait for the next directory."""
    await _set(transaction, instance, change.set)
    for kind, identifier in change.remove:
        await transaction.execute(
            "delete from draft_entry where instance = $1 and kind = $2 and identifier = $3",
            instance,
            kind,
            identifier,
        )
    await transaction.execute("update publication set changed = true where instance = $1", instance)


async def set_parameters(transaction: Connection, instance: str, parameters: bytes) -> None:
    """Sets what all nodes go by."""
    await transaction.execute(
        "update publication set parameters = $2, changed = true where instance = $1", instance, parameters
    )


async def set_published(transaction: Connection, instance: str, *, version: int, approved: int, published: int) -> None:
    """Records that nothing waits any more: approved registrations took effect in this version."""
    await transaction.execute("update publication set changed = false where instance = $1", instance)
    await transaction.execute(
        "update registration set state = $4, directory_version = $2, revision = revision + 1"
        " where instance = $1 and state = $3 and directory_version = 0",
        instance,
        version,
        approved,
        published,
    )


async def _set(transaction: Connection, instance: str, changed: Entries) -> None:
    await transaction.executemany(
        "insert into draft_entry (instance, kind, identifier, content) values ($1, $2, $3, $4)"
        " on conflict (instance, kind, identifier) do update set content = excluded.content",
        [(instance, kind, identifier, content) for (kind, identifier), content in changed.items()],
    )


# Registrations


async def insert_registration(
    database: Database, *, registration_id: UUID, instance: str, own: bool, applicant: str, document: bytes, state: int
) -> Row | None:
    """A new registration; None where there is one of this id."""
    return await database.fetchrow(
        "insert into registration (registration_id, instance, own, applicant, document, state)"
        f" values ($1, $2, $3, $4, $5, $6) on conflict do nothing returning {REGISTRATION}",
        registration_id,
        instance,
        own,
        applicant,
        document,
        state,
    )


async def registration(transaction: Connection | Database, registration_id: UUID) -> Row | None:
    """A registration."""
    return await transaction.fetchrow(
        f"select {REGISTRATION} from registration where registration_id = $1", registration_id
    )


async def registrations(database: Database, *, states: Sequence[int], before: UUID | None, limit: int) -> list[Row]:
    """Registrations in these states, latest first; no states: all."""
    return await database.fetch(
        f"select {REGISTRATION} from registration where ($1::smallint[] = '{{}}' or state = any($1))"
        " and ($2::uuid is null or registration_id < $2) order by registration_id desc limit $3",
        states,
        before,
        limit,
    )


async def undecided(database: Database, *, states: Sequence[int]) -> list[Row]:
    """This node's registrations that the publisher is to be asked about."""
    return await database.fetch(
        f"select {REGISTRATION} from registration where own and state = any($1::smallint[]) order by registration_id",
        states,
    )


async def set_state(
    transaction: Connection | Database,
    registration_id: UUID,
    *,
    among: Sequence[int],
    state: int,
    rejection: str = "",
    directory_version: int = 0,
) -> Row | None:
    """Moves a registration on; None where it is in none of the states from which it could."""
    return await transaction.fetchrow(
        "update registration set state = $3::smallint, rejection = $4, directory_version = $5, revision = revision + 1,"
        " decide_time = case when $3::smallint in (4, 6) then coalesce(decide_time, clock_timestamp())"
        " else decide_time end"
        f" where registration_id = $1 and state = any($2::smallint[]) returning {REGISTRATION}",
        registration_id,
        among,
        state,
        rejection,
        directory_version,
    )


# Anchors on their way to enough signatures


async def pending_anchor(database: Database, instance: str, version: int) -> Row | None:
    """An anchor that does not have enough signatures, or had not."""
    return await database.fetchrow(
        "select signed, effect_time from pending_anchor where instance = $1 and version = $2", instance, version
    )


async def set_pending_anchor(
    transaction: Connection, instance: str, version: int, signed: bytes, *, effect_time: datetime | None
) -> None:
    """Keeps an anchor with the signatures that it has; one that took effect stays as it is."""
    await transaction.execute(
        "insert into pending_anchor as p (instance, version, signed, effect_time) values ($1, $2, $3, $4)"
        " on conflict (instance, version) do update set signed = excluded.signed, effect_time = excluded.effect_time"
        " where p.effect_time is null",
        instance,
        version,
        signed,
        effect_time,
    )
