"""The client for programs without asyncio.

    with SyncClient(Profile.load("clients/permits")) as client:
        message = client.call(client.messages.SendMessage, request)

Everything is done by a `Client` on an event loop that runs while a method of
this class does: nothing happens between calls, and no thread is started. One
such client belongs to one thread, which runs no event loop of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from google.protobuf.message import Message
from solmu.messages.v1 import attachments_pb2, feed_pb2, messages_pb2

from gateway.client.client import Client
from gateway.client.profile import Profile
from gateway.client.transfers import Progress

Response = TypeVar("Response", bound=Message)
Item = TypeVar("Item")


class SyncClient:
    """See `Client`, whose methods these are."""

    def __init__(self, profile: Profile) -> None:
        self._client = Client(profile)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self._runner.run(self._client.__aenter__())
        self.clients = self._client.clients
        self.units = self._client.units
        self.mailboxes = self._client.mailboxes
        self.messages = self._client.messages
        self.attachments = self._client.attachments
        self.inbox = self._client.inbox
        self.letters = self._client.letters
        self.feed = self._client.feed
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._runner.run(self._client.__aexit__(kind, error, traceback))
        finally:
            self._runner.close()

    def call(
        self, method: Callable[..., Awaitable[Response]], request: Message, *, attempts: int | None = None
    ) -> Response:
        """See `Client.call`."""
        return self._runner.run(self._client.call(method, request, attempts=attempts))

    def items(self, method: Callable[..., Awaitable[Any]], request: Message) -> Iterator[Any]:
        """See `Client.items`."""
        return self._each(self._client.items(method, request))

    def follow(self, unit: str, *, cursor: Path | None = None, types: Sequence[str] = ()) -> Iterator[feed_pb2.Event]:
        """See `Client.follow`."""
        return self._each(self._client.follow(unit, cursor=cursor, types=types))

    def send_all(
        self, messages: Iterable[messages_pb2.SendMessageRequest]
    ) -> Iterator[messages_pb2.SendMessagesResponse]:
        """See `Client.send_all`."""
        return self._each(self._client.send_all(messages))

    def upload_file(
        self, file: Path, *, media_type: str = "", file_name: str = "", progress: Progress | None = None
    ) -> attachments_pb2.Attachment:
        """See `Client.upload_file`."""
        return self._runner.run(
            self._client.upload_file(file, media_type=media_type, file_name=file_name, progress=progress)
        )

    def download_file(
        self, name: str, file: Path, *, sha256: str = "", size: int = 0, progress: Progress | None = None
    ) -> None:
        """See `Client.download_file`."""
        self._runner.run(self._client.download_file(name, file, sha256=sha256, size=size, progress=progress))

    def rest(self, verb: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """See `Client.rest`."""
        return self._runner.run(self._client.rest(verb, path, body))

    def _each(self, items: AsyncGenerator[Item]) -> Iterator[Item]:
        try:
            while True:
                try:
                    yield self._runner.run(anext(items))
                except StopAsyncIteration:
                    return
        finally:
            self._runner.run(items.aclose())
