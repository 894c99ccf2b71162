"""Calls from one service of the node to another, over mTLS.

A channel follows the process's certificate: when the files change, new calls
go over a new channel and the old one closes once its calls have ended.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import grpc

from services.runtime import status, tls
from services.runtime.config import Address, Instances
from services.runtime.telemetry import Telemetry

Stub = TypeVar("Stub")

OLD_CHANNEL_GRACE = 30.0
"""Seconds that calls on a replaced channel have to end."""

LOOK_INTERVAL = 1.0
"""Seconds between two looks at the certificate's files."""

RETRIES = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 3,
                    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
                },
            }
        ]
    }
)
"""A peer that restarts is tried again (one that stops answers CANCELLED to what it does not look at any more); every
method between services may be called twice."""


class Peer:
    """Another service of the node, by name and address."""

    def __init__(self, *, name: str, address: Address | Instances, files: tls.Files, telemetry: Telemetry) -> None:
        self._name = name
        self._address = address
        self._files = files
        self._telemetry = telemetry
        self._stamp = files.stamp()
        self._looked = time.monotonic()
        self._channel = self._open()
        self._closing: set[asyncio.Task[None]] = set()

    def stub(self, kind: Callable[[grpc.aio.Channel], Stub]) -> Stub:
        """A stub on the current channel; ask for one per call."""
        now = time.monotonic()
        if now - self._looked >= LOOK_INTERVAL:
            self._looked = now
            self._follow_files()
        return kind(self._channel)

    def metadata(self) -> list[tuple[str, str]]:
        """What a call carries along: the trace it belongs to."""
        return list(self._telemetry.outgoing().items())

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Turns the errors of calls in the block into Faults."""
        try:
            yield
        except grpc.RpcError as error:
            raise status.fault_of(error) from None

    async def close(self) -> None:
        """Closes the channel."""
        await self._channel.close()

    def _open(self) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(
            str(self._address),
            tls.channel_credentials(self._files),
            options=[
                ("grpc.ssl_target_name_override", self._name),
                ("grpc.service_config", RETRIES),
                ("grpc.keepalive_time_ms", 10_000),
                ("grpc.keepalive_timeout_ms", 5_000),
            ],
        )

    def _follow_files(self) -> None:
        try:
            stamp = self._files.stamp()
            if stamp == self._stamp:
                return
            tls.check(self._files)
        except (OSError, ValueError):
            return  # half a rotation: keep what works, look again soon
        self._stamp = stamp
        old, self._channel = self._channel, self._open()
        task = asyncio.create_task(old.close(OLD_CHANNEL_GRACE))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
