"""How many calls a client may make: a token bucket for each, in memory.

Each process counts for itself, so that a call pays no look-up and a limit holds
while the database is slow: a service with several processes lets through so
many times more. A call costs one, a stream one however long it is, since HTTP/2
slows its sender down.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from services.runtime.errors import ResourceExhausted

MAX_CLIENTS = 10_000
"""Buckets that are kept; beyond it, full ones are forgotten: a client that has been idle has a full one anyway."""

TOLD_BELOW = 0.5
"""Share of the allowance below which a client is told what is left: above it nobody has to slow down."""


@dataclass
class _Bucket:
    tokens: float
    time: float


class Allowances:
    """Buckets of `burst` calls that fill up by `rate` calls per second."""

    def __init__(self, *, rate: int, burst: int, clock: Callable[[], float] = monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def take(self, client_id: str) -> int:
        """Takes one call from a client's allowance; returns what is left.

        Raises ResourceExhausted, RATE_LIMITED, with the time until there is
        one again. A call that is refused costs nothing.
        """
        now = self._clock()
        bucket = self._buckets.get(client_id)
        if bucket is None:
            self._forget_full(now)
            bucket = self._buckets[client_id] = _Bucket(self._burst, now)
        bucket.tokens = self._filled(bucket, now)
        bucket.time = now
        if bucket.tokens < 1:
            raise ResourceExhausted(
                "RATE_LIMITED",
                f"more calls than the {self._rate} per second that a client is allowed",
                retry_after=(1 - bucket.tokens) / self._rate,
            )
        bucket.tokens -= 1
        return int(bucket.tokens)

    def headers(self, left: int) -> tuple[tuple[str, str], ...]:
        """What a client is told with an answer: nothing while there is plenty."""
        if left >= self._burst * TOLD_BELOW:
            return ()
        return (
            ("ratelimit-limit", str(self._burst)),
            ("ratelimit-remaining", str(left)),
            ("ratelimit-reset", str(math.ceil((self._burst - left) / self._rate))),
        )

    def _filled(self, bucket: _Bucket, now: float) -> float:
        return min(self._burst, bucket.tokens + max(0.0, now - bucket.time) * self._rate)

    def _forget_full(self, now: float) -> None:
        if len(self._buckets) >= MAX_CLIENTS:
            self._buckets = {
                client_id: bucket
                for client_id, bucket in self._buckets.items()
                if self._filled(bucket, now) < self._burst
            }
