"""Closes the mailboxes of those who have died, as authorisations hears from registers; opens them where one erred.

What was delivered stays where it is. What was to come finds the mailbox closed, and goes the way that its sender has
foreseen for the unreachable: a letter, to the address that the sender gave, is what reaches an estate.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from solmu.authorisations.v1.events_pb2 import DeathsChanged

from services.messages import mailbox_store
from services.messages.mailboxes import Closing
from services.runtime.database import Connection
from services.runtime.ids import new_id
from services.runtime.jetstream import Received

RECORDS = "registers/%"
"""References of closings that follow a register; those of an authority's own decision are other ones."""

NOBODY = b""
"""The actor of what the node does by itself."""


async def handle(transaction: Connection, events: Sequence[Received]) -> None:
    """Takes events of authorisations; the last word on a person counts."""
    said = {death.person: death.record for event in events for death in _deaths(event)}
    if not said:
        return
    now = datetime.now(UTC)
    died = {person: record for person, record in said.items() if record}
    closed = await mailbox_store.close_of(transaction, list(died), list(died.values()), reason=Closing.DEATH, now=now)
    opened = await mailbox_store.reopen_of(
        transaction, sorted(said.keys() - died.keys()), reason=Closing.DEATH, references=RECORDS, now=now
    )
    await _note(transaction, closed, "a register records the owner's death", now=now)
    await _note(transaction, opened, "no register records the owner's death any more", now=now)


async def _note(transaction: Connection, mailbox_ids: Sequence[UUID], reason: str, *, now: datetime) -> None:
    for mailbox_id in mailbox_ids:
        await mailbox_store.record_audit(
            transaction,
            audit_id=new_id(),
            method=DeathsChanged.DESCRIPTOR.name,
            actor=NOBODY,
            mailbox_id=mailbox_id,
            reason=reason,
            now=now,
        )


def _deaths(event: Received) -> Sequence[DeathsChanged.Death]:
    if event.type != DeathsChanged.DESCRIPTOR.full_name:
        return ()
    return DeathsChanged.FromString(event.payload).deaths
