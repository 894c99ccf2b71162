"""Consistency tokens: epoch and revision in hexadecimal, so that within an epoch text order is their order."""

from __future__ import annotations

import re

from services.runtime.errors import InvalidArgument

EPOCH_BYTES = 8
_FORM = re.compile(f"[0-9a-f]{{{2 * (EPOCH_BYTES + 8)}}}")


def token(epoch: bytes, revision: int) -> str:
    """The consistency token of a revision."""
    return f"{epoch.hex()}{revision:016x}"


def revision(of: str) -> int:
    """The revision that a token stands for; 0 for none."""
    return int(of[2 * EPOCH_BYTES :] or "0", 16)


def covers(have: str, wanted: str) -> bool:
    """Whether facts of one revision include those of another: any those of none, and none what is no token."""
    epoch = 2 * EPOCH_BYTES
    return not wanted or (have[:epoch] == wanted[:epoch] and have >= wanted and _FORM.fullmatch(wanted) is not None)


def check(given: str, *, head: str) -> None:
    """Whether a token can have been given, where the newest revision is `head`.

    Raises InvalidArgument, CONSISTENCY_TOKEN_UNKNOWN, for one that is
    malformed, of another epoch, or of a revision that does not exist. Tokens
    are given after the commit and the head is read where writes are made, so
    that a revision above it was never given by this node in this life.
    """
    if not covers(head, given):
        raise InvalidArgument("CONSISTENCY_TOKEN_UNKNOWN", "the consistency token is not of this node's facts")
