"""SQL of webhooks and their dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from services.runtime.database import Connection, Database, Row

COLUMNS = "webhook_id, unit_id, uri, types, state, secret, data_key, sequence, attempts, failures, create_time"
LETTER_COLUMNS = "sequence, dead_letter_id, event, attempts, last_status, last_attempt_time"


async def insert(
    database: Database,
    *,
    webhook_id: UUID,
    unit_id: str,
    uri: str,
    types: Sequence[str],
    secret: bytes,
    data_key: bytes,
    most: int,
    now: datetime,
) -> Row | None:
    """The new webhook, from the end of the unit's feed on; None where the unit has as many as it may."""
    return await database.fetchrow(
        "insert into webhook"
        " (webhook_id, unit_id, uri, types, state, secret, data_key, sequence, due_time, create_time)"
        " select $1, $2::text, $3, $4, 1, $5, $6, coalesce((select last from feed where unit_id = $2), 0), $8, $8"
        f" where (select count(*) from webhook where unit_id = $2) < $7 returning {COLUMNS}",
        webhook_id,
        unit_id,
        uri,
        types,
        secret,
        data_key,
        most,
        now,
    )


async def webhook(database: Database, unit_id: str, webhook_id: UUID) -> Row | None:
    """A webhook of a unit."""
    return await database.fetchrow(
        f"select {COLUMNS} from webhook where unit_id = $1 and webhook_id = $2", unit_id, webhook_id
    )


async def webhooks_of(database: Database, unit_id: str) -> list[Row]:
    """A unit's webhooks, oldest first."""
    return await database.fetch(f"select {COLUMNS} from webhook where unit_id = $1 order by webhook_id", unit_id)


async def delete(database: Database, unit_id: str, webhook_id: UUID) -> Row | None:
    """The webhook that is deleted, with its dead letters; None where there is none."""
    return await database.fetchrow(
        f"delete from webhook where unit_id = $1 and webhook_id = $2 returning {COLUMNS}", unit_id, webhook_id
    )


# Posting. Whoever claimed a webhook last may change it; one who was too slow finds that it cannot.


async def claim(database: Database, *, claim: UUID, now: datetime, until: datetime) -> Row | None:
    """A webhook that has something to post, kept from others until a time."""
    return await database.fetchrow(
        "update webhook set claim = $1, due_time = $3 where webhook_id = (select w.webhook_id from webhook w"
        " left join feed f using (unit_id) where w.state = 1 and w.due_time <= $2"
        " and (f.last > w.sequence or exists (select from webhook_dead_letter l where l.webhook_id = w.webhook_id"
        " and l.replay)) order by w.due_time limit 1 for update of w skip locked)"
        f" returning {COLUMNS}",
        claim,
        now,
        until,
    )


async def set_posted(
    database: Database, webhook_id: UUID, *, claim: UUID, sequence: int, succeeded: bool, until: datetime
) -> bool:
    """Records that all events up to a place have been dealt with; False where another process has the webhook."""
    row = await database.fetchrow(
        "update webhook set sequence = $3, attempts = 0, failures = case when $4 then 0 else failures end,"
        " due_time = $5"
        " where webhook_id = $1 and claim = $2 returning webhook_id",
        webhook_id,
        claim,
        sequence,
        succeeded,
        until,
    )
    return row is not None


async def keep(database: Database, webhook_id: UUID, *, claim: UUID, until: datetime) -> bool:
    """Keeps a webhook from others for longer; False where another process has it by now."""
    row = await database.fetchrow(
        "update webhook set due_time = $3 where webhook_id = $1 and claim = $2 returning webhook_id",
        webhook_id,
        claim,
        until,
    )
    return row is not None


async def set_failed(database: Database, webhook_id: UUID, *, claim: UUID, attempts: int, due: datetime) -> None:
    """Records that the next event could not be posted, and when it is tried again."""
    await database.execute(
        "update webhook set attempts = $3, due_time = $4, claim = null where webhook_id = $1 and claim = $2",
        webhook_id,
        claim,
        attempts,
        due,
    )


async def bury(
    transaction: Connection,
    webhook_id: UUID,
    *,
    claim: UUID,
    sequence: int,
    dead_letter_id: UUID,
    event: bytes,
    attempts: int,
    status: int,
    state: int,
    now: datetime,
) -> bool:
    """Makes the next event a dead letter and passes over it; False where another process has the webhook."""
    row = await transaction.fetchrow(
        "update webhook set sequence = $3, attempts = 0, failures = failures + 1, state = $4"
        " where webhook_id = $1 and claim = $2 returning webhook_id",
        webhook_id,
        claim,
        sequence,
        state,
    )
    if row is None:
        return False
    await transaction.execute(
        "insert into webhook_dead_letter (webhook_id, sequence, dead_letter_id, event, attempts, last_status,"
        " last_attempt_time) values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing",
        webhook_id,
        sequence,
        dead_letter_id,
        event,
        attempts,
        status,
        now,
    )
    return True


async def free(database: Database, webhook_id: UUID, *, claim: UUID, now: datetime) -> None:
    """Lets others have a webhook."""
    await database.execute(
        "update webhook set due_time = $3, claim = null where webhook_id = $1 and claim = $2", webhook_id, claim, now
    )


# Dead letters


async def dead_letters(database: Database, webhook_id: UUID, *, after: int, limit: int) -> list[Row]:
    """The dead letters of a webhook, in the feed's order."""
    return await database.fetch(
        f"select {LETTER_COLUMNS} from webhook_dead_letter where webhook_id = $1 and sequence > $2"
        " order by sequence limit $3",
        webhook_id,
        after,
        limit,
    )


async def replay(database: Database, webhook_id: UUID, dead_letter_ids: Sequence[UUID], *, now: datetime) -> int:
    """Marks dead letters (none named: all) to be posted again, wakes the webhook, and returns how many they are."""
    count: int = await database.fetchval(
        "with marked as (update webhook_dead_letter set replay = true where webhook_id = $1"
        " and (cardinality($2::uuid[]) = 0 or dead_letter_id = any($2)) returning 1),"
        " woken as (update webhook set state = 1, failures = 0,"
        " due_time = case when claim is null or state <> 1 then $3 else due_time end where webhook_id = $1)"
        " select count(*) from marked",
        webhook_id,
        dead_letter_ids,
        now,
    )
    return count


async def to_replay(database: Database, webhook_id: UUID, *, limit: int) -> list[Row]:
    """Dead letters that were asked for again, in the feed's order."""
    return await database.fetch(
        f"select {LETTER_COLUMNS} from webhook_dead_letter where webhook_id = $1 and replay order by sequence limit $2",
        webhook_id,
        limit,
    )


async def set_replayed(
    database: Database, dead_letter_id: UUID, *, succeeded: bool, status: int, now: datetime
) -> None:
    """Forgets a dead letter that was posted after all, or records that it was not."""
    if succeeded:
        await database.execute("delete from webhook_dead_letter where dead_letter_id = $1", dead_letter_id)
        return
    await database.execute(
        "update webhook_dead_letter set replay = false, attempts = attempts + 1, last_status = $2,"
        " last_attempt_time = $3 where dead_letter_id = $1",
        dead_letter_id,
        status,
        now,
    )


async def sweep_dead_letters(database: Database, *, older_than: datetime) -> None:
    """Forgets dead letters that nobody has replayed."""
    await database.execute("delete from webhook_dead_letter where last_attempt_time < $1", older_than)
