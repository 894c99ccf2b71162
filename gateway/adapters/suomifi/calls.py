"""Calls of the messages service, in the name of whoever called the adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import hdrs, web
from google.protobuf.message import Message

from gateway.adapters.suomifi.refusals import RefusedError
from services.runtime import xfcc
from services.runtime.client import Peer
from services.runtime.streams import NotWantedError, Stream

CALL_SECONDS = 12.0
"""Time for a call; the edge gives most paths 15."""

TRANSFER_SECONDS = 3600.0
"""Time for an attachment to go up or down, as at the node's own interface."""

_ALLOWANCE = "ratelimit-"
_BEARER = "bearer "


class Calls:
    """Calls with a client's token and certificate: the service judges both, as for whatever comes through the edge.

    `told` are the headers of answers so far that the client should see: what
    is left of its allowance.
    """

    def __init__(self, peer: Peer, request: web.Request) -> None:
        """Raises RefusedError where the request carries no token."""
        token = request.headers.get(hdrs.AUTHORIZATION, "")
        if token[: len(_BEARER)].lower() == _BEARER:
            token = token[len(_BEARER) :]
        if not token.strip():
            raise RefusedError(401, "TOKEN_MISSING")
        self._peer = peer
        self._metadata = [
            *peer.metadata(),
            ("authorization", f"Bearer {token.strip()}"),
            *((xfcc.HEADER.lower(), value) for value in request.headers.getall(xfcc.HEADER, [])),
        ]
        self.told: dict[str, str] = {}

    async def call(self, stub: Callable[..., Any], method: str, request: Message) -> Any:
        """The answer of a unary method. Raises Fault."""
        with self._peer.faults():
            calling = getattr(self._peer.stub(stub), method)(request, metadata=self._metadata, timeout=CALL_SECONDS)
            await self._listen(calling)
            return await calling

    async def send(self, stub: Callable[..., Any], method: str, requests: AsyncIterator[Message]) -> Any:
        """The answer to a stream. Raises Fault, and whatever `requests` raises, which ends the call."""
        with self._peer.faults():
            begin = getattr(self._peer.stub(stub), method)
            stream = Stream(begin(metadata=self._metadata, timeout=TRANSFER_SECONDS))
            try:
                async for request in requests:
                    await stream.write(request)
                await stream.done_writing()
            except NotWantedError:
                pass  # refused meanwhile; the answer says why
            except BaseException:
                stream.cancel()
                raise
            return await stream.answer()

    async def receive(self, stub: Callable[..., Any], method: str, request: Message) -> AsyncIterator[Any]:
        """The answers of a streaming method. Raises Fault."""
        with self._peer.faults():
            calling = getattr(self._peer.stub(stub), method)(request, metadata=self._metadata, timeout=TRANSFER_SECONDS)
            try:
                async for response in calling:
                    yield response
            finally:
                calling.cancel()

    async def _listen(self, calling: Any) -> None:
        for name, value in await calling.initial_metadata() or ():
            if name.startswith(_ALLOWANCE):
                self.told[name] = value
