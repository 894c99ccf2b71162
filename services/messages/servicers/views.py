"""Rows as the contract's messages: what the sender sees, and what the recipient sees."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from google.rpc import status_pb2
from solmu.messages.v1 import attachments_pb2, inbox_pb2, messages_pb2
from solmu.types.v1 import types_pb2

from services.messages import deliveries, digests
from services.messages.course import Course
from services.messages.servicers import courses, names, units
from services.runtime import status
from services.runtime.database import Row
from services.runtime.errors import FailedPrecondition
from services.runtime.sealing import Sealer, Vault

Message = messages_pb2.Message
Values = Row | Mapping[str, Any]

CONTENT = (
    "title",
    "bodies",
    "visibility",
    "case_reference",
    "metadata",
    "actions",
    "reply_policy",
    "template",
    "notification",
    "paper",
)
"""What of a message is sealed under the mailbox's key."""


def said(message: Message) -> Message:
    """The part of a message that is sealed."""
    return _part(message, CONTENT)


def _part(message: Message, fields: Collection[str]) -> Message:
    part = Message()
    part.CopyFrom(message)
    for field, _ in message.ListFields():
        if field.name not in fields:
            part.ClearField(field.name)  # type: ignore[arg-type]
    return part


MADE = (
    "name",
    "direction",
    "thread",
    "state",
    "deliveries",
    "legal_effect",
    "rejection",
    "sender",
    "create_time",
    "release_time",
    "withdraw_time",
    "idempotency_key",
)
"""What of a message is the node's own, but for what it says of the sender's words: the fields that are output only."""


def made(message: Message) -> Message:
    """What of a message is the node's own."""
    return _part(message, MADE)


def opened(row: Row, *, vault: Vault) -> bytes:
    """The sealed part of a message; nothing where the mailbox has been erased."""
    if row["data_key"] is None:
        return b""
    sealer = vault.sealer(row["data_key"], owner=f"mailboxes/{row['mailbox_id']}")
    return sealer.open(row["content"], context=f"messages/{row['message_id']}")


def message(row: Values, course: Course, attachments: Sequence[Row], *, content: bytes, vault: Vault) -> Message:
    """A message as the unit at its one end sees it. `content` is its sealed part, opened."""
    result = Message.FromString(content)
    inbound = row["direction"] == Message.DIRECTION_INBOUND
    result.MergeFrom(
        Message(
            name=f"units/{row['unit_id']}/messages/{row['message_id']}",
            direction=row["direction"],
            recipient=messages_pb2.Recipient(mailbox=f"mailboxes/{row['mailbox_id']}"),
            kind=row["kind"],
            attachments=[attached(attachment, vault=vault) for attachment in attachments],
            in_reply_to=f"units/{row['answered_unit']}/messages/{row['in_reply_to']}" if row["in_reply_to"] else "",
            thread=f"threads/{row['thread']}",
            publish_time=names.timestamp(row["publish_time"]),
            due_time=names.timestamp(row["due_time"]),
            correlation_id=row["correlation_id"],
            idempotency_key="" if inbound else row["idempotency_key"],
            state=int(course.state),  # type: ignore[arg-type]  # numbers as in the contract
            deliveries=[courses.delivery(way) for way in course.deliveries],
            legal_effect=courses.legal_effect(course),
            sender=sender(row),
            create_time=names.timestamp(row["create_time"]),
            release_time=names.timestamp(course.release_time),
            withdraw_time=names.timestamp(course.withdraw_time),
        )
    )
    if course.rejection is not None:
        result.rejection.CopyFrom(_rejection(course.rejection))
    return result


