"""Keeping a new message, whichever way it goes: all that belongs to it, or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from solmu.messages.v1 import events_pb2, messages_pb2
from solmu.types.v1 import types_pb2

from services.messages import attachment_store, course, holding, message_store
from services.messages.abroad import store as abroad_store
from services.messages.course import Course, wake_time
from services.messages.mailboxes import Mailbox
from services.messages.message_store import NewRows
from services.messages.servicers import courses, names, views
from services.runtime import identity, outbox
from services.runtime.database import Connection, Database, Row
from services.runtime.errors import FailedPrecondition, InvalidArgument
from services.runtime.gathering import Gathering
from services.runtime.outbox import Event, Outbox
from services.runtime.sealing import Sealer, Vault

Message = messages_pb2.Message
Use = tuple[UUID, int, bool, str]
"""How a message uses an attachment: which, its role, whether it is left off paper, its language."""


@dataclass(frozen=True, kw_only=True)
class NewMessage:
    """A message that the rules have let pass."""

    message_id: UUID
    unit_id: str
    mailbox: Mailbox
    direction: int
    asked: Message
    idempotency_key: str
    digest: bytes
    """Of the whole request; tells a repeat from another message under the same key."""
    before: Course
    """As it was handed in."""
    course: Course
    """As it is kept, unless it has to wait for its attachments."""
    thread: UUID
    in_reply_to: UUID | None
    now: datetime
    sought: types_pb2.NationalIdentifier | None = None
    """Whose mailbox is to be looked for on other nodes."""


@dataclass(frozen=True)
class Kept:
    """A message that was just kept, as it would be read."""

    row: Mapping[str, Any]
    course: Course
    attachments: list[Row]


class Sending:
    """Keeps new messages."""

    def __init__(self, *, database: Database, outbox: Outbox, vault: Vault, nodes: Sequence[str] = ()) -> None:
        """`nodes` are the subsystems that are asked where a mailbox is sought: `subsystems/{subsystem}`."""
        self._database = database
        self._outbox = outbox
        self._vault = vault
        self._nodes = nodes
        self._keeping = Gathering(self._keep_all)

    async def keep(self, new: NewMessage) -> Kept | None:
        """Keeps a message with its delivery, attachments and events. None: its idempotency key is used by now.

        Where there are no attachments and no mailbox is sought, it shares one
        statement with what others keep at the same time. Raises
        FailedPrecondition: ATTACHMENT_NOT_READY, ATTACHMENT_INFECTED,
        ATTACHMENT_SCAN_FAILED.
        """
        attachments: list[Row] = []
        if not (uses := _uses(new.asked)) and new.sought is None:
            rows = self._rows(new)
            kept = await self._keeping.ask(rows)
        else:
            async with self._database.transaction() as transaction:
                inbound = new.direction == Message.DIRECTION_INBOUND
                waits = await _waits(transaction, uses, inbound=inbound)
                new = replace(new, course=course.waiting(new.before)) if waits else new
                rows = self._rows(new)
                kept = bool(await message_store.send(transaction, [rows]))
                if kept:
                    await attachment_store.attach(transaction, message_id=new.message_id, attachments=uses)
                    attachments = await attachment_store.attachments_of(transaction, [new.message_id])
                    if new.sought is not None:
                        await self._seek(transaction, new, new.sought)
        if not kept:
            return None
        self._outbox.wake()
        return Kept(rows.message, new.course, attachments)

    async def _keep_all(self, new: Sequence[NewRows]) -> list[bool]:
        kept = await message_store.send(self._database, new)
        return [rows.message["message_id"] in kept for rows in new]

    async def _seek(self, transaction: Connection, new: NewMessage, sought: types_pb2.NationalIdentifier) -> None:
        sealed = self._sealer(new).seal(sought.SerializeToString(), context=f"messages/{new.message_id}/recipient")
        await abroad_store.insert_outgoing(transaction, new.message_id, asked=self._nodes, recipient=sealed)

    def _sealer(self, new: NewMessage) -> Sealer:
        return self._vault.sealer(new.mailbox.data_key, owner=f"mailboxes/{new.mailbox.mailbox_id}")

    def _rows(self, new: NewMessage) -> NewRows:
        return NewRows(self._row(new), new.course.deliveries, _events(new), trace=self._outbox.trace())

    def _row(self, new: NewMessage) -> dict[str, Any]:
        caller, asked, kept = identity.caller(), new.asked, new.course
        return {
            "message_id": new.message_id,
            "unit_id": new.unit_id,
            "mailbox_id": new.mailbox.mailbox_id,
            "direction": new.direction,
            "kind": kept.kind,
            "state": kept.state,
            "idempotency_key": new.idempotency_key,
            "content_digest": new.digest,
            "content": self._sealer(new).seal(views.content(asked), context=f"messages/{new.message_id}"),
            "correlation_id": asked.correlation_id,
            "case_id": asked.case_reference.case_id,
            "thread": new.thread,
            "in_reply_to": new.in_reply_to,
            "answered_unit": new.unit_id,
            "sender_party": caller.party,
            "sender_client": caller.client,
            "sender_actor": names.actor().SerializeToString() if caller.actor else None,
            "recipient_only": asked.visibility == Message.VISIBILITY_RECIPIENT_ONLY,
            "purge_time": None,
            "create_time": new.now,
            "release_time": kept.release_time,
            "publish_time": kept.publish_time,
            "due_time": kept.due_time,
            "due_passed": kept.due_passed,
            "withdraw_time": None,
            "withdrawal": None,
            "rejection": None,
            "legal_profile": kept.profile.name,
            "legal_state": kept.effect.state,
            "legal_time": kept.effect.time,
            "legal_basis": kept.effect.basis,
            "wake_time": wake_time(kept),
            "paper_trigger": kept.paper.trigger if kept.paper.any else None,
            "paper_unread_after": kept.paper.unread_after,
            "paper_working_hours": kept.paper.working_hours if kept.paper.any else None,
        }


def _events(new: NewMessage) -> list[Event]:
    inbound = new.direction == Message.DIRECTION_INBOUND
    about = events_pb2.MessageReference(
        message=f"units/{new.unit_id}/messages/{new.message_id}",
        idempotency_key="" if inbound else new.idempotency_key,
        correlation_id=new.asked.correlation_id,
    )
    if inbound:
        return [outbox.event(events_pb2.InboundReceived(reference=about, author=names.actor()), now=new.now)]
    accepted = outbox.event(events_pb2.MessageAccepted(reference=about), now=new.now)
    return [accepted, *courses.events(about, new.before, new.course, now=new.now)]


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
