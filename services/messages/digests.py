"""The SHA-256 digest of an attachment, sealed under its key as its name is.

Who can guess a document, and sees its digest beside a party, knows that the
party has it. So it is told to those who may see the attachment, and goes with
its key. Equal content is found by another, keyed digest (`blob_store.share`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from services.messages import attachment_store
from services.runtime.database import PASSING, Database, Row
from services.runtime.sealing import Sealer, Vault

logger = logging.getLogger(__name__)

INTERVAL = 600.0
"""Seconds between two looks for what a release before this one has left, which may still run beside it."""

BATCH = 500
"""Digests sealed in one transaction: some 20 ms of work."""


def sealed(sha256: str, *, attachment_id: UUID, sealer: Sealer) -> bytes | None:
    """A hexadecimal digest as it is kept; None where it is not known yet. `sealer` is the attachment's."""
    return sealer.seal(bytes.fromhex(sha256), context=_context(attachment_id)) if sha256 else None


def opened(row: Row | Mapping[str, Any], *, vault: Vault, key: str = "data_key") -> str:
    """The digest of an attachment, hexadecimal; "" where it is not known, or erased. `key` names the key's column."""
    if row[key] is None:
        return ""
    if row["digest"] is None:
        return row["sha256"] or ""
    sealer = vault.sealer(row[key], owner=f"attachments/{row['attachment_id']}")
    return sealer.open(row["digest"], context=_context(row["attachment_id"])).hex()


async def run(*, database: Database, vault: Vault) -> None:
    """Seals digests that lie in the clear, for as long as the process runs. Several processes may do this at once."""
    while True:
        try:
            while await seal_left(database=database, vault=vault):
                pass
        except PASSING as error:
            logger.warning("sealing of digests waits", extra={"error": type(error).__qualname__})
        await asyncio.sleep(INTERVAL)


async def seal_left(*, database: Database, vault: Vault) -> int:
    """Seals a batch of those that an earlier release has left; returns how many."""
    async with database.transaction() as transaction:
        rows = await attachment_store.hold_plain_digests(transaction, limit=BATCH)
        await attachment_store.set_digests(
            transaction, [(row["attachment_id"], _sealed_now(row, vault=vault)) for row in rows]
        )
    return len(rows)


def _sealed_now(row: Row, *, vault: Vault) -> bytes | None:
    if row["data_key"] is None:  # erased: nobody is to know it any more
        return None
    sealer = vault.sealer(row["data_key"], owner=f"attachments/{row['attachment_id']}")
    return sealed(row["sha256"], attachment_id=row["attachment_id"], sealer=sealer)


def _context(attachment_id: UUID) -> str:
    return f"attachments/{attachment_id}/sha256"
