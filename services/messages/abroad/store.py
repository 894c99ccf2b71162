"""SQL of passages, which are messages to and from other nodes, and of errands, which are what is to be said of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import IntEnum
from uuid import UUID

from services.runtime.database import Connection, Database, Row
from services.runtime.ids import new_id


class Kind(IntEnum):
    """What an errand says."""

    ENQUIRY = 1
    ATTACHMENT = 2
    MESSAGE = 3
    WITHDRAWAL = 4
    REPORT = 5
    REPLY = 6


PASSAGE = (
    "select p.message_id, p.subsystem, p.foreign_id, p.asked, p.recipient, m.unit_id, m.mailbox_id, m.state,"
    " m.direction, m.release_time, m.withdraw_time, b.data_key"
    " from passage p join message m using (message_id) join mailbox b using (mailbox_id)"
)


async def insert_outgoing(transaction: Connection, message_id: UUID, *, asked: Sequence[str], recipient: bytes) -> None:
    """Has a message go to a mailbox on one of the nodes that are asked; `recipient` is the sealed identity code."""
    await transaction.execute(
        "insert into passage (message_id, asked, recipient) values ($1, $2, $3)", message_id, asked, recipient
    )


async def insert_incoming(transaction: Connection, message_id: UUID, *, subsystem: str, foreign_id: UUID) -> bool:
    """Keeps where a message came from; says whether that was not known."""
    return (
        await transaction.fetchval(
            "insert into passage (message_id, subsystem, foreign_id) values ($1, $2, $3) on conflict do nothing"
            " returning true",
            message_id,
            subsystem,
            foreign_id,
        )
        is True
    )


async def of_messages(transaction: Connection, message_ids: Sequence[UUID]) -> dict[UUID, Row]:
    """The passages of messages that have one."""
    rows = await transaction.fetch(f"{PASSAGE} where p.message_id = any($1::uuid[])", message_ids)
    return {row["message_id"]: row for row in rows}


async def answered_by(transaction: Connection, message_ids: Sequence[UUID]) -> dict[UUID, Row]:
    """Of messages that answer one that came from another node: that one's passage."""
    rows = await transaction.fetch(
        f"{PASSAGE.replace('select ', 'select r.message_id as reply_id, ', 1)}"
        " join message r on r.in_reply_to = p.message_id"
        " where r.message_id = any($1::uuid[]) and p.foreign_id is not null and m.direction = 1",
        message_ids,
    )
    return {row["reply_id"]: row for row in rows}


async def passage(database: Database | Connection, message_id: UUID, *, lock: bool = False) -> Row | None:
    """The passage of a message."""
    return await database.fetchrow(f"{PASSAGE} where p.message_id = $1{' for update of p' if lock else ''}", message_id)


async def incoming(database: Database | Connection, subsystem: str, foreign_id: UUID) -> UUID | None:
    """The message that another node knows by this id."""
    found: UUID | None = await database.fetchval(
        "select message_id from passage where subsystem = $1 and foreign_id = $2", subsystem, foreign_id
    )
    return found


async def ask(transaction: Connection, message_id: UUID, subsystems: Sequence[str]) -> None:
    """Enters whose answer is awaited."""
    await transaction.execute("update passage set asked = $2 where message_id = $1", message_id, subsystems)


async def settle_place(transaction: Connection, message_id: UUID, subsystem: str) -> None:
    """Enters where the mailbox is."""
    await transaction.execute(
        "update passage set subsystem = $2, asked = '{}' where message_id = $1", message_id, subsystem
    )


async def note_closing(transaction: Connection, message_id: UUID, ground: str) -> bool:
    """Enters on what ground the mailbox there is closed, "" where it is not; says whether that was not known."""
    return (
        await transaction.fetchval(
            "update passage set mailbox_closed = $2 where message_id = $1 and mailbox_closed <> $2 returning true",
            message_id,
            ground,
        )
        is True
    )


async def forget_recipient(transaction: Connection, message_id: UUID) -> None:
    """Forgets the identity code, which is said to nobody any more."""
    await transaction.execute("update passage set recipient = null, asked = '{}' where message_id = $1", message_id)


# Errands


async def add(
    transaction: Connection, message_id: UUID, kind: Kind, subsystem: str, *, attachment_id: UUID | None = None
) -> None:
    """Has something be said of a message, after all that was to be said of it before."""
    await transaction.execute(
        "insert into errand (errand_id, message_id, kind, attachment_id, subsystem) values ($1, $2, $3, $4, $5)",
        new_id(),
        message_id,
        kind,
        attachment_id,
        subsystem,
    )


async def due(database: Database, *, now: datetime, limit: int) -> list[Row]:
    """Errands to be handed to the exchange now: of each message and node the first that has not been."""
    return await database.fetch(
        "select e.errand_id, e.message_id, e.kind, e.attachment_id, e.subsystem, e.create_time, e.attempts"
        " from errand e where e.due_time <= $1 and not exists (select from errand f where f.message_id = e.message_id"
        " and f.subsystem = e.subsystem and f.due_time is not null and f.seq < e.seq) order by e.seq limit $2",
        now,
        limit,
    )


async def handed_over(database: Database, errand_id: UUID) -> None:
    """Notes that the exchange has it."""
    await database.execute("update errand set due_time = null where errand_id = $1", errand_id)


async def postpone(database: Database, errand_id: UUID, *, until: datetime) -> None:
    """Has it tried again later."""
    await database.execute(
        "update errand set due_time = $2, attempts = attempts + 1 where errand_id = $1", errand_id, until
    )


async def take(transaction: Connection, errand_ids: Sequence[UUID]) -> list[Row]:
    """Errands that have ended, out of the list."""
    return await transaction.fetch(
        "delete from errand where errand_id = any($1::uuid[])"
        " returning errand_id, message_id, kind, attachment_id, subsystem",
        errand_ids,
    )


async def drop(database: Database | Connection, errand_id: UUID) -> None:
    """Takes one out of the list."""
    await database.execute("delete from errand where errand_id = $1", errand_id)


# Units of other nodes


async def keep_unit(database: Database, unit_id: str, *, member: str, display_names: bytes, legal_profile: str) -> None:
    """Keeps another node's unit as it shows itself now."""
    await database.execute(
        "insert into unit (unit_id, organisation, display_names, accepts_new_messages, legal_profile, create_time)"
        " values ($1, $2, $3, false, $4, clock_timestamp()) on conflict (unit_id) do update"
        " set display_names = excluded.display_names, legal_profile = excluded.legal_profile,"
        " version = unit.version + 1 where (unit.display_names, unit.legal_profile)"
        " is distinct from (excluded.display_names, excluded.legal_profile)",
        unit_id,
        member,
        display_names,
        legal_profile,
    )
