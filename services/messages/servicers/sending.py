"""Keeping new messages, whichever way they go: all that belongs to each, or nothing."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple
from uuid import UUID

from solmu.messages.v1 import events_pb2, feed_pb2, messages_pb2
from solmu.types.v1 import types_pb2

from services.messages import attachment_store, holding, message_store
from services.messages.abroad import store as abroad_store
from services.messages.deliveries import Channel
from services.messages.feed import Feed, Payload
from services.messages.mailboxes import Mailbox
from services.messages.message_store import Alike, New
from services.messages.servicers import names, outcomes, views
from services.messages.servicers.outcomes import Outcome, Terms
from services.runtime import identity, outbox
from services.runtime.database import Connection, Database, Row
from services.runtime.errors import FailedPrecondition, InvalidArgument
from services.runtime.gathering import Gathering
from services.runtime.ids import new_ids
from services.runtime.outbox import Outbox
from services.runtime.sealing import Sealer, Vault

Message = messages_pb2.Message
Use = tuple[UUID, int, bool, str]
"""How a message uses an attachment: which, its role, whether it is left off paper, its language."""


class NewMessage(NamedTuple):
    """A message that the rules have let pass."""

    message_id: UUID
    electronic_id: UUID
    """The id of its delivery to the mailbox."""
    unit_id: str
    mailbox: Mailbox
    asked: Message
    said: Message
    """The part of that which is sealed."""
    idempotency_key: str
    digest: bytes
    """Of the whole request; tells a repeat from another message under the same key."""
    outcome: Outcome
    """What becomes of it, unless it has to wait for its attachments."""
    sender: types_pb2.Actor
    thread: UUID
    in_reply_to: UUID | None
    notified: bool = False
    """Whether notifications go to the owner of the mailbox."""
    terms: Terms | None = None
    """Those of a message from a unit."""
    sought: types_pb2.NationalIdentifier | None = None
    """Whose mailbox is to be looked for on other nodes."""

    @property
    def name(self) -> str:
        """As its unit calls it."""
        return f"units/{self.unit_id}/messages/{self.message_id}"

    def delivery_id(self, channel: int) -> UUID:
        """The id of its delivery by a channel; a letter has that of its message."""
        return self.electronic_id if channel == Channel.ELECTRONIC else self.message_id

    def made(self, into: Message) -> Message:
        """What the node has made of it, for an answer: nothing of what the sender said."""
        into.MergeFrom(self.outcome.answer)
        into.name = self.name
        into.thread = f"threads/{self.thread}"
        into.sender.CopyFrom(self.sender)
        into.idempotency_key = self.idempotency_key
        for way in into.deliveries:
            way.name = f"deliveries/{self.delivery_id(way.channel)}"
        return into


@dataclass(frozen=True)
class Kept:
    """A message that was just kept, and its attachments."""

    new: NewMessage
    attachments: Sequence[Row] = ()

    def message(self, *, vault: Vault) -> Message:
        """The message as it would be read by its unit."""
        new, asked = self.new, self.new.asked
        result = new.made(Message())
        result.MergeFrom(new.said)
        result.MergeFrom(
            Message(
                recipient=messages_pb2.Recipient(mailbox=f"mailboxes/{new.mailbox.mailbox_id}"),
                kind=int(new.outcome.course.kind),  # type: ignore[arg-type]  # numbers as in the contract
                attachments=[views.attached(row, vault=vault) for row in self.attachments],
                in_reply_to=f"units/{new.unit_id}/messages/{new.in_reply_to}" if new.in_reply_to else "",
                publish_time=names.timestamp(new.outcome.course.publish_time),
                due_time=names.timestamp(new.outcome.course.due_time),
                correlation_id=asked.correlation_id,
            )
        )
        return result


class Sending:
    """Keeps new messages."""

    def __init__(
        self, *, database: Database, feed: Feed, outbox: Outbox, vault: Vault, nodes: Sequence[str] = ()
    ) -> None:
        """`nodes` are the subsystems that are asked where a mailbox is sought: `subsystems/{subsystem}`."""
        self._database = database
        self._feed = feed
        self._outbox = outbox
        self._vault = vault
        self._nodes = nodes
        self._keeping = Gathering(self.keep_all)

    async def keep(self, new: NewMessage) -> Kept | None:
        """Keeps a message with all that is its own. None: its idempotency key is used by now.

        Where there are no attachments and nothing else may follow from it, it
        shares one statement with what others keep at the same time. Raises
        FailedPrecondition: ATTACHMENT_NOT_READY, ATTACHMENT_INFECTED,
        ATTACHMENT_SCAN_FAILED.
        """
        uses = _uses(new.asked)
        if not uses and new.sought is None and new.terms is not None:
            return Kept(new) if await self._keeping.ask(new) else None
        async with self._database.transaction() as transaction:
            if await _waits(transaction, uses, inbound=new.terms is None):
                assert new.terms is not None
                outcome = outcomes.accepted(new.terms._replace(waits=True), new.outcome.now)
                new = new._replace(outcome=outcome)
            attachments = await self._keep_with(transaction, new, uses)
        if attachments is None:
            return None
        self._outbox.wake()
        return Kept(new, attachments)

    async def _keep_with(self, transaction: Connection, new: NewMessage, uses: Sequence[Use]) -> list[Row] | None:
        """Keeps a message with what it carries; what follows from it is told by the outbox. None: as `keep`."""
        alike = replace(_alike(new), notices=())
        if not await message_store.send(transaction, [New(alike, self._own(new), events=())]):
            return None
        await self._outbox.append(transaction, [_told(new, payload) for payload in new.outcome.told])
        await attachment_store.attach(transaction, message_id=new.message_id, attachments=uses)
        if new.sought is not None:
            sealed = self._sealer(new).seal(
                new.sought.SerializeToString(), context=f"messages/{new.message_id}/recipient"
            )
            await abroad_store.insert_outgoing(transaction, new.message_id, asked=self._nodes, recipient=sealed)
        return await attachment_store.attachments_of(transaction, [new.message_id])

    async def keep_all(self, new: Sequence[NewMessage]) -> list[bool]:
        """Keeps messages without attachments, in one statement. False of each whose idempotency key is used by now."""
        if not new:
            return []
        known: dict[Hashable, Alike] = {}
        rows = []
        event_ids = iter(new_ids(sum(len(one.outcome.events) for one in new)))
        for one in new:
            what = (one.outcome, one.unit_id, one.notified, one.sender.SerializeToString())
            alike = known.get(what) or known.setdefault(what, _alike(one))
            rows.append(New(alike, self._own(one), _events(one, event_ids)))
        kept = await message_store.send(self._database, rows)
        await self._feed.written()
        return [one.message_id in kept for one in new]

    def _sealer(self, new: NewMessage) -> Sealer:
        return self._vault.sealer(new.mailbox.data_key, owner=f"mailboxes/{new.mailbox.mailbox_id}")

    def _own(self, new: NewMessage) -> Sequence[object]:
        """What the row of a message has of its own (`New.own`)."""
        asked, message_id = new.asked, new.message_id
        content = self._sealer(new).seal(new.said.SerializeToString(), context=f"messages/{message_id}")
        return (
            new.electronic_id,
            message_id,
            new.mailbox.mailbox_id,
            new.idempotency_key,
            new.digest,
            content,
            asked.correlation_id,
            asked.case_reference.case_id,
            new.thread,
            new.in_reply_to,
            asked.visibility == Message.VISIBILITY_RECIPIENT_ONLY,
        )


def _alike(new: NewMessage) -> Alike:
    """The rows that a message shares with those that have the same outcome, unit and sender."""
    known, sender = new.outcome.course, new.sender
    message = (
        new.unit_id,
        new.outcome.answer.direction,
        known.kind,
        known.state,
        sender.party,
        sender.client,
        sender.SerializeToString() if sender.acting_party else None,
        new.outcome.now,
        known.release_time,
        known.publish_time,
        known.due_time,
        known.profile.name,
        known.effect.state,
        known.effect.time,
        known.effect.basis,
        new.outcome.wake_time,
        known.paper.trigger if known.paper.any else None,
        known.paper.unread_after,
        known.paper.working_hours if known.paper.any else None,
    )
    return Alike(
        message,
        deliveries=[(way.channel, way.state, way.update_time, way.available_time) for way in known.deliveries],
        notices=new.outcome.notices if new.notified else (),
    )


def _events(new: NewMessage, ids: Iterator[UUID]) -> list[tuple[UUID, UUID, str, bytes]]:
    """The events of the outcome as those of this message: whose, its id, its type and itself."""
    about = feed_pb2.Event(message=new.name, correlation_id=new.asked.correlation_id)
    if new.terms is not None:  # the key of one to the unit is not the unit's
        about.idempotency_key = new.idempotency_key
    shared, events = about.SerializeToString(), []
    for told in new.outcome.events:
        own = feed_pb2.Event(id=str(event_id := next(ids)))
        if told.channel is not None:
            own.delivery.name = f"deliveries/{new.delivery_id(told.channel)}"
        events.append((new.message_id, event_id, told.type, told.event + shared + own.SerializeToString()))
    return events


def _told(new: NewMessage, told: Payload) -> outbox.Event:
    """An event of the outcome as one of this message, for the outbox."""
    payload = type(told)()
    payload.CopyFrom(told)
    inbound = new.terms is None
    reference = events_pb2.MessageReference(
        message=new.name,
        idempotency_key="" if inbound else new.idempotency_key,
        correlation_id=new.asked.correlation_id,
    )
    payload.reference.CopyFrom(reference)  # type: ignore[attr-defined]  # every event of a message has one
    if isinstance(payload, events_pb2.DeliveryChanged):
        payload.delivery.name = f"deliveries/{new.delivery_id(payload.delivery.channel)}"
    return outbox.event(payload, now=new.outcome.now)


async def _waits(transaction: Connection, uses: Sequence[Use], *, inbound: bool) -> bool:
    """Whether the message has to wait for one of its attachments; none is judged until the transaction ends."""
    ids = [attachment_id for attachment_id, *_ in uses]
    states = await attachment_store.lock(transaction, ids, owner=identity.caller().party)
    found = {attachment_id: holding.State(state) for attachment_id, state in states.items()}
    waiting = [one for one in ids if holding.waits(found.get(one), attachment=f"attachments/{one}")]
    if waiting and inbound:
        raise FailedPrecondition(
            "ATTACHMENT_NOT_READY",
            "an attachment has not been found clean yet; send the message once it has",
            attachment=f"attachments/{waiting[0]}",
        )
    return bool(waiting)


def _uses(asked: Message) -> list[Use]:
    """The attachments that a message names, each once."""
    uses: list[Use] = [
        (
            names.uid(use.attachment, 1, field=f"message.attachments[{position}].attachment"),
            use.role,
            use.excluded_from_paper,
            use.language,
        )
        for position, use in enumerate(asked.attachments)
    ]
    if len({attachment_id for attachment_id, *_ in uses}) < len(uses):
        violations = [("message.attachments", "names an attachment twice")]
        raise InvalidArgument("FIELD_INVALID", "an attachment is named twice", violations=violations)
    return uses
