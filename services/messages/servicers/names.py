"""Resource names of this service, and who may see what they name."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from solmu.types.v1 import types_pb2

from services.messages import mailbox_store, unit_store
from services.messages.message_store import Sight
from services.runtime import identity
from services.runtime.database import Connection, Database, Row
from services.runtime.errors import InvalidArgument, not_found
from services.runtime.identity import Right
from services.runtime.ids import id_of


def part(name: str, position: int) -> str:
    """One part of a name that the contract has checked; the first is 0."""
    return name.split("/")[position]


def uid(name: str, position: int, *, field: str = "name") -> UUID:
    """One part of a name as a UUID. Raises InvalidArgument, NAME_INVALID."""
    try:
        return id_of(part(name, position))
    except ValueError:
        raise InvalidArgument("NAME_INVALID", "the resource name does not have the right form", field=field) from None


async def own_unit(database: Database, unit_id: str) -> Row:
    """The unit, where the caller's organisation owns it. Raises NotFound, alike where there is none.

    A mandate for an organisation's mail opens its mailbox, not its units.
    """
    unit = await unit_store.unit(database, unit_id)
    caller = identity.caller()
    if unit is None or unit["organisation"] != caller.party or caller.actor:
        raise not_found(f"units/{unit_id}")
    return unit


async def own_mailbox(database: Database | Connection, mailbox_id: UUID) -> Row:
    """The mailbox, where the caller is its owner or acts for it. Raises NotFound, alike where there is none."""
    mailbox = await mailbox_store.mailbox(database, mailbox_id)
    if mailbox is None or mailbox["party"] != identity.caller().party or mailbox["data_key"] is None:
        raise not_found(f"mailboxes/{mailbox_id}")
    return mailbox


async def hold_own_mailbox(transaction: Connection, mailbox_id: UUID) -> Row:
    """As `own_mailbox`, locked until the transaction ends, so that neither state nor key changes meanwhile."""
    await own_mailbox(transaction, mailbox_id)
    mailbox = await mailbox_store.lock_mailbox(transaction, mailbox_id)
    if mailbox is None or mailbox["data_key"] is None:
        raise not_found(f"mailboxes/{mailbox_id}")
    return mailbox


def actor() -> types_pb2.Actor:
    """The caller, as records of its acts name it."""
    caller = identity.caller()
    if not caller.actor:
        return types_pb2.Actor(party=caller.party, client=caller.client)
    assert caller.right is not None  # the chain lets nobody else act for another
    return representative(caller.party, caller.actor, caller.right)


def representative(party: str, acting_party: str, right: Right) -> types_pb2.Actor:
    """The caller, as one who acts for a party by a right."""
    mandate, through_mandate = (*right.mandates, "", "")[:2]
    return types_pb2.Actor(
        party=party,
        acting_party=acting_party,
        mandate=mandate,
        client=identity.caller().client,
        through=right.through,
        through_mandate=through_mandate,
    )


def sight() -> Sight:
    """Which messages of a mailbox that the caller may open it sees."""
    right = identity.caller().right
    return Sight() if right is None else seen_by(right)


def seen_by(right: Right) -> Sight:
    """Which messages of a mailbox one sees who acts by a right."""
    return Sight(all_visible=False, unit_id=right.specifier.removeprefix("units/"))


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
