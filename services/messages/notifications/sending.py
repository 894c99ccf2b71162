"""Plans notifications when messages become available, and sends them when they are due.

Planning follows the events of this service (`plan`); what is due is claimed,
judged by how the message stands by then, and handed to a port. A failure is
tried again later, and at last told to the sender's feed; it touches nothing
but the notification. A crash may repeat one: it has the same id then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

from solmu.messages.v1 import events_pb2, messages_pb2

from services.messages import legal
from services.messages.notifications import rules, sealed, store, texts
from services.messages.notifications.ports import Outcome, Outgoing, Port
from services.messages.notifications.rules import Channel, Kind, QuietHours
from services.messages.notifications.texts import Notice
from services.messages.profiles import PROFILES
from services.messages.servicers import courses, units
from services.runtime import database as databases
from services.runtime import outbox as outboxes
from services.runtime.database import PASSING, Connection, Database, Row
from services.runtime.ids import new_id
from services.runtime.jetstream import Received
from services.runtime.outbox import Outbox
from services.runtime.sealing import Sealer, Vault
from services.runtime.telemetry import NOTIFICATIONS

logger = logging.getLogger(__name__)

POLL_INTERVAL = 1.0
"""Seconds between two looks for what is due."""

BATCH = 200
"""Notifications claimed at once."""

CLAIM = timedelta(minutes=15)
"""How long a process may take for a batch: each of its mails has some steps of 10 seconds, four at a time."""

Delivery = messages_pb2.Delivery
Changed = events_pb2.NotificationChanged


async def plan(transaction: Connection, events: Sequence[Received]) -> None:
    """Adds what is to be sent about messages that have become available; where that fails, nothing else does."""
    released = dict(found for event in events if (found := _released(event)) is not None)
    if not released:
        return
    try:
        async with transaction.transaction():
            await store.add(
                transaction,
                [
                    (new_id(), row["mailbox_id"], row["message_id"], row["channel"], kind, due_time)
                    for row in await store.recipients(transaction, list(released))
                    for kind, due_time in rules.planned(
                        legal.Kind(row["kind"]),
                        PROFILES[row["legal_profile"]],
                        available=released[row["message_id"]],
                    )
                ],
            )
    except databases.AWAY:
        raise
    except Exception as error:  # a notification is never worth more than an event
        logger.error("notifications could not be planned", exc_info=error)


def _released(event: Received) -> tuple[UUID, datetime] | None:
    """The message that has become available by an event, and when; None for other events."""
    if event.type != events_pb2.DeliveryChanged.DESCRIPTOR.full_name:
        return None
    changed = events_pb2.DeliveryChanged.FromString(event.payload)
    way = changed.delivery
    if (way.channel, way.state) != (Delivery.CHANNEL_ELECTRONIC, Delivery.STATE_AVAILABLE):
        return None
    return UUID(changed.reference.message.split("/")[3]), way.update_time.ToDatetime(UTC)


@dataclass(frozen=True)
class Manner:
    """How the node's notifications read, and by which clock."""

    language: str
    portal: str
    zone: ZoneInfo


@dataclass(frozen=True)
class Due:
    """A notification that is to be sent now."""

    row: Row
    outgoing: Outgoing


