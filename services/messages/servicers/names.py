"""Resource names of this service, and who may see what they name."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from solmu.types.v1 import types_pb2

from services.messages import mailbox_store, unit_store
from services.runtime import identity
from services.runtime.database import Connection, Database, Row
from services.runtime.errors import InvalidArgument, not_found


def part(name: str, position: int) -> str:
    """One part of a name that the contract has checked; the first is 0."""
    return name.split("/")[position]


def uid(name: str, position: int, *, field: str = "name") -> UUID:
    """One part of a name as a UUID. Raises InvalidArgument, NAME_INVALID."""
    try:
        return UUID(part(name, position))
    except ValueError:
        raise InvalidArgument("NAME_INVALID", "the resource name does not have the right form", field=field) from None


async def own_unit(database: Database, unit_id: str) -> Row:
    """The unit, where the caller's organisation owns it. Raises NotFound, alike where there is none."""
    unit = await unit_store.unit(database, unit_id)
    if unit is None or unit["organisation"] != identity.caller().party:
        raise not_found(f"units/{unit_id}")
    return unit


async def own_mailbox(database: Database | Connection, mailbox_id: UUID) -> Row:
    """The mailbox, where the caller is its owner. Raises NotFound, alike where there is none."""
    mailbox = await mailbox_store.mailbox(database, mailbox_id)
    if mailbox is None or mailbox["party"] != identity.caller().party or mailbox["data_key"] is None:
        raise not_found(f"mailboxes/{mailbox_id}")
    return mailbox


def actor() -> types_pb2.Actor:
    """The caller, as records of its acts name it."""
    caller = identity.caller()
    return types_pb2.Actor(party=caller.party, client=caller.client)


def now() -> datetime:
    """The time of a request's effect."""
    return datetime.now(UTC)


def timestamp(time: datetime | None) -> Timestamp | None:
    """A time for an answer; None leaves the field unset."""
    if time is None:
        return None
    result = Timestamp()
    result.FromDatetime(time)
    return result
