"""The connections of a client to its edge, made anew when its certificate is renewed.

A token is bound to the certificate of the connection that it was got on, so
all connections change at once. What runs on the old ones has a while to end.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Any, Self

import aiohttp
import grpc

from gateway.client.profile import Profile
from services.runtime import tls

logger = logging.getLogger(__name__)

LAST_SECONDS = 60.0
"""Time that calls under way have, once the certificate has been renewed, in seconds."""


class Connections:
    """The connections of one profile. `channel` and `http` are always those with the newest certificate."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._stamp = profile.files.stamp()
        self._ending: set[asyncio.Task[None]] = set()
        self.channel = Channel(self._new_channel())
        self.http = self._new_http()

    def renew(self) -> bool:
        """Looks whether the profile's files have changed, and takes new ones that fit together. Returns whether."""
        try:
            stamp = self._profile.files.stamp()
            if stamp == self._stamp:
                return False
            tls.check(self._profile.files)
            channel, http = self._new_channel(), self._new_http()
        except (OSError, ValueError):
            return False  # half a renewal: the old one is good, and the next call looks again
        task = asyncio.create_task(_end(self.channel.now, self.http))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        self.channel.now, self.http, self._stamp = channel, http, stamp
        logger.info("certificate renewed")
        return True

    async def close(self) -> None:
        """Closes all of them, also those that still had a while."""
        for task in self._ending:
            task.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)
        await self.channel.close()
        await self.http.close()

    def _new_channel(self) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(
            self._profile.target,
            tls.channel_credentials(self._profile.files),
            options=[("grpc.use_local_subchannel_pool", 1)],
        )

    def _new_http(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(ssl=_context(self._profile.files))
        return aiohttp.ClientSession(self._profile.edge, connector=connector)


def _context(files: tls.Files) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(files.authorities))
    context.load_cert_chain(str(files.certificate), str(files.key))
    return context


async def _end(channel: grpc.aio.Channel, http: aiohttp.ClientSession) -> None:
    try:
        await asyncio.sleep(LAST_SECONDS)
    finally:
        await channel.close()
        await http.close()


class Channel(grpc.aio.Channel):
    """A channel whose calls go over whatever channel is the one now; stubs of it need not be made anew."""

    def __init__(self, now: grpc.aio.Channel) -> None:
        self.now = now

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Closes the one now."""
        await self.now.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT002  # as grpc has it
        """The state of the one now."""
        return self.now.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Waits for the one now."""
        await self.now.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Waits for the one now."""
        await self.now.channel_ready()

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        """See `grpc.aio.Channel`."""
        return _Method(self, "unary_unary", arguments, options)

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        """See `grpc.aio.Channel`."""
        return _Method(self, "unary_stream", arguments, options)

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        """See `grpc.aio.Channel`."""
        return _Method(self, "stream_unary", arguments, options)

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        """See `grpc.aio.Channel`."""
        return _Method(self, "stream_stream", arguments, options)


class _Method:
    """A method on the channel that is the one when it is called."""

    def __init__(self, channel: Channel, kind: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        self._channel, self._kind, self._arguments, self._options = channel, kind, arguments, options
        self._of: grpc.aio.Channel | None = None

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if self._of is not self._channel.now:
            self._of = self._channel.now
            self._call = getattr(self._of, self._kind)(*self._arguments, **self._options)
        return self._call(*arguments, **options)
