"""What the Suomi.fi Messages REST API answers with, made of what the contract of messages has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from solmu.messages.v1 import messages_pb2

from gateway.adapters.suomifi import ids

Message = messages_pb2.Message


def received(message: Message, *, numbers: Mapping[str, int], root: Message | None) -> dict[str, Any]:
    """A message that a resident wrote to a unit. `root` is the one that its conversation began with, where it is seen.

    The node knows no identity codes and no names. The sender's id is that of
    the mailbox, and is taken as a recipient's in an answer.
    """
    created = message.create_time.ToJsonString()
    electronic: dict[str, Any] = {
        "messageId": numbers[message.name],
        "createdAt": created,
        "title": message.title,
        "body": message.bodies[0].text if message.bodies else "",
        "attachments": [
            {
                "attachmentId": ids.outward(attachment.attachment),
                "filename": attachment.file_name,
                "mediaType": attachment.media_type,
                "sizeBytes": attachment.size_bytes,
            }
            for attachment in message.attachments
        ],
    }
    if root is not None:
        electronic["thread"] = {"rootMessageId": numbers[root.name]}
        if root.direction == Message.DIRECTION_OUTBOUND:
            electronic["thread"]["threadExternalId"] = root.idempotency_key
    sender: dict[str, Any] = {"mailboxOwner": _actor(message.recipient.mailbox.removeprefix("mailboxes/"))}
    if message.sender.acting_party:
        sender["personSendingMessageOnBehalfOfMailboxOwner"] = _actor(message.sender.acting_party)
    return {"messageId": numbers[message.name], "createdAt": created, "electronic": electronic, "sender": sender}


def _actor(known_as: str) -> dict[str, str]:
    return {"id": known_as, "name": ""}
