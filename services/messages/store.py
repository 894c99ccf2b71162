"""SQL of the messages service. Every function takes what it runs on: a database for one statement, or a transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from solmu.messages.v1 import feed_pb2

from services.messages.course import Course, wake_time
from services.messages.deliveries import Delivery
from services.runtime.database import Connection, Database, Row
from services.runtime.outbox import COLUMNS as OUTBOX_COLUMNS
from services.runtime.outbox import Event

UNIT_COLUMNS = (
    "unit_id, organisation, display_names, accepts_new_messages, retention, legal_profile, create_time, version"
)
MAILBOX_COLUMNS = (
    "mailbox_id, party, kind, state, legal_basis, legal_basis_reference, opt_out_end_time, create_time, data_key,"
    " version"
)
ATTACHMENT_COLUMNS = (
    "attachment_id, owner, state, file_name, media_type, size_bytes, sha256, data_key, create_time, expire_time"
)
MESSAGE_FIELDS = (
    "message_id",
    "unit_id",
    "mailbox_id",
    "direction",
    "kind",
    "state",
    "idempotency_key",
    "content_digest",
    "content",
    "correlation_id",
    "case_id",
    "thread",
    "in_reply_to",
    "sender_party",
    "sender_client",
    "create_time",
    "release_time",
    "publish_time",
    "due_time",
    "due_passed",
    "withdraw_time",
    "withdrawal",
    "rejection",
    "legal_profile",
    "legal_state",
    "legal_time",
    "legal_basis",
    "wake_time",
)
"""Columns of a message, in the order in which SEND takes their values."""

DELIVERY_FIELDS = (
    "delivery_id",
    "channel",
    "state",
    "update_time",
    "available_time",
    "open_time",
    "receipt_time",
    "post_time",
    "return_time",
    "actor",
)
"""Columns of a delivery."""

MESSAGE_COLUMNS = (
    ", ".join(f"m.{field}" for field in MESSAGE_FIELDS)
    + ", (select a.unit_id from message a where a.message_id = m.in_reply_to) as answered_unit"
)
"""Columns of a message as it is read; its deliveries are read by `deliveries_of`."""


# Units


async def insert_unit(database: Database, unit: Row | Mapping[str, object]) -> Row | None:
    """The new unit, or None where there is one of that name."""
    return await database.fetchrow(
        f"insert into unit ({UNIT_COLUMNS}) values ($1, $2, $3, $4, $5, $6, $7, 1)"
        f" on conflict (unit_id) do nothing returning {UNIT_COLUMNS}",
        unit["unit_id"],
        unit["organisation"],
        unit["display_names"],
        unit["accepts_new_messages"],
        unit["retention"],
        unit["legal_profile"],
        unit["create_time"],
    )


async def unit(database: Database, unit_id: str) -> Row | None:
    """A unit."""
    return await database.fetchrow(f"select {UNIT_COLUMNS} from unit where unit_id = $1", unit_id)


async def units_of(database: Database, organisation: str, *, after: str, limit: int) -> list[Row]:
    """Units of an organisation, by name."""
    return await database.fetch(
        f"select {UNIT_COLUMNS} from unit where organisation = $1 and unit_id > $2 order by unit_id limit $3",
        organisation,
        after,
        limit,
    )


async def update_unit(
    database: Database,
    unit_id: str,
    *,
    version: int,
    display_names: bytes,
    accepts_new_messages: bool,
    retention: timedelta | None,
    legal_profile: str,
) -> Row | None:
    """The changed unit, or None where somebody else changed it first."""
    return await database.fetchrow(
        "update unit set display_names = $3, accepts_new_messages = $4, retention = $5, legal_profile = $6,"
        f" version = version + 1 where unit_id = $1 and version = $2 returning {UNIT_COLUMNS}",
        unit_id,
        version,
        display_names,
        accepts_new_messages,
        retention,
        legal_profile,
    )


# Mailboxes


async def open_mailbox(
    database: Database,
    *,
    mailbox_id: UUID,
    party: str,
    kind: int,
    legal_basis: int,
    legal_basis_reference: str,
    data_key: bytes,
    now: datetime,
) -> Row | None:
    """The party's mailbox, made or opened again; the one that is open stays as it is."""
    return await database.fetchrow(
        f"""
        insert into mailbox as b
            (mailbox_id, party, kind, state, legal_basis, legal_basis_reference, create_time, data_key)
        values ($1, $2, $3, 1, $4, $5, $6, $7)
        on conflict (party) do update set
            state = case when b.state = 4 then 4 else 1 end,
            opt_out_end_time = null,
            version = b.version + (b.state <> 1)::int
        returning {MAILBOX_COLUMNS}
        """,
        mailbox_id,
        party,
        kind,
        legal_basis,
        legal_basis_reference,
        now,
        data_key,
    )


