"""Events of the Suomi.fi Messages REST API, made of the feeds of an organisation's units.

That interface has one feed for all services of an organisation, and one token
by which to go on; the node has a feed for each unit, each with a cursor. The
token holds them all.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from typing import Any

from solmu.messages.v1 import feed_pb2

from gateway.adapters.suomifi.refusals import RefusedError

MOST = 1000
"""Events in one answer."""

TYPES = {
    "delivery.available": "Electronic message created",
    "delivery.opened": "Electronic message read",
    "delivery.receipt_confirmed": "Receipt confirmed",
    "inbound.received": "Electronic message from end user",
    "message.rejected": "Message rejected",
    "paper.queued": "Paper mail created",
    "paper.submitted": "Sent for printing and enveloping",
    "paper.receipt_confirmed": "Posti: receipt confirmed",
    "paper.returned": "Posti: returned to sender",
    "paper.unresolved": "Posti: unresolved",
    "paper.failed": "Posti: unresolved",
}
"""What the node's events are called there. "Message rejected" is ours: a message whose attachment turns out to be
infected would be lost without a word otherwise, and clients keep types that they do not know."""

MAX_TOKEN_BYTES = 1 << 20
"""A token unpacked: the cursors of some thousands of units."""


def event(one: feed_pb2.Event, number: int) -> dict[str, Any]:
    """An event as it is told; `number` is that of its message."""
    metadata: dict[str, Any] = {"messageId": number, "serviceId": one.message.split("/")[1]}
    if one.idempotency_key and one.type != "inbound.received":
        metadata["externalId"] = one.idempotency_key
    return {"type": TYPES[one.type], "eventTime": one.time.ToJsonString(), "metadata": metadata}


def token(cursors: Mapping[str, str]) -> str:
    """The token that goes on behind these cursors, which are by unit."""
    packed = zlib.compress(json.dumps(cursors, separators=(",", ":"), sort_keys=True).encode(), 9)
    return base64.urlsafe_b64encode(packed).decode("ascii").rstrip("=")


def cursors(given: str) -> dict[str, str]:
    """The cursors in a token; none in the empty one. Raises RefusedError."""
    if not given:
        return {}
    try:
        packed = base64.b64decode(given + "=" * (-len(given) % 4), altchars=b"-_", validate=True)
        found = json.loads(zlib.decompressobj().decompress(packed, MAX_TOKEN_BYTES))
    except (ValueError, zlib.error):
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise RefusedError(400, "CURSOR_INVALID", faults=["continuationToken is not one that was given out"])
    return found
