"""SQL of messages and their deliveries: sending, what becomes of them, and reading them from either end.

Every function takes what it runs on: a database for one statement, or a transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from services.messages import feed_store
from services.messages.course import Course, wake_time
from services.messages.deliveries import Channel, Delivery
from services.runtime.database import Connection, Database, Row

MESSAGE_FIELDS = {
    "message_id": "uuid",
    "unit_id": "text",
    "mailbox_id": "uuid",
    "direction": "smallint",
    "kind": "smallint",
    "state": "smallint",
    "idempotency_key": "text",
    "content_digest": "bytea",
    "content": "bytea",
    "correlation_id": "text",
    "case_id": "text",
    "thread": "uuid",
    "in_reply_to": "uuid",
    "sender_party": "text",
    "sender_client": "text",
    "sender_actor": "bytea",
    "recipient_only": "boolean",
    "purge_time": "timestamptz",
    "create_time": "timestamptz",
    "release_time": "timestamptz",
    "publish_time": "timestamptz",
    "due_time": "timestamptz",
    "due_passed": "boolean",
    "withdraw_time": "timestamptz",
    "withdrawal": "bytea",
    "rejection": "text",
    "legal_profile": "text",
    "legal_state": "smallint",
    "legal_time": "timestamptz",
    "legal_basis": "smallint",
    "wake_time": "timestamptz",
    "paper_trigger": "smallint",
    "paper_unread_after": "interval",
    "paper_working_hours": "boolean",
}
"""Columns of a message and their types."""

OWN_FIELDS = (
    "message_id",
    "mailbox_id",
    "idempotency_key",
    "content_digest",
    "content",
    "correlation_id",
    "case_id",
    "thread",
    "in_reply_to",
    "recipient_only",
)
"""Those in which new messages differ."""

ALIKE_FIELDS = (
    "unit_id",
    "direction",
    "kind",
    "state",
    "sender_party",
    "sender_client",
    "sender_actor",
    "create_time",
    "release_time",
    "publish_time",
    "due_time",
    "legal_profile",
    "legal_state",
    "legal_time",
    "legal_basis",
    "wake_time",
    "paper_trigger",
    "paper_unread_after",
    "paper_working_hours",
)
"""Those that are the same where one sender's messages are accepted alike at one moment."""

DELIVERY_FIELDS = (
    "delivery_id",
    "channel",
    "state",
    "update_time",
    "available_time",
    "open_time",
    "receipt_time",
    "post_time",
    "deposit_time",
    "return_time",
    "actor",
    "claim_end_time",
    "cost",
    "cost_currency",
)
"""Columns of a delivery."""

MESSAGE_COLUMNS = (
    ", ".join(f"m.{field}" for field in MESSAGE_FIELDS)
    + ", (select a.unit_id from message a where a.message_id = m.in_reply_to) as answered_unit"
)
"""Columns of a message as it is read; its deliveries are read by `deliveries_of`."""


UNIQUE_KEY = "unit_id, hashtextextended(idempotency_key, 0), mailbox_id"
"""What no two messages share, as the index has it: 64 bits of a key are as good as the key for one unit and mailbox."""


class Route(NamedTuple):
    """From which unit to which mailbox a message would go; as `routes` selects it."""

    organisation: str | None
    """Owner of the unit; None where there is no such unit."""
    legal_profile: str | None
    accepts_new_messages: bool | None
    mailbox_id: UUID | None
    mailbox_state: int | None
    opt_out_end_time: datetime | None
    data_key: bytes | None
    first_id: UUID | None
    """The message that used the idempotency key first; None where none did."""
    first_digest: bytes | None
    """The digest of its content."""
    notified: bool
    """Whether notifications go to the owner of the mailbox."""


class Address(NamedTuple):
    """Where a message would go, and under which key: to a party's mailbox, or to the one named."""

    unit_id: str
    idempotency_key: str
    party: str | None = None
    mailbox_id: UUID | None = None