async def mailbox(database: Database | Connection, mailbox_id: UUID) -> Row | None:
    """A mailbox."""
    return await database.fetchrow(f"select {MAILBOX_COLUMNS} from mailbox where mailbox_id = $1", mailbox_id)


async def mailbox_of(database: Database, party: str) -> Row | None:
    """A party's own mailbox."""
    return await database.fetchrow(f"select {MAILBOX_COLUMNS} from mailbox where party = $1", party)


async def unread(database: Database, mailbox_id: UUID) -> int:
    """How many messages in a mailbox have not been opened."""
    count: int = await database.fetchval(
        f"select count(*) from message m join delivery d using (message_id) where m.mailbox_id = $1 and {UNREAD}",
        mailbox_id,
    )
    return count


UNREAD = (
    "m.direction = 1 and m.release_time is not null and d.channel = 1 and d.state in (2, 6) and d.open_time is null"
)
"""Of a message and its delivery: it lies in the mailbox and has not been opened."""


# Sending


@dataclass(frozen=True)
class Route:
    """From which unit to which mailbox a message would go."""

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


async def route(
    database: Database, *, unit_id: str, party: str | None, mailbox_id: UUID | None, idempotency_key: str
) -> Route:
    """Looks up both ends of a message, and whether it was sent before, in one statement."""
    row = await database.fetchrow(
        "select u.organisation, u.legal_profile, u.accepts_new_messages,"
        " b.mailbox_id, b.state as mailbox_state, b.opt_out_end_time, b.data_key,"
        " m.message_id as first_id, m.content_digest as first_digest"
        " from (values (1)) as one left join unit u on u.unit_id = $1"
        " left join mailbox b on b.party = $2 or b.mailbox_id = $3"
        " left join message m on m.unit_id = $1 and m.mailbox_id = b.mailbox_id and m.idempotency_key = $4",
        unit_id,
        party,
        mailbox_id,
        idempotency_key,
    )
    assert row is not None
    return Route(**row)


SEND = f"""
with sent as (
    insert into message ({", ".join(MESSAGE_FIELDS)})
    values ({", ".join(f"${number}" for number in range(1, len(MESSAGE_FIELDS) + 1))})
    on conflict (unit_id, mailbox_id, idempotency_key) do nothing
    returning message_id
), delivered as (
    insert into delivery (message_id, delivery_id, channel, state, update_time, available_time)
    select message_id, ${len(MESSAGE_FIELDS) + 1}, ${len(MESSAGE_FIELDS) + 2}, ${len(MESSAGE_FIELDS) + 3},
           ${len(MESSAGE_FIELDS) + 4}, ${len(MESSAGE_FIELDS) + 5} from sent
), told as (
    insert into outbox ({OUTBOX_COLUMNS})
    select * from unnest(${len(MESSAGE_FIELDS) + 6}::uuid[], ${len(MESSAGE_FIELDS) + 7}::text[],
                         ${len(MESSAGE_FIELDS) + 8}::bytea[], ${len(MESSAGE_FIELDS) + 9}::text[],
                         ${len(MESSAGE_FIELDS) + 10}::timestamptz[])
    where exists (select from sent)
)
select message_id from sent
"""