class Sending:
    """Sends what is due, by the ports that the node has."""

    def __init__(
        self, *, database: Database, outbox: Outbox, vault: Vault, ports: Mapping[Channel, Port], manner: Manner
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._vault = vault
        self._ports = ports
        self._manner = manner

    async def run(self) -> None:
        """Sends for as long as the process runs. Several processes may do this at once."""
        while True:
            try:
                while await self.once(now=datetime.now(UTC)):
                    pass
            except PASSING as error:
                logger.warning("notifications wait", extra={"error": type(error).__qualname__})
            except Exception as error:  # the service goes on, whatever becomes of notifications
                logger.error("notifications failed", exc_info=error)
            await asyncio.sleep(POLL_INTERVAL)

    async def once(self, *, now: datetime) -> bool:
        """Deals with a batch of what is due. False: nothing was."""
        claimed = await store.claim(self._database, channels=list(self._ports), now=now, until=now + CLAIM, limit=BATCH)
        due: dict[Channel, list[Due]] = {channel: [] for channel in self._ports}
        for row in claimed:
            try:
                found = await self._judged(row, now=now)
            except PASSING:
                raise
            except Exception as error:  # such as what does not open: the others are sent
                logger.error("a notification could not be judged", exc_info=error)
                await self._keep(row, Outcome.FAILED, now=now)
            else:
                if found is not None:
                    due[Channel(row["channel"])].append(found)
        await asyncio.gather(*(self._send(channel, batch, now=now) for channel, batch in due.items()))
        if claimed:
            self._outbox.wake()
        return bool(claimed)

    async def _send(self, channel: Channel, batch: Sequence[Due], *, now: datetime) -> None:
        """Tries a batch by its channel, and keeps what became of each."""
        if batch:
            outcomes = await self._ports[channel].send([one.outgoing for one in batch])
            for one, outcome in zip(batch, outcomes, strict=True):
                await self._keep(one.row, outcome, now=now)

    async def _judged(self, row: Row, *, now: datetime) -> Due | None:
        """What is to be sent; None where nothing is, now or ever, and that is kept."""
        if row["data_key"] is None or row["address"] is None or row["discontinued"]:
            await store.delete(self._database, [row["notification_id"]])
            return None
        kind = Kind(row["kind"])
        sealer = self._vault.sealer(row["data_key"], owner=f"mailboxes/{row['mailbox_id']}")
        notice = self._code(row, sealer) if kind is Kind.CODE else self._about_message(kind, row, sealer)
        if notice is None:
            await store.delete(self._database, [row["notification_id"]])
            return None
        allowed = now if kind is Kind.CODE else rules.allowed(now, quiet_hours(row), self._manner.zone)
        if allowed > now:
            tries = row["tries"] - 1  # it was not tried
            await store.put_off(self._database, row["notification_id"], due_time=allowed, tries=tries)
            return None
        to = sealed.opened(sealer, row, sealed.ADDRESS)
        return Due(row, Outgoing(row["notification_id"], to, notice))

    def _code(self, row: Row, sealer: Sealer) -> Notice | None:
        if row["code"] is None:
            return None
        code = sealed.opened(sealer, row, sealed.CODE)
        return texts.of_code(row["language"], usual=self._manner.language, code=code)

    def _about_message(self, kind: Kind, row: Row, sealer: Sealer) -> Notice | None:
        unopened = (
            row["delivery_state"] == Delivery.STATE_AVAILABLE and row["open_time"] is None and row["purge_time"] is None
        )
        if not unopened or row["confirm_time"] is None:
            return None  # and its content, which may be gone, is not looked at
        content = sealer.open(row["content"], context=f"messages/{row['message_id']}")
        policy = messages_pb2.Message.FromString(content).notification
        if not rules.wanted(kind, none=policy.none, no_reminder=policy.no_reminder, unopened=unopened):
            return None
        names = {one.language: one.text for one in units.display_names(row["display_names"]).display_names}
        return texts.of_message(
            kind,
            row["language"],
            usual=self._manner.language,
            sender=None if policy.sender == messages_pb2.NotificationPolicy.SENDER_HIDDEN else names,
            own={one.language: one.text for one in policy.texts},
            portal=self._manner.portal,
        )

    async def _keep(self, row: Row, outcome: Outcome, *, now: datetime) -> None:
        """Keeps what became of a try, and tells the sender's feed where that is the end of it."""
        later = rules.next_try(row["tries"], now=now) if outcome is Outcome.FAILED else None
        channel = Channel(row["channel"]).name.lower()
        NOTIFICATIONS.labels(channel, outcome.value).inc()
        if later is not None:
            logger.warning("a notification failed", extra={"channel": channel, "tries": row["tries"]})
            await store.put_off(self._database, row["notification_id"], due_time=later, tries=row["tries"])
            return
        if outcome is not Outcome.SENT:
            logger.warning("a notification is given up", extra={"channel": channel, "outcome": outcome.value})
        async with self._database.transaction() as transaction:
            await store.delete(transaction, [row["notification_id"]])
            if row["message_id"] is not None:
                told = Changed(reference=courses.reference(row), outcome=_outcome(Kind(row["kind"]), outcome))
                await self._outbox.append(transaction, [outboxes.event(told, now=now)])


def quiet_hours(row: Row) -> QuietHours | None:
    """The quiet hours of contact details: the owner's, or the channel's usual ones."""
    if row["quiet_start"] is None:
        return rules.USUAL_QUIET_HOURS.get(Channel(row["channel"]))
    return QuietHours(row["quiet_start"], row["quiet_end"])


def _outcome(kind: Kind, outcome: Outcome) -> Changed.Outcome.ValueType:
    if outcome is not Outcome.SENT:
        return Changed.OUTCOME_FAILED
    return Changed.OUTCOME_REMINDER_SENT if kind is Kind.REMINDER else Changed.OUTCOME_SENT
