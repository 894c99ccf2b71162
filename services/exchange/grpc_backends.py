"""Calls to the backends of gRPC services: any method of theirs, unary or streaming, over HTTP/2.

A backend is given what the statement proves: its messages, its metadata, the
time that is left. Its metadata, messages, status and trailers are the answer;
a status other than OK is an answer like any other, and so is the one that its
connection breaks with. A backend may answer before it has had all of the
request; what still comes is then read, for its proof, and not passed on.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from services.exchange import grpc_messages, heads, keys
from services.exchange.backends import CONNECT_TIMEOUT, TIMEOUT, Answer, Target, stream_idle
from services.exchange.configuration import Service
from services.exchange.heads import Header, RequestHead, ResponseHead
from services.exchange.policies import Policy
from services.runtime.errors import DeadlineExceeded, Unavailable
from services.runtime.server import FLAT, MAX_HEADER_BYTES, MAX_MESSAGE_BYTES
from services.runtime.streams import NotWantedError, Stream

OPTIONS = [
    *FLAT,
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", MAX_HEADER_BYTES),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]


_PATH = re.compile(rb"(?:/[A-Za-z0-9_.~-]+){2,}")
"""Service and method. Nothing in it can be encoded, so that it has one reading."""


class GrpcBackends:
    """The channels of a process. `identity` gives the node's own key and certificate (PEM), if it has any."""

    def __init__(self, *, identity: Callable[[], tuple[bytes, bytes] | None]) -> None:
        self._identity = identity
        self._channels: dict[tuple[object, ...], grpc.aio.Channel] = {}

    @asynccontextmanager
    async def call(
        self,
        service: Service,
        head: RequestHead,
        body: AsyncIterator[bytes] | bytes,
        length: int | None,  # noqa: ARG002  # as with HTTP; messages say their own
        policy: Policy,
    ) -> AsyncIterator[Answer]:
        """Makes one call; the answer's chunks are read in the block.

        Raises Unavailable (BACKEND_UNAVAILABLE), DeadlineExceeded
        (BACKEND_TIMEOUT, STREAM_IDLE), InvalidArgument (HEAD_INVALID,
        FRAMES_INVALID), and what the body raises.
        """
        if head.method != "POST" or not _PATH.fullmatch(head.target):
            raise heads.invalid()
        backend = service.content.backend
        timeout = backend.timeout.ToTimedelta().total_seconds() if backend.HasField("timeout") else TIMEOUT
        channel = self._channel(Target.of(backend.SerializeToString(deterministic=True)))
        metadata = grpc_messages.metadata(head.headers)
        await _connected(channel)
        begin: Any = channel.stream_stream(head.target.decode("ascii"))
        call = Stream(begin(metadata=metadata, timeout=grpc_messages.timeout_of(head.headers)))
        sending: asyncio.Task[None] | None = None
        try:
            sending = asyncio.create_task(_send(call, body))
            began = await _began(call, sending, timeout)
            headers = (grpc_messages.CONTENT_TYPE, *grpc_messages.headers(began))
            trailers: list[Header] = []
            chunks = _chunks(call, sending, policy.idle_timeout, trailers)
            yield Answer(ResponseHead(200, "", headers), None, chunks, trailers, sending)
        finally:
            call.cancel()
            if sending is not None:
                sending.cancel()

    async def close(self) -> None:
        """Closes the channels."""
        for channel in self._channels.values():
            await channel.close()

    def _channel(self, target: Target) -> grpc.aio.Channel:
        identity = self._identity() if target.client_certificate else None
        made_of = (target, identity)
        channel = self._channels.get(made_of)
        if channel is None:
            address = f"{target.host if ':' not in target.host else f'[{target.host}]'}:{target.port}"
            if target.secure:
                roots = b"".join(keys.pem(one) for one in target.authorities) or None
                credentials = grpc.ssl_channel_credentials(roots, *(identity or (None, None)))
                channel = grpc.aio.secure_channel(address, credentials, options=OPTIONS)
            else:
                channel = grpc.aio.insecure_channel(address, options=OPTIONS)
            self._channels[made_of] = channel
        return channel


async def _connected(channel: grpc.aio.Channel) -> None:
    """Waits until the backend has taken the connection. Raises Unavailable, BACKEND_UNAVAILABLE."""
    state = grpc.ChannelConnectivity.IDLE
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CONNECT_TIMEOUT):
            while (state := channel.get_state(try_to_connect=True)) not in _DECIDED:
                await channel.wait_for_state_change(state)
    if state is not grpc.ChannelConnectivity.READY:
        raise Unavailable("BACKEND_UNAVAILABLE", "the backend cannot be reached, or its TLS does not hold")


_DECIDED = {grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE}


async def _send(call: Stream, body: AsyncIterator[bytes] | bytes) -> None:
    """Passes the messages on for as long as the backend takes them, and reads the rest."""
    messages = grpc_messages.messages(_pieces(body) if isinstance(body, bytes) else body)
    try:
        async for message in messages:
            await call.write(message)
        await call.done_writing()
    except NotWantedError:
        async for _ in messages:
            pass


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _began(call: Stream, sending: asyncio.Task[None], timeout: float) -> Any:
    """The metadata with which the answer begins, within a time from the request's end. Raises what sending does."""
    began = asyncio.ensure_future(call.began())
    try:
        await asyncio.wait({began, sending}, return_when=asyncio.FIRST_COMPLETED)
        if not began.done():
            sending.result()
        async with asyncio.timeout(timeout):
            return await began
    except TimeoutError:
        raise DeadlineExceeded("BACKEND_TIMEOUT", "the backend did not begin to answer in time") from None
    finally:
        began.cancel()


async def _chunks(
    call: Stream, sending: asyncio.Task[None], idle: float, trailers: list[Header]
) -> AsyncIterator[bytes]:
    answers = call.answers()
    with contextlib.suppress(grpc.aio.AioRpcError):  # the status is in the trailers
        while (message := await _next(answers, sending, idle)) is not None:
            yield grpc_messages.framed(message)
    status = await call.status()
    trailers.extend(grpc_messages.status_trailers(status.code.value[0], status.details))
    trailers.extend(grpc_messages.headers(status.trailers))


async def _next(answers: AsyncIterator[bytes], sending: asyncio.Task[None], idle: float) -> bytes | None:
    """The next message. Raises STREAM_IDLE, and at once what makes the request one that may not be completed."""
    reading = asyncio.ensure_future(_following(answers))
    try:
        if not sending.done():
            await asyncio.wait({reading, sending}, timeout=idle, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            sending.result()
            await asyncio.wait({reading}, timeout=idle)
        if not reading.done():
            raise stream_idle("backend")
        return reading.result()
    finally:
        reading.cancel()


async def _following(answers: AsyncIterator[bytes]) -> bytes | None:
    return await anext(answers, None)
