"""Ids of attachments in the Suomi.fi Messages REST API.

`GET /v1/attachments/{id}` is a path of that interface and of the node's own,
with another answer in each. So an attachment has another id in each: they
differ in the digit that is the version of a UUID, which is 7 for all that the
node makes and 8, free for use as one likes (RFC 9562, section 5.8), for all
that goes out through this adapter.
"""

from __future__ import annotations

import re

PATTERN = "[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"
"""An id that goes out, as a regular expression (RE2)."""

_VERSION_AT = 14
_OURS, _THEIRS = "7", "8"


def outward(name: str) -> str:
    """The id under which an attachment of this name goes out."""
    return _with_version(name.removeprefix("attachments/"), _THEIRS)


def inward(given: str) -> str:
    """The name of the attachment with an id that went out; for any other text, a name that nothing has."""
    return "attachments/" + (_with_version(given, _OURS) if re.fullmatch(PATTERN, given) else given)


def _with_version(text: str, version: str) -> str:
    return text[:_VERSION_AT] + version + text[_VERSION_AT + 1 :]
