"""Identifiers of the mesh, spelt as statements spell them (identifiers.proto).

Parts are percent-encoded and joined by "/". There is one spelling of a part
only; what can be spelt in two ways could be judged as one and signed as the
other.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from urllib.parse import quote, unquote_to_bytes

from services.runtime.errors import InvalidArgument

MAX_PART = 255
"""Characters of a part before it is encoded, as in X-Road."""

_PLAIN = "'()+,-.=_"
"""Besides letters and digits, what is not encoded. `quote` also leaves "~" alone, which is put right after it."""

PART = r"(?:[A-Za-z0-9'()+,\-.=_]++|%[0-9A-F]{2})+"
"""A part as a regular expression; `decode` says whether it is the one spelling."""

_DOTS = frozenset({".", ".."})
_PART = re.compile(PART)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@functools.lru_cache(maxsize=10_000)
def encode(part: str) -> str:
    """One part, percent-encoded. Raises InvalidArgument, NAME_INVALID, where it cannot be a part."""
    if not 0 < len(part) <= MAX_PART or part in _DOTS or _CONTROL.search(part):
        raise _invalid()
    try:
        return quote(part, safe=_PLAIN, errors="strict").replace("~", "%7E")
    except UnicodeEncodeError:
        raise _invalid() from None


def decode(text: str) -> str:
    """The part behind a spelling. Raises InvalidArgument, NAME_INVALID, for any but the one spelling."""
    if not _PART.fullmatch(text):
        raise _invalid()
    try:
        part = unquote_to_bytes(text).decode("utf-8")
    except UnicodeDecodeError:
        raise _invalid() from None
    if encode(part) != text:
        raise _invalid()
    return part


def check(identifier: str) -> None:
    """Refuses an identifier of which a part is not in its one spelling. Raises InvalidArgument, NAME_INVALID.

    For what matches `PART` between its "/" already: where nothing is encoded,
    only a part that is too long or is "." or ".." is left to be refused.
    """
    for part in identifier.split("/"):
        if "%" in part or len(part) > MAX_PART or part in _DOTS:
            decode(part)


def join(parts: Iterable[str]) -> str:
    """The identifier of these parts, joined by "/". Raises InvalidArgument, NAME_INVALID."""
    return "/".join(encode(part) for part in parts)


def split(identifier: str, *counts: int) -> tuple[str, ...]:
    """The parts of an identifier that has one of these counts of them. Raises InvalidArgument, NAME_INVALID."""
    parts = tuple(decode(part) for part in identifier.split("/"))
    if len(parts) not in counts:
        raise _invalid()
    return parts


def _invalid() -> InvalidArgument:
    return InvalidArgument("NAME_INVALID", "the identifier is not spelt as identifiers.proto says")