async def routes(database: Database, addresses: Sequence[Address]) -> list[Route]:
    """Looks up both ends of messages, and whether each was sent before, in one statement."""
    rows = await database.fetch(
        """
        select u.organisation, u.legal_profile, u.accepts_new_messages,
               b.mailbox_id, b.state as mailbox_state, b.opt_out_end_time, b.data_key,
               m.message_id as first_id, m.content_digest as first_digest,
               exists (select from contact c where c.mailbox_id = b.mailbox_id and c.confirm_time is not null)
                   as notified
        from unnest($1::text[], $2::text[], $3::uuid[], $4::text[]) with ordinality
             as a (unit_id, party, mailbox_id, key, position)
        left join unit u on u.unit_id = a.unit_id
        left join lateral (
            select * from mailbox b where b.party = a.party or b.mailbox_id = a.mailbox_id limit 1
        ) b on true
        left join lateral (
            select message_id, content_digest from message m
            where m.unit_id = a.unit_id and m.mailbox_id = b.mailbox_id
                and hashtextextended(m.idempotency_key, 0) = hashtextextended(a.key, 0) and m.idempotency_key = a.key
        ) m on true
        order by a.position
        """,
        [address.unit_id for address in addresses],
        [address.party for address in addresses],
        [address.mailbox_id for address in addresses],
        [address.idempotency_key for address in addresses],
    )
    return [Route._make(row) for row in rows]


@dataclass(frozen=True)
class Alike:
    """What new messages have in common that are accepted alike: most of their rows."""

    message: Sequence[object]
    """ALIKE_FIELDS."""
    deliveries: Sequence[tuple[int, int, datetime, datetime | None]]
    """Channel, state, update time, available time."""
    notices: Sequence[tuple[int, datetime]]
    """What their recipients are told by notifications, where there are contact details: kind, due time."""


class New(NamedTuple):
    """What a new message has of its own."""

    alike: Alike
    """One object for all that share it."""
    own: Sequence[object]
    """The id of its delivery to the mailbox (a letter has that of its message), and OWN_FIELDS."""
    events: Sequence[tuple[UUID, UUID, str, bytes]]
    """What its unit's feed is told: message id, event id, type, the event."""


def _parameters(*tables: Sequence[str]) -> Iterator[str]:
    """Rows from the parameters of a statement, one array for each column, by the types of one table after another."""
    number = 0
    for types in tables:
        yield f"unnest({', '.join(f'${place}::{kind}[]' for place, kind in enumerate(types, start=number + 1))})"
        number += len(types)


_NEW, _ALIKE, _WAYS, _NOTICES, _EVENTS = _parameters(
    ("integer", "uuid", *(MESSAGE_FIELDS[field] for field in OWN_FIELDS)),
    tuple(MESSAGE_FIELDS[field] for field in ALIKE_FIELDS),
    ("integer", "smallint", "smallint", "timestamptz", "timestamptz"),
    ("integer", "smallint", "timestamptz"),
    ("uuid", "uuid", "text", "bytea"),
)

