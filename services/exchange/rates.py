"""How many calls a second a consumer may make of a service: a token bucket for each, in the memory of a process."""

from __future__ import annotations

import time

from services.runtime.errors import ResourceExhausted

MOST = 10_000
"""Buckets that are kept; beyond it they begin anew, full."""


class Rates:
    """Buckets that hold one second's calls and fill up by as many a second."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, key: str, *, rate: int) -> None:
        """Takes one call. Raises ResourceExhausted, RATE_LIMITED, with the time until there is one again."""
        now = time.monotonic()
        left, then = self._buckets.get(key, (float(rate), now))
        left = min(float(rate), left + (now - then) * rate)
        if left < 1:
            raise ResourceExhausted(
                "RATE_LIMITED", f"more calls than the {rate} per second that are allowed", retry_after=(1 - left) / rate
            )
        if len(self._buckets) >= MOST:
            self._buckets.clear()
        self._buckets[key] = left - 1, now
