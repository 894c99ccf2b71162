"""Requests and answers as people see them, for the usual jobs. A test holds each against the contract and its rules."""

from __future__ import annotations

from typing import Any

_UNIT = "units/permits"
_MESSAGE = f"{_UNIT}/messages/0b7ff0a4-3a43-4c3e-9a0c-6f1d5a2c9d11"
_ATTACHMENT = "attachments/5b1c1f6e-0d8a-4a39-8f0e-3b9a7d1c2e55"
_MAILBOX = "mailboxes/8d5f2c1e-7a4b-4e0f-9c3d-2b6a1f0e9d77"
_DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

_CLIENT: dict[str, Any] = {
    "displayName": "Case system of the permits office",
    "owner": {"scheme": "SCHEME_FI_YTUNNUS", "value": "9999999-2"},
    "scopes": ["attachments.write", "messages.read", "messages.send"],
}

EXAMPLES: dict[str, dict[str, Any]] = {
    "authorisations.CreateClient": {
        "request": _CLIENT,
        "answer": {
            "name": "clients/permits",
            "displayName": _CLIENT["displayName"],
            "party": "organisations/4f7d1c0e-2b9a-4d55-8e3f-6a1c9b0d2e44",
            "scopes": _CLIENT["scopes"],
            "state": "STATE_ACTIVE",
            "createTime": "2026-05-04T08:00:00Z",
        },
    },
    "authorisations.RevokeClient": {"request": {}},
    "messages.CreateUnit": {
        "request": {"displayNames": [{"language": "en", "text": "Permits office"}]},
        "answer": {"name": _UNIT, "displayNames": [{"language": "en", "text": "Permits office"}]},
    },
    "messages.OpenMailbox": {"request": {}, "answer": {"name": _MAILBOX, "state": "STATE_OPEN"}},
    "messages.CreateAttachment": {
        "request": {
            "fileName": "decision.pdf",
            "mediaType": "application/pdf",
            "sizeBytes": "18240",
            "sha256": _DIGEST,
        },
        "answer": {
            "name": _ATTACHMENT,
            "fileName": "decision.pdf",
            "mediaType": "application/pdf",
            "sizeBytes": "18240",
            "sha256": _DIGEST,
            "state": "STATE_RESERVED",
        },
    },
    "messages.SendMessage": {
        "request": {
            "recipient": {"identifier": {"scheme": "SCHEME_FI_HETU", "value": "150390-900B"}},
            "title": "Your building permit",
            "bodies": [{"language": "en", "text": "The decision is attached."}],
            "attachments": [{"attachment": _ATTACHMENT, "role": "ROLE_MAIN"}],
            "correlationId": "case-2026-118",
        },
        "answer": {
            "name": _MESSAGE,
            "direction": "DIRECTION_OUTBOUND",
            "title": "Your building permit",
            "state": "STATE_RELEASED",
            "correlationId": "case-2026-118",
        },
    },
    "messages.ListEvents": {
        "answer": {
            "events": [
                {
                    "id": "1f0c7f7e-8a51-4c52-9d0b-7c2b3e5f6a88",
                    "type": "delivery.opened",
                    "time": "2026-05-04T09:12:44Z",
                    "cursor": "AAAAAAAAAC8",
                    "message": _MESSAGE,
                    "correlationId": "case-2026-118",
                }
            ],
            "nextCursor": "AAAAAAAAAC8",
        }
    },
    "messages.OpenInboxMessage": {"request": {}},
}