SEND = f"""
with new as materialized (
    select * from {_NEW} as n (alike, electronic_id, {", ".join(OWN_FIELDS)})
), sent as (
    insert into message ({", ".join((*OWN_FIELDS, *ALIKE_FIELDS))})
    select {", ".join((*OWN_FIELDS, *ALIKE_FIELDS))}
    from new join {_ALIKE} with ordinality as a ({", ".join(ALIKE_FIELDS)}, alike) using (alike)
    order by {UNIQUE_KEY} -- the same for all, lest two of them wait for each other
    on conflict ({UNIQUE_KEY}) do nothing
    returning message_id, unit_id, mailbox_id, create_time
), delivered as (
    insert into delivery (message_id, delivery_id, channel, state, update_time, available_time)
    select message_id, case d.channel when {Channel.PAPER:d} then message_id else electronic_id end,
        d.channel, d.state, d.update_time, d.available_time
    from sent join new using (message_id)
    join {_WAYS} as d (alike, channel, state, update_time, available_time) using (alike)
    returning message_id, channel, update_time
), lettered as (
    insert into letter (message_id, create_time, compose_time)
    select message_id, update_time, update_time from delivered where channel = {Channel.PAPER:d}
), happened as (
    select s.unit_id, e.event_id, e.type, e.event, s.create_time as time, e.position
    from {_EVENTS} with ordinality as e (message_id, event_id, type, event, position) join sent s using (message_id)
), {feed_store.TOLD}, noticed as (
    insert into notification (notification_id, mailbox_id, message_id, channel, kind, due_time)
    select gen_random_uuid(), s.mailbox_id, s.message_id, c.channel, n.kind, n.due_time
    from {_NOTICES} as n (alike, kind, due_time) join new using (alike) join sent s using (message_id)
    join contact c on c.mailbox_id = s.mailbox_id where c.confirm_time is not null
)
select message_id from sent
"""


async def send(database: Database | Connection, new: Sequence[New]) -> set[UUID]:
    """Keeps messages with their deliveries, events and notifications, in one statement.

    Returns the ids of those that were kept; the idempotency keys of the others
    were used before. Events get the next places in the feeds, whose units are
    held until the transaction ends: let it be short. There is at least one.
    """
    shared = {id(one.alike): one.alike for one in new}
    place = {alike: number for number, alike in enumerate(shared, start=1)}
    numbered = list(enumerate(shared.values(), start=1))
    rows = await database.fetch(
        SEND,
        [place[id(one.alike)] for one in new],
        *zip(*[one.own for one in new], strict=True),
        *zip(*(alike.message for alike in shared.values()), strict=True),
        *_columns([(number, *way) for number, alike in numbered for way in alike.deliveries], 5),
        *_columns([(number, *notice) for number, alike in numbered for notice in alike.notices], 3),
        *_columns([event for one in new for event in one.events], 4),
    )
    return {row["message_id"] for row in rows}


def _columns(rows: Sequence[Sequence[object]], count: int) -> list[Sequence[object]]:
    """Rows, of which there may be none, as so many columns."""
    return list(zip(*rows, strict=True)) if rows else [()] * count


HELD_COLUMNS = (
    f"{MESSAGE_COLUMNS}, b.data_key, b.party as mailbox_party, b.state as mailbox_state, b.opt_out_end_time,"
    " b.close_reason as mailbox_close_reason"
)
"""Columns of a message with its mailbox."""

HELD = f"select {HELD_COLUMNS} from message m join mailbox b using (mailbox_id)"


async def hold(transaction: Connection, message_id: UUID) -> Row | None:
    """A message with its mailbox, locked against another's change. Its deliveries change under this lock only."""
    return await transaction.fetchrow(f"{HELD} where m.message_id = $1 for update of m", message_id)


async def message(database: Database | Connection, message_id: UUID) -> Row | None:
    """A message with its mailbox, as it is at the moment."""
    return await database.fetchrow(f"{HELD} where m.message_id = $1", message_id)


async def hold_due(transaction: Connection, *, now: datetime, limit: int) -> list[Row]:
    """Messages that move by themselves by now, those that another process holds left out; locked as by `hold`."""
    return await transaction.fetch(
        f"{HELD} where m.wake_time <= $1 order by m.wake_time limit $2 for update of m skip locked", now, limit
    )


async def write_courses(transaction: Connection, courses: Sequence[tuple[UUID, Course]]) -> None:
    """Keeps where messages are now. Deliveries are written by `write_deliveries`."""
    await transaction.executemany(
        "update message set state = $2, release_time = $3, withdraw_time = $4, due_passed = $5, legal_state = $6,"
        " legal_time = $7, legal_basis = $8, wake_time = $9, rejection = $10 where message_id = $1",
        [
            (
                message_id,
                course.state,
                course.release_time,
                course.withdraw_time,
                course.due_passed,
                course.effect.state,
                course.effect.time,
                course.effect.basis,
                wake_time(course),
                course.rejection,
            )
            for message_id, course in courses
        ],
    )


