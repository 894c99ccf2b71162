"""SQL of topics and subscriptions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from services.runtime.database import Connection, Database, Row

Writer = Connection | Database

TOPIC = "identifier, content, create_time, delete_time, revision"
SUBSCRIPTION = "subscription_id, subsystem, topic, types, start_time, state, reason, told, create_time"


async def insert(database: Database, identifier: str, content: bytes) -> Row | None:
    """Makes a topic; None where there is one. One that was deleted begins anew."""
    return await database.fetchrow(
        "insert into topic as t (identifier, content) values ($1, $2) on conflict (identifier) do update"
        " set content = $2, create_time = clock_timestamp(), delete_time = null, revision = t.revision + 1"
        f" where t.delete_time is not null returning {TOPIC}",
        identifier,
        content,
    )


async def topic(writer: Writer, identifier: str) -> Row | None:
    """A topic."""
    return await writer.fetchrow(f"select {TOPIC} from topic where identifier = $1 and delete_time is null", identifier)


async def topics(database: Database, subsystem: str, *, after: str, limit: int) -> list[Row]:
    """The topics of a subsystem, by identifier."""
    return await database.fetch(
        f"select {TOPIC} from topic where identifier like $1 || '/%' and delete_time is null and identifier > $2"
        " order by identifier limit $3",
        subsystem,
        after,
        limit,
    )


async def update(database: Database, identifier: str, content: bytes, *, revision: int) -> Row | None:
    """Changes a topic; None where somebody else did."""
    return await database.fetchrow(
        "update topic set content = $2, revision = revision + 1 where identifier = $1 and revision = $3"
        f" and delete_time is null returning {TOPIC}",
        identifier,
        content,
        revision,
    )


async def delete(database: Database, identifier: str) -> Row | None:
    """Deletes a topic, and ends its subscriptions."""
    return await database.fetchrow(
        "with gone as (delete from subscriber where topic = $1)"
        " update topic set delete_time = clock_timestamp() where identifier = $1 and delete_time is null"
        f" returning {TOPIC}",
        identifier,
    )


async def subscribe(writer: Writer, topic: str, subsystem: str, types: Sequence[str]) -> bool:
    """Enters a subscriber; says whether it was none."""
    return (
        await writer.fetchval(
            "insert into subscriber as s (topic, subsystem, types) values ($1, $2, $3)"
            " on conflict (topic, subsystem) do update set types = $3 returning (xmax = 0)",
            topic,
            subsystem,
            types,
        )
        is True
    )


async def unsubscribe(writer: Writer, topic: str, subsystem: str) -> None:
    """Ends a subscription."""
    await writer.execute("delete from subscriber where topic = $1 and subsystem = $2", topic, subsystem)


async def subscribers(writer: Writer, topic: str, *, kind: str | None = None) -> list[str]:
    """Who has subscribed to a topic, and to a type of envelopes where it is given."""
    rows = await writer.fetch(
        "select subsystem from subscriber where topic = $1"
        " and ($2::text is null or cardinality(types) = 0 or $2 = any(types)) order by subsystem",
        topic,
        kind,
    )
    return [row["subsystem"] for row in rows]


async def types_of(database: Database, topic: str, subsystem: str) -> list[str]:
    """The types that a subscriber wants; none: all of them."""
    found = await database.fetchval(
        "select types from subscriber where topic = $1 and subsystem = $2", topic, subsystem
    )
    return list(found or ())


async def subscribers_shown(database: Database, topic: str, *, after: str, limit: int) -> list[Row]:
    """Subscribers, with what waits for them."""
    return await database.fetch(
        "select s.subsystem, s.create_time, (select count(*) from recipient r join envelope e using (envelope_id)"
        " where r.subsystem = s.subsystem and r.state = 1 and e.target = 'topic ' || s.topic) as waiting,"
        " (select max(r.settle_time) from recipient r join envelope e using (envelope_id)"
        " where r.subsystem = s.subsystem and r.state = 4 and e.target = 'topic ' || s.topic) as last_receipt_time,"
        " (select r.last_failure from recipient r join envelope e using (envelope_id) where r.subsystem = s.subsystem"
        " and r.state = 1 and e.target = 'topic ' || s.topic and r.last_failure <> '' limit 1) as last_failure"
        " from subscriber s where s.topic = $1 and s.subsystem > $2 order by s.subsystem limit $3",
        topic,
        after,
        limit,
    )


async def insert_subscription(
    database: Database,
    *,
    subscription_id: UUID,
    subsystem: str,
    topic: str,
    types: Sequence[str],
    start: datetime | None,
    state: int,
) -> Row:
    """Wishes to be told; the first where there is one."""
    await database.execute(
        "insert into subscription (subscription_id, subsystem, topic, types, start_time, state)"
        " values ($1, $2, $3, $4, $5, $6) on conflict (subsystem, topic) where state in (1, 2) do nothing",
        subscription_id,
        subsystem,
        topic,
        types,
        start,
        state,
    )
    row = await database.fetchrow(
        f"select {SUBSCRIPTION} from subscription where subsystem = $1 and topic = $2 and state in (1, 2)",
        subsystem,
        topic,
    )
    assert row is not None
    return row


async def subscription(writer: Writer, subscription_id: UUID) -> Row | None:
    """A subscription."""
    return await writer.fetchrow(f"select {SUBSCRIPTION} from subscription where subscription_id = $1", subscription_id)


async def active(writer: Writer, subsystem: str, topic: str) -> bool:
    """Whether a subsystem of this node is to be told of a topic."""
    return (
        await writer.fetchval(
            "select true from subscription where subsystem = $1 and topic = $2 and state in (1, 2)", subsystem, topic
        )
        is True
    )


async def subscriptions(database: Database, subsystem: str, *, before: UUID | None, limit: int) -> list[Row]:
    """A subsystem's subscriptions, latest first."""
    return await database.fetch(
        f"select {SUBSCRIPTION} from subscription where subsystem = $1 and ($2::uuid is null or subscription_id < $2)"
        " order by subscription_id desc limit $3",
        subsystem,
        before,
        limit,
    )


async def set_subscription(
    writer: Writer, subscription_id: UUID, *, state: int, reason: str = "", told: bool, before: int | None = None
) -> Row | None:
    """Changes how a subscription stands; None where it no longer stands as it is said to have `before`."""
    return await writer.fetchrow(
        "update subscription set state = $2, reason = $3, told = $4, next_attempt_time = clock_timestamp()"
        f" where subscription_id = $1 and ($5::smallint is null or state = $5) returning {SUBSCRIPTION}",
        subscription_id,
        state,
        reason,
        told,
        before,
    )


async def untold(database: Database, *, now: datetime, limit: int) -> list[Row]:
    """Subscriptions of which their publishers' nodes have to hear."""
    return await database.fetch(
        f"select {SUBSCRIPTION} from subscription where not told and next_attempt_time <= $1"
        " order by next_attempt_time limit $2",
        now,
        limit,
    )


async def tell_later(database: Database, subscription_id: UUID, at: datetime) -> None:
    """Has a publisher's node be told later."""
    await database.execute(
        "update subscription set next_attempt_time = $2 where subscription_id = $1", subscription_id, at
    )
