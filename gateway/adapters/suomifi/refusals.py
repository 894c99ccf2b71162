"""Refusals in the form of the Suomi.fi Messages REST API.

    {"reason": "FIELD_INVALID", "validationErrors": [{"error": "electronic.title is missing"}]}
    {"reason": "IDEMPOTENCY_KEY_REUSED", "messageId": 71}

`reason` is that of the contracts, and `validationErrors` name fields as the
caller knows them. The header `traceid` is the id by which the edge's access log
finds the call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from services.runtime.errors import Fault

_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}

_UNSUPPORTED_TYPE = "ATTACHMENT_TYPE_REFUSED"

_NAMES = (
    ("parent", "sender.serviceId"),
    ("idempotency_key", "externalId"),
    ("identifiers", "endUsers"),
    ("attachment.file_name", "file"),
    ("message.recipient.postal_address", "paperMail.recipient.address"),
    ("message.recipient", "recipient.id"),
    ("message.bodies[0].text", "electronic.body"),
    ("message.title", "electronic.title"),
    ("message.attachments", "electronic.attachments"),
    ("message.notification", "electronic.notifications"),
    ("message.in_reply_to", "electronic.inReplyToMessageId"),
    ("message.paper.address", "paperMail.recipient.address"),
    ("message.paper.return_address", "paperMail.sender.address"),
    ("message.paper", "paperMail"),
)
"""Where fields of the contract come from; the first that fits counts."""


class RefusedError(Exception):
    """A refusal: HTTP status, reason, and what there is to say beside it."""

    def __init__(
        self,
        status: int,
        reason: str,
        *,
        faults: Sequence[str] = (),
        message_id: int = 0,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.document: dict[str, Any] = {"reason": reason}
        if faults:
            self.document["validationErrors"] = [{"error": fault} for fault in faults]
        if message_id:
            self.document["messageId"] = message_id
        self.headers = {} if retry_after is None else {"Retry-After": str(math.ceil(retry_after))}


def of(fault: Fault) -> RefusedError:
    """The refusal that a fault of a service is."""
    status = 415 if fault.reason == _UNSUPPORTED_TYPE else _STATUS.get(fault.code, 500)
    faults = [f"{_theirs(field)}: {description}" for field, description in fault.violations]
    return RefusedError(
        status, fault.reason, faults=faults or ([fault.message] if status == 400 else []), retry_after=fault.retry_after
    )


def _theirs(field: str) -> str:
    for ours, theirs in _NAMES:
        if field.startswith(ours):
            return theirs
    return field