def inbox_message(
    row: Row, course: Course, attachments: Sequence[Row], *, sealer: Sealer, vault: Vault, whole: bool
) -> inbox_pb2.InboxMessage:
    """A message as the owner of its mailbox sees it; in lists without what makes it opened."""
    sealed = Message.FromString(sealer.open(row["content"], context=f"messages/{row['message_id']}"))
    mailbox, way = f"mailboxes/{row['mailbox_id']}", course.electronic
    taken_back = way is not None and way.state is deliveries.State.WITHDRAWN
    result = inbox_pb2.InboxMessage(
        name=f"{mailbox}/messages/{row['message_id']}",
        unit=f"units/{row['unit_id']}",
        unit_display_names=units.display_names(row["display_names"]).display_names,
        direction=row["direction"],
        kind=row["kind"],
        title="" if taken_back else sealed.title,
        delivery_state=int(way.state) if way else 0,  # type: ignore[arg-type]  # numbers as in the contract
        locked=way is not None and deliveries.locked(way, verifiable=course.verifiable),
        reply_policy=sealed.reply_policy if sealed.HasField("reply_policy") else None,
        in_reply_to=f"{mailbox}/messages/{row['in_reply_to']}" if row["in_reply_to"] else "",
        thread=f"threads/{row['thread']}",
        due_time=names.timestamp(row["due_time"]),
        available_time=names.timestamp(course.release_time),
        open_time=names.timestamp(way.open_time) if way else None,
        legal_effect=courses.legal_effect(course),
        withdraw_time=names.timestamp(course.withdraw_time),
        purge_time=names.timestamp(row["purge_time"]),
    )
    if row["withdrawal"] is not None:
        context = f"messages/{row['message_id']}/withdrawal"
        explained = messages_pb2.WithdrawMessageRequest.FromString(sealer.open(row["withdrawal"], context=context))
        result.withdraw_explanations.extend(explained.explanations)
    if row["direction"] == Message.DIRECTION_INBOUND:
        result.author.CopyFrom(sender(row))
        if course.rejection is not None:
            result.rejection.CopyFrom(_rejection(course.rejection))
    if whole:
        result.bodies.extend(sealed.bodies)
        result.actions.extend(sealed.actions)
        result.attachments.extend(attached(attachment, vault=vault) for attachment in attachments)
    return result


def _rejection(reason: str) -> status_pb2.Status:
    refusal = FailedPrecondition(reason, "the message was refused after it had been accepted")
    return status.to_status(refusal, service="messages")


def sender(row: Values) -> types_pb2.Actor:
    """Who sent a message, for whom, under which mandate."""
    if row["sender_actor"] is not None:
        return types_pb2.Actor.FromString(row["sender_actor"])
    return types_pb2.Actor(party=row["sender_party"], client=row["sender_client"])


def attached(row: Row, *, vault: Vault) -> messages_pb2.MessageAttachment:
    """How a message carries an attachment."""
    return messages_pb2.MessageAttachment(
        attachment=f"attachments/{row['attachment_id']}",
        role=row["role"],
        excluded_from_paper=row["off_paper"],
        language=row["language"],
        file_name=file_name(row, vault=vault),
        media_type=row["media_type"],
        size_bytes=row["size_bytes"],
        sha256=digests.opened(row, vault=vault),
    )


def attachment(row: Row, *, vault: Vault, received: int) -> attachments_pb2.Attachment:
    """An attachment as the party that made it sees it."""
    return attachments_pb2.Attachment(
        name=f"attachments/{row['attachment_id']}",
        file_name=file_name(row, vault=vault),
        media_type=row["media_type"],
        size_bytes=row["size_bytes"],
        sha256=digests.opened(row, vault=vault),
        state=row["state"],
        received_bytes=received,
        create_time=names.timestamp(row["create_time"]),
        expire_time=names.timestamp(row["expire_time"]),
    )


def blob_sealer(row: Row, *, vault: Vault) -> Sealer:
    """What seals the content of an attachment, which lies under its `blob_id`."""
    return vault.sealer(row["blob_key"], owner=f"attachments/{row['blob_id']}")


def file_name(row: Row, *, vault: Vault) -> str:
    """An attachment's file name; nothing where it has been erased."""
    if row["data_key"] is None:
        return ""
    sealer = vault.sealer(row["data_key"], owner=f"attachments/{row['attachment_id']}")
    return sealer.open(row["file_name"], context=f"attachments/{row['attachment_id']}/name").decode()
