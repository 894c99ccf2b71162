"""Closes the mailboxes of those who have died, as authorisations hears from registers; opens them where one erred.

What was delivered stays where it is, and its senders are told (`closings.py`). What was to come finds the mailbox
closed, and goes the way that its sender has foreseen for the unreachable: a letter, to the address that the sender
gave, is what reaches an estate. No mailbox is opened while a register has the death on record, whoever asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from solmu.authorisations.v1.events_pb2 import DeathsChanged

from services.messages import closings, mailbox_store
from services.messages.mailboxes import Closing
from services.runtime.database import Connection
from services.runtime.ids import new_id
from services.runtime.jetstream import Received
from services.runtime.outbox import Outbox
from services.runtime.sealing import Vault

RECORDS = "registers/%"
"""References of closings that follow a register; those of an authority's own decision are other ones."""

NOBODY = b""
"""The actor of what the node does by itself."""


class Deaths:
    """Follows what registers say of deaths."""

    def __init__(self, *, outbox: Outbox, vault: Vault) -> None:
        self._outbox = outbox
        self._vault = vault

    async def handle(self, transaction: Connection, events: Sequence[Received]) -> None:
        """Takes events of authorisations; the last word on a person counts."""
        said = {death.person: death.record for event in events for death in _deaths(event)}
        if not said:
            return
        now = datetime.now(UTC)
        died = {person: record for person, record in said.items() if record}
        lives = sorted(said.keys() - died.keys())
        await self._keep(transaction, died, now=now)
        await mailbox_store.forget_deaths(transaction, lives)
        closed = await mailbox_store.close_of(
            transaction, list(died), list(died.values()), reason=Closing.DEATH, now=now
        )
        opened = await mailbox_store.reopen_of(transaction, lives, reason=Closing.DEATH, references=RECORDS, now=now)
        await closings.tell(transaction, self._outbox, closed, reason=Closing.DEATH, now=now)
        await _note(transaction, closed, "a register records the owner's death", now=now)
        await _note(transaction, opened, "no register records the owner's death any more", now=now)

    async def _keep(self, transaction: Connection, died: dict[str, str], *, now: datetime) -> None:
        """Keeps the records with the mailboxes, and with the places of those who have none."""
        ids = [new_id() for _ in died]
        keys = [self._vault.new_key(owner=f"mailboxes/{mailbox_id}") for mailbox_id in ids]
        await mailbox_store.keep_deaths(transaction, ids, list(died), list(died.values()), data_keys=keys, now=now)


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
