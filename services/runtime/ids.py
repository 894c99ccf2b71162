"""Identifiers that sort by the time they were made (UUID version 7, RFC 9562)."""

from __future__ import annotations

import os
import time
import uuid

from asyncpg.pgproto.pgproto import UUID  # a uuid.UUID that is quick to make and to write

_last = 0


def new_id() -> uuid.UUID:
    """A UUIDv7: milliseconds since 1970, then 74 random bits. New rows land at the end of an index.

    Within a process each is greater than the one before, also in the same
    millisecond or where the clock goes back: then it is the next number
    (RFC 9562, section 6.2, method 2).
    """
    return new_ids(1)[0]


def id_of(written: str) -> uuid.UUID:
    """The identifier that is written so. Raises ValueError."""
    return UUID(written)


def new_ids(count: int) -> list[uuid.UUID]:
    """So many, each the next number after the one before: for what belongs together."""
    global _last  # noqa: PLW0603  # the one before
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds << 80) | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | (0x7 << 76)
    value = value & ~(0x3 << 62) | (0x2 << 62)
    first = max(value, _last + 1)
    _last = first + count - 1
    return [UUID(number.to_bytes(16, "big")) for number in range(first, first + count)]


def parsed(text: str) -> uuid.UUID:
    """The UUID that is written as 32 hexadecimal digits, with hyphens or without. Raises ValueError."""
    return UUID(text)
