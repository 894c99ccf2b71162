"""Deletes the content that is nobody's any more.

Whoever takes an attachment away notes its blob in the same transaction; here it
is looked at again, after the commit, and deleted where no attachment has it any
more. So no crash leaves content behind, and a store that is away delays it only.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from services.messages import blob_store
from services.messages.blobs import Blobs
from services.runtime.config import ConfigError
from services.runtime.database import PASSING, Database
from services.runtime.errors import Unavailable

logger = logging.getLogger(__name__)

TRIES = 3
"""Looks at the newest: what was there at the first may have been deleted by another process since."""

WAITS: tuple[type[Exception], ...] = (*PASSING, Unavailable)
"""What passes: the database, or the store, is away."""

INTERVAL = 5.0
"""Seconds between two looks. What is erased cannot be read from the moment that its key is gone."""

BATCH = 100
"""Blobs looked at in one go."""


async def check_there(database: Database, blobs: Blobs) -> None:
    """Raises ConfigError where the store lacks what was uploaded last: it is not the one of this database."""
    for _ in range(TRIES):
        newest = await blob_store.newest(database)
        if newest is None or await blobs.size(newest["blob_id"]) >= newest["size_bytes"]:
            return
    problem = (
        "SOLMU_ATTACHMENTS does not hold what this database has attached last: was a backup restored in part?"
        " Restore attachments that are as new as the database, or name the right place"
    )
    raise ConfigError([problem])


async def run(*, database: Database, blobs: Blobs) -> None:
    """Deletes for as long as the process runs. Several processes may do this at once."""
    while True:
        try:
            while await once(database=database, blobs=blobs, now=datetime.now(UTC)) == BATCH:
                pass
        except WAITS as error:
            logger.warning("deleting waits", extra={"error": type(error).__qualname__})
        await asyncio.sleep(INTERVAL)


async def once(*, database: Database, blobs: Blobs, now: datetime) -> int:
    """Looks at a batch; returns how many."""
    left = await blob_store.left(database, before=now, limit=BATCH)
    for blob_id in left:
        if not await blob_store.is_anybodys(database, blob_id):
            await blobs.delete(blob_id)
        await blob_store.forget(database, blob_id)
    return len(left)