async def write_deliveries(transaction: Connection, deliveries: Sequence[tuple[UUID, Delivery]]) -> None:
    """Keeps where deliveries of messages are now."""
    await transaction.executemany(
        "update delivery set state = $3, update_time = $4, available_time = $5, open_time = $6, receipt_time = $7,"
        " post_time = $8, return_time = $9, actor = $10, claim_end_time = $11, cost = $12, cost_currency = $13,"
        " deposit_time = $14"
        " where message_id = $1 and channel = $2",
        [
            (
                message_id,
                delivery.channel,
                delivery.state,
                delivery.update_time,
                delivery.available_time,
                delivery.open_time,
                delivery.receipt_time,
                delivery.post_time,
                delivery.return_time,
                delivery.actor,
                delivery.claim_end_time,
                delivery.cost,
                delivery.cost_currency,
                delivery.deposit_time,
            )
            for message_id, delivery in deliveries
        ],
    )


async def write_withdrawal(transaction: Connection, message_id: UUID, *, withdrawal: bytes) -> None:
    """Keeps the sender's explanation, sealed."""
    await transaction.execute("update message set withdrawal = $2 where message_id = $1", message_id, withdrawal)


async def deliveries_of(database: Database | Connection, message_ids: Sequence[UUID]) -> list[Row]:
    """The deliveries of messages, the electronic one first."""
    return await database.fetch(
        f"select message_id, {', '.join(DELIVERY_FIELDS)} from delivery"
        " where message_id = any($1::uuid[]) order by message_id, channel",
        message_ids,
    )


async def message_of_unit(database: Database | Connection, unit_id: str, message_id: UUID) -> Row | None:
    """A message with the key of its mailbox, for the unit that sent or received it."""
    return await database.fetchrow(
        f"select {MESSAGE_COLUMNS}, b.data_key from message m join mailbox b using (mailbox_id)"
        f" where m.unit_id = $1 and m.message_id = $2 and {KEPT}",
        unit_id,
        message_id,
    )


OF_KEY = """m.message_id = any (array(
    select message_id from message k where k.unit_id = $1
    and hashtextextended(k.idempotency_key, 0) = hashtextextended({0}, 0) and k.idempotency_key = {0}
))"""
"""Of a message: it has this key. Those few are found first, lest the others be looked through in the list's order."""


async def messages_of_unit(
    database: Database,
    unit_id: str,
    *,
    before: UUID | None,
    idempotency_key: str,
    case_id: str,
    direction: int,
    limit: int,
) -> list[Row]:
    """Messages of a unit, latest first; direction 0 is both.

    The statement has the conditions that are asked for and no other, so that
    each has the index that is made for it however large the store is.
    """
    conditions = ["m.unit_id = $1", KEPT]
    values: list[object] = [unit_id]
    for condition, value in (
        ("m.message_id < {}", before),
        (OF_KEY, idempotency_key),
        ("m.case_id = {}", case_id),
    ):
        if value:
            values.append(value)
            conditions.append(condition.format(f"${len(values)}"))
    if case_id:
        conditions.append("m.case_id <> ''")
    if direction:
        conditions.append(f"m.direction = {int(direction)}")
    return await database.fetch(
        f"select {MESSAGE_COLUMNS}, b.data_key from message m join mailbox b using (mailbox_id)"
        f" where {' and '.join(conditions)} order by m.message_id desc limit ${len(values) + 1}",
        *values,
        limit,
    )


UNREAD = (
    "m.direction = 1 and m.release_time is not null and d.channel = 1 and d.state in (2, 6) and d.open_time is null"
)
"""Of a message and its delivery: it lies in the mailbox and has not been opened."""

