"""SQL of services, rights, local groups, hostings and policies. Every change makes the next revision of the whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from services.runtime.database import Connection, Database, Row

SERVICE = "identifier, content, description, description_type, create_time, update_time, revision"
RIGHT = "access_right_id, parent, content, create_time, creator"
POLICY = "policy_id, revision, content, create_time"


@asynccontextmanager
async def changing(database: Database) -> AsyncIterator[Connection]:
    """A transaction that changes the configuration."""
    async with database.transaction() as transaction:
        await transaction.execute("update configuration set revision = revision + 1")
        yield transaction


async def revision(source: Connection | Database) -> int:
    """The revision of the whole."""
    return int(await source.fetchval("select revision from configuration"))


# Services


async def services(source: Connection | Database) -> list[Row]:
    """All services, without their descriptions."""
    return await source.fetch(
        "select identifier, content, encode(sha256(description), 'hex') as description_sha256, create_time,"
        " update_time, revision from service order by identifier"
    )


async def service(source: Connection | Database, identifier: str) -> Row | None:
    """A service with its description."""
    return await source.fetchrow(f"select {SERVICE} from service where identifier = $1", identifier)


async def service_of_request(source: Connection | Database, request_id: UUID) -> str | None:
    """The service that was made by a request."""
    found = await source.fetchval("select identifier from service where request_id = $1", request_id)
    return found if found is None else str(found)


async def insert_service(transaction: Connection, identifier: str, content: bytes, *, request_id: UUID | None) -> bool:
    """A new service; False where there is one of the name."""
    return (
        await transaction.fetchval(
            "insert into service (identifier, content, request_id) values ($1, $2, $3)"
            " on conflict do nothing returning true",
            identifier,
            content,
            request_id,
        )
        is True
    )


async def set_service(transaction: Connection, identifier: str, content: bytes) -> None:
    """Changes a service."""
    await transaction.execute(
        "update service set content = $2, update_time = clock_timestamp(), revision = revision + 1"
        " where identifier = $1",
        identifier,
        content,
    )


async def set_description(
    transaction: Connection, identifier: str, content: bytes, *, description: bytes, media_type: str
) -> None:
    """Sets a service's description, and the endpoints in its content."""
    await transaction.execute(
        "update service set content = $2, description = $3, description_type = $4, update_time = clock_timestamp(),"
        " revision = revision + 1 where identifier = $1",
        identifier,
        content,
        description,
        media_type,
    )


async def delete_service(transaction: Connection, identifier: str) -> None:
    """Deletes a service with its rights."""
    await transaction.execute("delete from service where identifier = $1", identifier)
    await transaction.execute("delete from access_right where parent = $1", f"services {identifier}")


# Rights


async def rights(source: Connection | Database) -> list[Row]:
    """All rights, oldest first."""
    return await source.fetch(f"select {RIGHT} from access_right order by access_right_id")


async def insert_right(transaction: Connection, *, right_id: UUID, parent: str, content: bytes, creator: str) -> Row:
    """Gives a right; the same right given before is returned."""
    row = await transaction.fetchrow(
        "insert into access_right (access_right_id, parent, content, creator) values ($1, $2, $3, $4)"
        f" on conflict (parent, sha256(content)) do update set parent = excluded.parent returning {RIGHT}",
        right_id,
        parent,
        content,
        creator,
    )
    assert row is not None
    return row


async def set_right(transaction: Connection, right_id: UUID, content: bytes) -> None:
    """Changes what a right allows, where the operations that it names have changed."""
    await transaction.execute("update access_right set content = $2 where access_right_id = $1", right_id, content)


async def delete_right(transaction: Connection, right_id: UUID, *, parent: str) -> Row | None:
    """Takes a right back."""
    return await transaction.fetchrow(
        f"delete from access_right where access_right_id = $1 and parent = $2 returning {RIGHT}", right_id, parent
    )


# Local groups


async def groups(source: Connection | Database) -> list[Row]:
    """All local groups."""
    return await source.fetch("select subsystem, code, content, revision from local_group order by subsystem, code")


async def set_group(transaction: Connection, subsystem: str, code: str, content: bytes) -> int:
    """Sets a local group; returns its revision."""
    return int(
        await transaction.fetchval(
            "insert into local_group as g (subsystem, code, content) values ($1, $2, $3)"
            " on conflict (subsystem, code) do update set content = excluded.content, revision = g.revision + 1"
            " returning revision",
            subsystem,
            code,
            content,
        )
    )


async def delete_group(transaction: Connection, subsystem: str, code: str) -> None:
    """Deletes a local group."""
    await transaction.execute("delete from local_group where subsystem = $1 and code = $2", subsystem, code)


# Hostings


async def hostings(source: Connection | Database) -> list[Row]:
    """What this node knows of subsystems."""
    return await source.fetch("select subsystem, content, revision from hosting")


async def set_hosting(transaction: Connection, subsystem: str, content: bytes) -> None:
    """Sets what this node knows of a subsystem."""
    await transaction.execute(
        "insert into hosting as h (subsystem, content) values ($1, $2)"
        " on conflict (subsystem) do update set content = excluded.content, revision = h.revision + 1",
        subsystem,
        content,
    )


# Policies


async def policies(source: Connection | Database) -> list[Row]:
    """The current revision of each policy, with when the first was made."""
    return await source.fetch(
        "select policy_id, revision, content, create_time as update_time,"
        " (select min(create_time) from exchange_policy f where f.policy_id = p.policy_id) as create_time"
        " from exchange_policy p where current order by policy_id"
    )


async def policy_revision(source: Connection | Database, policy_id: str, revision: int) -> Row | None:
    """A revision of a policy, current or not."""
    return await source.fetchrow(
        "select policy_id, revision, content, create_time as update_time,"
        " (select min(create_time) from exchange_policy f where f.policy_id = p.policy_id) as create_time"
        " from exchange_policy p where policy_id = $1 and revision = $2",
        policy_id,
        revision,
    )


async def insert_policy(transaction: Connection, policy_id: str, content: bytes) -> bool:
    """A new policy, or one that was deleted, with its next revision; False where there is one."""
    if await transaction.fetchval("select true from exchange_policy where policy_id = $1 and current", policy_id):
        return False
    await _next_policy(transaction, policy_id, content)
    return True


async def set_policy(transaction: Connection, policy_id: str, content: bytes) -> None:
    """Makes the next revision of a policy."""
    await delete_policy(transaction, policy_id)
    await _next_policy(transaction, policy_id, content)


async def delete_policy(transaction: Connection, policy_id: str) -> None:
    """Has a policy in force no longer; its revisions stay."""
    await transaction.execute("update exchange_policy set current = false where policy_id = $1 and current", policy_id)


async def _next_policy(transaction: Connection, policy_id: str, content: bytes) -> None:
    await transaction.execute(
        "insert into exchange_policy (policy_id, revision, content) select $1,"
        " coalesce((select max(revision) from exchange_policy where policy_id = $1), 0) + 1, $2",
        policy_id,
        content,
    )


# Maintenance


async def maintenance(source: Connection | Database) -> bytes | None:
    """Whether this node is in maintenance, as it was last set."""
    found = await source.fetchval("select content from maintenance")
    return found if found is None else bytes(found)


async def set_maintenance(transaction: Connection, content: bytes) -> None:
    """Sets whether this node is in maintenance."""
    await transaction.execute(
        "insert into maintenance (content) values ($1) on conflict (single) do update set content = excluded.content",
        content,
    )
