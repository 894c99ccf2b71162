"""Contact details as they are kept: sealed under the mailbox's key, each value for its place alone."""

from __future__ import annotations

from uuid import UUID

from services.messages.notifications.rules import Channel
from services.runtime.database import Row
from services.runtime.sealing import Sealer

ADDRESS = "address"
CODE = "code"
"""Columns that are sealed."""


def seal(sealer: Sealer, value: str, *, mailbox_id: UUID, channel: Channel, column: str) -> bytes:
    """A value for a column of contact details."""
    return sealer.seal(value.encode(), context=_context(mailbox_id, channel, column))


def opened(sealer: Sealer, row: Row, column: str) -> str:
    """The value of a column of contact details."""
    return sealer.open(row[column], context=_context(row["mailbox_id"], Channel(row["channel"]), column)).decode()


def _context(mailbox_id: UUID, channel: Channel, column: str) -> str:
    return f"mailboxes/{mailbox_id}/contacts/{channel.name.lower()}/{column}"