KEPT = "m.end_time is null"
"""Of a message: the time for which its unit keeps it is not over (`retention.py`)."""

NOT_IN_BIN = "m.purge_time is null"
"""Of a message: its recipient has not thrown it away."""


@dataclass(frozen=True)
class Sight:
    """Which messages of a mailbox somebody may see: by default all, as its owner may."""

    all_visible: bool = True
    """Also those that are for the recipient alone."""
    unit_id: str = ""
    """Those from and to this unit; empty for all."""


SEEN = "($2 or not m.recipient_only) and ($3 = '' or m.unit_id = $3)"
"""Of a message: it may be seen; $2 and $3 are those of a Sight."""


async def unread(database: Database, mailbox_id: UUID, sight: Sight) -> int:
    """How many messages in a mailbox have not been opened, of those that may be seen."""
    count: int = await database.fetchval(
        "select count(*) from message m join delivery d using (message_id)"
        f" where m.mailbox_id = $1 and {SEEN} and {UNREAD} and {NOT_IN_BIN}",
        mailbox_id,
        sight.all_visible,
        sight.unit_id,
    )
    return count


async def waiting_in(transaction: Connection, mailbox_ids: Sequence[UUID]) -> list[Row]:
    """Messages in mailboxes that wait there to be opened, and that their units still see."""
    return await transaction.fetch(
        f"select {MESSAGE_COLUMNS} from message m join delivery d using (message_id)"
        f" where m.mailbox_id = any($1) and {UNREAD} and d.state = 2 and {KEPT} order by m.message_id",
        mailbox_ids,
    )


async def messages_in_mailbox(
    database: Database,
    mailbox_id: UUID,
    sight: Sight,
    *,
    before: tuple[datetime, UUID] | None,
    unread_only: bool,
    thread: UUID | None,
    binned_at: datetime | None,
    limit: int,
) -> list[Row]:
    """Messages in a mailbox, latest release first, with their unit's display names.

    `binned_at`: those that lie in the bin at that moment, instead of those
    that do not.
    """
    release_time, message_id = before or (None, None)
    return await database.fetch(
        f"select {MESSAGE_COLUMNS}, u.display_names from message m join unit u using (unit_id)"
        f" where m.mailbox_id = $1 and m.release_time is not null and {SEEN}"
        " and ($4::timestamptz is null or (m.release_time, m.message_id) < ($4, $5::uuid))"
        f" and (not $6 or exists (select from delivery d where d.message_id = m.message_id and {UNREAD}))"
        " and ($7::uuid is null or m.thread = $7)"
        f" and case when $8::timestamptz is null then {NOT_IN_BIN} else m.purge_time > $8 end"
        " order by m.release_time desc, m.message_id desc limit $9",
        mailbox_id,
        sight.all_visible,
        sight.unit_id,
        release_time,
        message_id,
        unread_only,
        thread,
        binned_at,
        limit,
    )


async def message_in_mailbox(
    transaction: Connection, mailbox_id: UUID, message_id: UUID, sight: Sight, *, now: datetime
) -> Row | None:
    """A message in a mailbox or its bin that has been released, with its unit's display names; locked as by `hold`."""
    return await transaction.fetchrow(
        f"select {MESSAGE_COLUMNS}, u.display_names from message m join unit u using (unit_id)"
        f" where m.mailbox_id = $1 and m.message_id = $4 and m.release_time is not null and {SEEN}"
        f" and ({NOT_IN_BIN} or m.purge_time > $5) for update of m",
        mailbox_id,
        sight.all_visible,
        sight.unit_id,
        message_id,
        now,
    )


async def write_purge_time(transaction: Connection, message_id: UUID, *, purge_time: datetime | None) -> None:
    """Puts a message into the bin until then, or takes it out."""
    await transaction.execute("update message set purge_time = $2 where message_id = $1", message_id, purge_time)
