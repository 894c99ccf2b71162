"""Page tokens and cursors: opaque to callers, checked on return.

A token holds the key of the last row given and a digest of the question it
belongs to, so that it goes on from the right place or is refused; it holds
nothing that the caller has not seen.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json

from services.runtime.errors import InvalidArgument

DEFAULT_SIZE = 50
"""Entries on a page where the caller does not say."""


def size(asked: int, default: int = DEFAULT_SIZE) -> int:
    """How many entries a page has. The contract bounds what can be asked."""
    return asked or default


def token(key: str, *, question: str) -> str:
    """The token that goes on after `key` in the answer to `question`."""
    payload = json.dumps([key, _digest(question)], separators=(",", ":"))
    return base64.urlsafe_b64encode(payload.encode()).decode("ascii").rstrip("=")


def key(given: str, *, question: str) -> str:
    """The key inside a token; "" for no token. Raises InvalidArgument, NAME_INVALID."""
    if not given:
        return ""
    try:
        padded = given + "=" * (-len(given) % 4)
        found, digest = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, TypeError, binascii.Error):
        raise _refused() from None
    if not isinstance(found, str) or digest != _digest(question):
        raise _refused()
    return found


def _digest(question: str) -> str:
    return hashlib.sha256(question.encode()).hexdigest()[:16]


def _refused() -> InvalidArgument:
    return InvalidArgument("NAME_INVALID", "the page token is not one of this list", field="page_token")