async def send(
    database: Database | Connection,
    message: Mapping[str, object],
    delivery: Delivery,
    events: Sequence[Event],
    *,
    trace: str,
) -> bool:
    """Keeps a message with its delivery and events, in one statement. False: its idempotency key was used before."""
    rows = [event.row(trace) for event in events]
    sent = await database.fetchrow(
        SEND,
        *(message[field] for field in MESSAGE_FIELDS),
        delivery.delivery_id,
        delivery.channel,
        delivery.state,
        delivery.update_time,
        delivery.available_time,
        *(list(column) for column in zip(*rows, strict=True)),
    )
    return sent is not None


# Courses

HELD_COLUMNS = f"{MESSAGE_COLUMNS}, b.data_key, b.state as mailbox_state, b.opt_out_end_time"
"""Columns of a message with its mailbox."""

HELD = f"select {HELD_COLUMNS} from message m join mailbox b using (mailbox_id)"


async def hold(transaction: Connection, message_id: UUID) -> Row | None:
    """A message with its mailbox, locked against another's change. Its deliveries change under this lock only."""
    return await transaction.fetchrow(f"{HELD} where m.message_id = $1 for update of m", message_id)


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


async def write_deliveries(transaction: Connection, deliveries: Sequence[Delivery]) -> None:
    """Keeps where deliveries are now."""
    await transaction.executemany(
        "update delivery set state = $2, update_time = $3, available_time = $4, open_time = $5, receipt_time = $6,"
        " post_time = $7, return_time = $8, actor = $9 where delivery_id = $1",
        [
            (
                delivery.delivery_id,
                delivery.state,
                delivery.update_time,
                delivery.available_time,
                delivery.open_time,
                delivery.receipt_time,
                delivery.post_time,
                delivery.return_time,
                delivery.actor,
            )
            for delivery in deliveries
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


# Reading


async def message_of_unit(database: Database | Connection, unit_id: str, message_id: UUID) -> Row | None:
    """A message with the key of its mailbox, for the unit that sent or received it."""
    return await database.fetchrow(
        f"select {MESSAGE_COLUMNS}, b.data_key from message m join mailbox b using (mailbox_id)"
        " where m.unit_id = $1 and m.message_id = $2",
        unit_id,
        message_id,
    )


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
    """Messages of a unit, latest first; direction 0 is both."""
    return await database.fetch(
        f"select {MESSAGE_COLUMNS}, b.data_key from message m join mailbox b using (mailbox_id)"
        " where m.unit_id = $1 and ($2::uuid is null or m.message_id < $2)"
        " and ($3 = '' or m.idempotency_key = $3) and ($4 = '' or m.case_id = $4)"
        " and ($5::smallint = 0 or m.direction = $5) order by m.message_id desc limit $6",
        unit_id,
        before,
        idempotency_key,
        case_id,
        direction,
        limit,
    )


async def messages_in_mailbox(
    database: Database,
    mailbox_id: UUID,
    *,
    before: tuple[datetime, UUID] | None,
    unread_only: bool,
    thread: UUID | None,
    limit: int,
) -> list[Row]:
    """Messages in a mailbox, latest release first, with their unit's display names."""
    release_time, message_id = before or (None, None)
    return await database.fetch(
        f"select {MESSAGE_COLUMNS}, u.display_names from message m join unit u using (unit_id)"
        " where m.mailbox_id = $1 and m.release_time is not null"
        " and ($2::timestamptz is null or (m.release_time, m.message_id) < ($2, $3::uuid))"
        f" and (not $4 or exists (select from delivery d where d.message_id = m.message_id and {UNREAD}))"
        " and ($5::uuid is null or m.thread = $5) order by m.release_time desc, m.message_id desc limit $6",
        mailbox_id,
        release_time,
        message_id,
        unread_only,
        thread,
        limit,
    )


async def message_in_mailbox(transaction: Connection, mailbox_id: UUID, message_id: UUID) -> Row | None:
    """A message in a mailbox that has been released, with its unit's display names; locked as by `hold`."""
    return await transaction.fetchrow(
        f"select {MESSAGE_COLUMNS}, u.display_names from message m join unit u using (unit_id)"
        " where m.mailbox_id = $1 and m.message_id = $2 and m.release_time is not null for update of m",
        mailbox_id,
        message_id,
    )


async def record_access(
    transaction: Database | Connection,
    *,
    access_id: UUID,
    mailbox_id: UUID,
    message_id: UUID | None,
    method: str,
    actor: bytes,
    now: datetime,
) -> None:
    """Records who looked at what is in a mailbox."""
    await transaction.execute(
        "insert into access_record (access_id, mailbox_id, message_id, method, actor, time)"
        " values ($1, $2, $3, $4, $5, $6)",
        access_id,
        mailbox_id,
        message_id,
        method,
        actor,
        now,
    )


async def record_reading(
    database: Database | Connection,
    *,
    access_id: UUID,
    message_id: UUID,
    unit_id: str,
    method: str,
    actor: bytes,
    now: datetime,
) -> None:
    """Records, for the owner of the mailbox, that a unit looked at a message that it received; its own need none."""
    await database.execute(
        "insert into access_record (access_id, mailbox_id, message_id, method, actor, time)"
        " select $1, mailbox_id, message_id, $4, $5, $6 from message"
        " where message_id = $2 and unit_id = $3 and direction = 2",
        access_id,
        message_id,
        unit_id,
        method,
        actor,
        now,
    )


async def accesses_of(database: Database, mailbox_id: UUID, *, before: UUID | None, limit: int) -> list[Row]:
    """Who looked at a mailbox, latest first."""
    return await database.fetch(
        "select access_id, message_id, method, actor, time from access_record"
        " where mailbox_id = $1 and ($2::uuid is null or access_id < $2) order by access_id desc limit $3",
        mailbox_id,
        before,
        limit,
    )


# Attachments


async def insert_attachment(database: Database, values: Mapping[str, object]) -> Row | None:
    """The new attachment, or None where the owner's request id was used before."""
    return await database.fetchrow(
        "insert into attachment (attachment_id, owner, request_id, state, file_name, media_type, size_bytes, sha256,"
        " data_key, create_time, expire_time) values ($1, $2, $3, 1, $4, $5, $6, $7, $8, $9, $10)"
        f" on conflict (owner, request_id) do nothing returning {ATTACHMENT_COLUMNS}",
        values["attachment_id"],
        values["owner"],
        values["request_id"],
        values["file_name"],
        values["media_type"],
        values["size_bytes"],
        values["sha256"],
        values["data_key"],
        values["create_time"],
        values["expire_time"],
    )


async def attachment_by_request(database: Database, owner: str, request_id: UUID) -> Row | None:
    """The attachment that an owner's request made before."""
    return await database.fetchrow(
        f"select {ATTACHMENT_COLUMNS} from attachment where owner = $1 and request_id = $2", owner, request_id
    )


async def attachment(database: Database, attachment_id: UUID) -> Row | None:
    """An attachment."""
    return await database.fetchrow(
        f"select {ATTACHMENT_COLUMNS} from attachment where attachment_id = $1", attachment_id
    )


async def attachments_of(database: Database | Connection, message_ids: Sequence[UUID]) -> list[Row]:
    """The attachments of messages, in their order."""
    return await database.fetch(
        f"select a.message_id, a.role, a.off_paper, a.language, {ATTACHMENT_COLUMNS}"
        " from message_attachment a join attachment using (attachment_id)"
        " where a.message_id = any($1::uuid[]) order by a.message_id, a.position",
        message_ids,
    )


async def delete_attachment(database: Database, attachment_id: UUID) -> Row | None:
    """The attachment, marked as deleted; None where a message uses it."""
    return await database.fetchrow(
        "update attachment set state = 7, expire_time = null where attachment_id = $1 and state <> 7 and not exists"
        " (select from message_attachment u where u.attachment_id = $1)"
        f" returning {ATTACHMENT_COLUMNS}",
        attachment_id,
    )


async def expired_attachments(database: Database, *, now: datetime, limit: int) -> list[UUID]:
    """Marks attachments that no message has used in time as deleted, and returns them."""
    rows = await database.fetch(
        "update attachment set state = 7, expire_time = null where attachment_id in"
        " (select attachment_id from attachment where expire_time < $1 limit $2 for update skip locked)"
        " returning attachment_id",
        now,
        limit,
    )
    return [row["attachment_id"] for row in rows]


# Templates

TEMPLATE_COLUMNS = "unit_id, template_id, version, bodies, create_time"


async def template(database: Database | Connection, unit_id: str, template_id: str) -> Row | None:
    """The newest version of a template."""
    return await database.fetchrow(
        f"select {TEMPLATE_COLUMNS} from template where unit_id = $1 and template_id = $2"
        " order by version desc limit 1",
        unit_id,
        template_id,
    )


async def hold_template(transaction: Connection, unit_id: str, template_id: str) -> Row | None:
    """The newest version of a template; until the transaction ends nobody else makes one in this unit."""
    await transaction.execute("select from unit where unit_id = $1 for no key update", unit_id)
    return await template(transaction, unit_id, template_id)


async def insert_template(
    transaction: Connection, *, unit_id: str, template_id: str, version: int, bodies: bytes, now: datetime
) -> Row:
    """The new version."""
    row = await transaction.fetchrow(
        f"insert into template ({TEMPLATE_COLUMNS}) values ($1, $2, $3, $4, $5) returning {TEMPLATE_COLUMNS}",
        unit_id,
        template_id,
        version,
        bodies,
        now,
    )
    assert row is not None
    return row


async def templates_of(database: Database, unit_id: str, *, after: str, limit: int) -> list[Row]:
    """The newest versions of a unit's templates, by name."""
    return await database.fetch(
        f"select distinct on (template_id) {TEMPLATE_COLUMNS} from template"
        " where unit_id = $1 and template_id > $2 order by template_id, version desc limit $3",
        unit_id,
        after,
        limit,
    )


# Feeds


async def append_to_feeds(transaction: Connection, entries: Sequence[tuple[str, feed_pb2.Event]]) -> None:
    """Gives events the next places in their units' feeds, in the order given."""
    if not entries:
        return
    counts: dict[str, int] = {}
    for unit_id, _ in entries:
        counts[unit_id] = counts.get(unit_id, 0) + 1
    units = sorted(counts)
    last = await transaction.fetch(
        "insert into feed as f (unit_id, last) select * from unnest($1::text[], $2::bigint[])"
        " on conflict (unit_id) do update set last = f.last + excluded.last returning unit_id, last",
        units,
        [counts[unit_id] for unit_id in units],
    )
    following = {row["unit_id"]: row["last"] - counts[row["unit_id"]] for row in last}
    rows = []
    for unit_id, event in entries:
        following[unit_id] += 1
        rows.append(
            (
                unit_id,
                following[unit_id],
                UUID(event.id),
                event.type,
                event.SerializeToString(),
                event.time.ToDatetime(UTC),
            )
        )
    await transaction.execute(
        "insert into feed_event (unit_id, sequence, event_id, type, event, time)"
        " select * from unnest($1::text[], $2::bigint[], $3::uuid[], $4::text[], $5::bytea[], $6::timestamptz[])",
        *(list(column) for column in zip(*rows, strict=True)),
    )


async def feed_page(database: Database, unit_id: str, *, after: int, size: int) -> tuple[list[Row], int | None]:
    """The events after a place, and the oldest place that is kept where nothing, or not the next, was found."""
    rows = await database.fetch(
        "select sequence, type, event from feed_event where unit_id = $1 and sequence > $2 order by sequence limit $3",
        unit_id,
        after,
        size,
    )
    if not after or (rows and rows[0]["sequence"] == after + 1):
        return rows, None
    oldest = await database.fetchval(
        "select coalesce((select min(sequence) from feed_event where unit_id = $1),"
        " (select last + 1 from feed where unit_id = $1))",
        unit_id,
    )
    return rows, oldest


async def sweep_feeds(database: Database, *, older_than: datetime) -> None:
    """Forgets old events."""
    await database.execute("delete from feed_event where time < $1", older_than)
