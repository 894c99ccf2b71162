"""SQL of organisation keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from services.runtime.database import Database, Row

COLUMNS = (
    "organisation_key_id, use, holder, algorithm, token, batch, state, public_key, private_key, data_key, certificate,"
    " create_time, activate_time, retire_time, revision"
)


async def insert(database: Database, values: Sequence[Any]) -> Row | None:
    """A new key: id, use, holder, algorithm, token, batch, state, public and sealed private key, data key, request id.

    None where the request id was used before.
    """
    return await database.fetchrow(
        "insert into organisation_key (organisation_key_id, use, holder, algorithm, token, batch, state, public_key,"
        " private_key, data_key, request_id) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
        f" on conflict (request_id) do nothing returning {COLUMNS}",
        *values,
    )


async def by_request(database: Database, request_id: UUID) -> Row | None:
    """The key that was made by a request."""
    return await database.fetchrow(f"select {COLUMNS} from organisation_key where request_id = $1", request_id)


async def key(database: Database, key_id: UUID) -> Row | None:
    """A key."""
    return await database.fetchrow(f"select {COLUMNS} from organisation_key where organisation_key_id = $1", key_id)


async def keys(database: Database, *, use: int, before: UUID | None, limit: int | None) -> list[Row]:
    """Keys, latest first; use 0: all."""
    return await database.fetch(
        f"select {COLUMNS} from organisation_key where ($1::smallint = 0 or use = $1)"
        " and ($2::uuid is null or organisation_key_id < $2) order by organisation_key_id desc limit $3",
        use,
        before,
        limit,
    )


async def set_certificate(database: Database, key_id: UUID, *, certificate: bytes, state: int) -> Row | None:
    """Enters the certificate of a key."""
    return await database.fetchrow(
        "update organisation_key set certificate = $2, state = $3, revision = revision + 1"
        f" where organisation_key_id = $1 returning {COLUMNS}",
        key_id,
        certificate,
        state,
    )


async def activate(database: Database, key_id: UUID, *, active: int, retired: int) -> Row | None:
    """Has a key used from now on, and those of the same use and holder no longer."""
    return await database.fetchrow(
        "with chosen as (select use, holder from organisation_key where organisation_key_id = $1),"
        " others as (update organisation_key k set state = $3::smallint, retire_time = clock_timestamp(),"
        " revision = revision + 1 from chosen c where k.use = c.use and k.holder = c.holder"
        " and k.state = $2::smallint and k.organisation_key_id <> $1)"
        " update organisation_key set state = $2::smallint, activate_time = coalesce(activate_time, clock_timestamp()),"
        f" revision = revision + 1 where organisation_key_id = $1 returning {COLUMNS}",
        key_id,
        active,
        retired,
    )


async def retire(database: Database, key_id: UUID, *, state: int, destroy: bool) -> Row | None:
    """Has a key no longer used; with `destroy` its private part is erased."""
    return await database.fetchrow(
        "update organisation_key set state = $2, retire_time = coalesce(retire_time, clock_timestamp()),"
        " private_key = case when $3 then ''::bytea else private_key end,"
        " data_key = case when $3 then ''::bytea else data_key end, revision = revision + 1"
        f" where organisation_key_id = $1 returning {COLUMNS}",
        key_id,
        state,
        destroy,
    )


async def stamp(database: Database) -> tuple[int, int]:
    """Changes whenever a key does."""
    row = await database.fetchrow(
        "select count(*) as number, coalesce(sum(revision), 0)::bigint as total from organisation_key"
    )
    assert row is not None
    return row["number"], row["total"]
