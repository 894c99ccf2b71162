"""Ends messages for units that keep them for a time, and deletes what is nobody's any more.

A message is the unit's and its recipient's. When the unit's time is over, the
unit does not see it any more, nor its attachments, and may use its key again;
the recipient keeps it. When it has left the mailbox too, it is deleted. A
message that waits, or whose legal effect is open, is not ended before.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from uuid import UUID

from solmu.messages.v1 import events_pb2

from services.messages import blob_store, retention_store
from services.messages.servicers import courses
from services.runtime import outbox
from services.runtime.database import Database
from services.runtime.outbox import Outbox

logger = logging.getLogger(__name__)

BATCH = 200
"""Messages ended or deleted in one transaction."""


async def once(*, database: Database, outbox: Outbox, now: datetime) -> None:
    """One round."""
    for unit in await retention_store.units_with_retention(database):
        while await _end(database, outbox, unit["unit_id"], before=now - unit["retention"], now=now) == BATCH:
            pass
    while await _delete(database, now=now) == BATCH:
        pass


async def _end(database: Database, relay: Outbox, unit_id: str, *, before: datetime, now: datetime) -> int:
    async with database.transaction() as transaction:
        rows = await retention_store.end(transaction, unit_id, before=first_id(before), now=now, limit=BATCH)
        if not rows:
            return 0
        await retention_store.disown(transaction, [row["message_id"] for row in rows])
        closed = [events_pb2.MessageClosed(reference=courses.reference(row)) for row in rows]
        await relay.append(transaction, [outbox.event(event, now=now) for event in closed])
    relay.wake()
    logger.info("messages ended", extra={"unit": unit_id, "count": len(rows)})
    return len(rows)


async def _delete(database: Database, *, now: datetime) -> int:
    async with database.transaction() as transaction:
        count, left = await retention_store.delete_ended(transaction, now=now, limit=BATCH)
        await blob_store.leave(transaction, left)
    return count


def first_id(time: datetime) -> UUID:
    """The least id that can be made at a time (UUIDv7: milliseconds since 1970, and then what it likes)."""
    milliseconds = max(0, (time - datetime.fromtimestamp(0, tz=time.tzinfo)) // timedelta(milliseconds=1))
    return UUID(int=milliseconds << 80)
