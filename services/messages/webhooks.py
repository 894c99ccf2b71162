"""How events are posted to other systems: addresses, signatures, retries. Pure rules.

A post is a CloudEvent (1.0, JSON, structured mode), signed as Standard Webhooks
1.0.0 has it: HMAC-SHA256 over id, time and body. What the receiver must check:
the signature, that the time is near, and whether it has seen the id before.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from services.runtime.errors import InvalidArgument

MAX_WEBHOOKS = 10
"""Of one unit: one for each of its systems, and some to try out."""

SECRET_BYTES = 32

RETRIES = tuple(
    timedelta(seconds=seconds) for seconds in (5, 30, 120, 600, 1_800, 3_600, 2 * 3_600, 4 * 3_600, 8 * 3_600)
)
"""Until the next try of an event, after each failure; then it is a dead letter, some 16 hours after the first."""

MAX_FAILURES = 10
"""Dead letters in a row after which the address counts as gone: nothing is posted until they are replayed."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def check_address(uri: str, *, private: bool) -> None:
    """Raises InvalidArgument, WEBHOOK_ADDRESS_REFUSED, for what is not a public https address.

    A host's name may still lead to a private address: that is looked at with
    every post, since it can change. `private` lets any address in.
    """
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _refused("is not an address") from None
    if parts.scheme != "https" or not host or port == 0:
        raise _refused("is not an https address")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise _refused("has a user name, a password or a fragment")
    if private:
        return
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        if "." not in host.rstrip(".") or host.rstrip(".").endswith((".localhost", ".local", ".internal")):
            raise _refused("is a name of a private network") from None
        return
    if not public(str(literal)):
        raise _refused("is an address of a private network")


def public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, and hides no other inside of it."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return public(str(found.ipv4_mapped))
        if found.sixtofour is not None or found.teredo is not None or found in _NAT64:
            return False
    return found.is_global and not found.is_multicast


def headers(body: bytes, *, event_id: str, secret: bytes, now: datetime) -> Mapping[str, str]:
    """The headers of a post: its signature, and what it is."""
    time = str(int(now.timestamp()))
    digest = hmac.digest(secret, f"{event_id}.{time}.".encode() + body, hashlib.sha256)
    return {
        "content-type": "application/cloudevents+json; charset=utf-8",
        "webhook-id": event_id,
        "webhook-timestamp": time,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def shown(secret: bytes) -> str:
    """A secret in the form in which Standard Webhooks libraries take it."""
    return f"whsec_{base64.b64encode(secret).decode()}"


def next_try(attempts: int) -> timedelta | None:
    """How long to wait after so many failures; None: no longer."""
    return RETRIES[attempts - 1] if attempts <= len(RETRIES) else None


def suspended(failures: int, *, status: int) -> bool:
    """Whether nothing more is posted to an address: so many dead letters in a row, or it says 410 Gone."""
    return failures >= MAX_FAILURES or status == 410


def _refused(what: str) -> InvalidArgument:
    return InvalidArgument("WEBHOOK_ADDRESS_REFUSED", f"the address {what}", violations=[("webhook.uri", what)])
