"""Patterns of specifiers, as RE2 reads them: matched in a time that grows with the text alone, whatever they say. Pure.

Python's own `re` tries ways one after another, so that one theme's pattern
could hold up a whole process.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import re2

MAX_BYTES = 1 << 20
"""Memory of one compiled pattern. RE2 refuses a pattern that needs more, and a match that would need more fails."""

KEPT = 1024
"""Compiled patterns kept in memory: some 10 kB each, one for each theme in use."""


@lru_cache(maxsize=KEPT)
def compiled(pattern: str) -> Any:
    """The pattern, with RE2's `fullmatch`. Raises ValueError where RE2 does not take it."""
    options = re2.Options()
    options.max_mem = MAX_BYTES
    options.log_errors = False
    try:
        return re2.compile(pattern, options)  # type: ignore[no-untyped-call]
    except re2.error:
        raise ValueError("not a regular expression of RE2") from None


def matches(pattern: str, text: str) -> bool:
    """Whether the whole text is of the pattern; never of one that RE2 does not take."""
    try:
        return compiled(pattern).fullmatch(text) is not None
    except ValueError:
        return False
