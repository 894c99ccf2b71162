"""The client: one object that takes a profile and calls the edge, by gRPC and REST."""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
import grpc
from google.protobuf.message import Message
from solmu.authorisations.v1 import clients_pb2_grpc
from solmu.messages.v1 import (
    attachments_pb2,
    attachments_pb2_grpc,
    feed_pb2,
    feed_pb2_grpc,
    inbox_pb2_grpc,
    letters_pb2_grpc,
    mailboxes_pb2_grpc,
    messages_pb2,
    messages_pb2_grpc,
    units_pb2_grpc,
)

from gateway.client import assertions, batches, following, transfers
from gateway.client.connections import Connections
from gateway.client.profile import Profile, Representation
from gateway.client.transfers import Progress
from services.runtime import status
from services.runtime.errors import (
    BY_CODE,
    DeadlineExceeded,
    Fault,
    Internal,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
Stub = TypeVar("Stub")

RENEW_BEFORE = 30.0
"""Seconds before its expiry that a token is replaced."""

ATTEMPTS = 5
"""Attempts of a call that may be repeated: some two seconds, in which a restarted service is back."""

FIRST_BACKOFF, MAX_BACKOFF = 0.1, 2.0
"""Seconds between attempts: doubling from the first to the largest, each less a random part so that clients spread."""

_KEYS = ("idempotency_key", "request_id", "message_id")
"""Fields of a request by which the node knows a repeat."""

_READING = ("Get", "List")
"""How the requests of methods begin that change nothing."""

_STALE_TOKEN = ("TOKEN_EXPIRED", "TOKEN_INVALID")
"""Reasons that a new token may cure: the clock, or the node's keys, have moved on."""

_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
} | {
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class Client:
    """Calls one edge as one client. Use it as an asynchronous context manager.

    Refusals are `Fault`s with the documented reason, whichever door they came
    through.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._token = ""
        self._expires = 0.0
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._connections = Connections(self.profile)
        self.channel: grpc.aio.Channel = self._connections.channel
        self.clients = clients_pb2_grpc.ClientServiceStub(self.channel)
        self.units = units_pb2_grpc.UnitServiceStub(self.channel)
        self.mailboxes = mailboxes_pb2_grpc.MailboxServiceStub(self.channel)
        self.messages = messages_pb2_grpc.MessageServiceStub(self.channel)
        self.attachments = attachments_pb2_grpc.AttachmentServiceStub(self.channel)
        self.inbox = inbox_pb2_grpc.InboxServiceStub(self.channel)
        self.letters = letters_pb2_grpc.LetterServiceStub(self.channel)
        self.feed = feed_pb2_grpc.FeedServiceStub(self.channel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._connections.close()

    async def token(self) -> str:
        """An access token that is valid for a while yet. Raises Fault where the edge grants none.

        Where the profile's certificate has been renewed, calls go over new
        connections from now on, and the token is one for it.
        """
        async with self._lock:
            if self._connections.renew():
                self.forget_token()
            if time.time() > self._expires - RENEW_BEFORE:
                answer = await self._own_token()
                if self.profile.acts_for is not None:
                    answer = await self._exchange(answer["access_token"], self.profile.acts_for)
                self._token, self._expires = answer["access_token"], time.time() + answer["expires_in"]
            return self._token

    async def _own_token(self) -> Mapping[str, Any]:
        """The token in the client's own name, as the token endpoint answers."""
        return await self._grant(grant_type="client_credentials", scope=" ".join(self.profile.scopes))

    async def _exchange(self, token: str, wanted: Representation) -> dict[str, Any]:
        detail = {"type": "mandate", "principal": wanted.principal, "theme": wanted.theme}
        if wanted.specifier:
            detail["specifier"] = wanted.specifier
        return await self._grant(
            grant_type="urn:ietf:params:oauth:grant-type:token-exchange",
            subject_token=token,
            subject_token_type="urn:ietf:params:oauth:token-type:access_token",  # noqa: S106 - a name
            authorization_details=json.dumps([detail]),
        )

    async def _grant(self, **parameters: str) -> dict[str, Any]:
        return await self.form("/oauth2/token", {"client_id": self.profile.client_id, **parameters})

    def forget_token(self) -> None:
        """Has the next call get a new token."""
        self._expires = 0.0

    async def metadata(self) -> list[tuple[str, str]]:
        """What a gRPC call carries: the access token."""
        return [("authorization", f"Bearer {await self.token()}")]

    def stub(self, kind: Callable[[grpc.aio.Channel], Stub]) -> Stub:
        """The stub of any other service of the contracts: `client.stub(MandateServiceStub)`."""
        return kind(self.channel)

    async def call(
        self,
        method: Callable[..., Awaitable[Response]],
        request: Message,
        *,
        attempts: int | None = None,
        timeout: float = 15.0,
    ) -> Response:
        """A unary call by gRPC, repeated while the node is away where that is safe.

        It is safe where the method only reads, and where the request has a key
        by which the node knows a repeat; a key that is not set is set here to
        a new UUID, in a copy of the request. `attempts` says otherwise: 1
        never repeats, more repeats whatever the method is. Where the node asks
        for patience (a rate limit) nothing was done, and it is waited for.
        """
        request = keyed(request)
        may_repeat = attempts is not None or is_repeatable(request)
        left, backoff, renewed = (attempts or ATTEMPTS), FIRST_BACKOFF, False
        while True:
            left -= 1
            sent = False
            try:
                metadata = await self.metadata()
                sent = True
                return await self._called(method, request, metadata, timeout)
            except Unauthenticated as fault:
                if fault.reason not in _STALE_TOKEN or renewed:
                    raise
                self.forget_token()
                renewed = True
            except ResourceExhausted as fault:
                if fault.retry_after is None or left <= 0:
                    raise
                await asyncio.sleep(fault.retry_after)
            except (Unavailable, DeadlineExceeded):
                if left <= 0 or (sent and not may_repeat):
                    raise
                await asyncio.sleep(backoff * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
                backoff = min(backoff * 2, MAX_BACKOFF)

    async def items(self, method: Callable[..., Awaitable[Any]], request: Message) -> AsyncGenerator[Any]:
        """Every item of a list, page after page: `client.items(client.messages.ListMessages, request)`."""
        asked = _copy(request)
        while True:
            page = await self.call(method, asked)
            [listed] = [field for field in page.DESCRIPTOR.fields if field.is_repeated and field.message_type]
            for item in getattr(page, listed.name):
                yield item
            asked.page_token = getattr(page, "next_page_token", "")  # type: ignore[attr-defined]
            if not asked.page_token:  # type: ignore[attr-defined]
                return

    async def follow(
        self, unit: str, *, cursor: Path | None = None, types: Sequence[str] = ()
    ) -> AsyncGenerator[feed_pb2.Event]:
        """The events of a unit, for ever: those that are there, and each as it happens.

        `cursor` is a file that remembers where to go on. It is written when
        the next event is asked for, so an event during which the program died
        comes again: at least once. Breaks and expired tokens are gone over.
        """
        async for event in following.events(self, unit, cursor=cursor, types=types):
            yield event

    async def stream(
        self, method: Callable[..., Any], request: Message | AsyncIterator[Message]
    ) -> AsyncGenerator[Any]:
        """A call by gRPC that answers with a stream, and may take one."""
        try:
            async for response in method(request, metadata=await self.metadata()):
                yield response
        except grpc.RpcError as error:
            raise status.fault_of(error) from None

    async def send_all(
        self, messages: Iterable[messages_pb2.SendMessageRequest]
    ) -> AsyncGenerator[messages_pb2.SendMessagesResponse]:
        """Sends many messages over one stream, and gives the result of each, in their order.

        Where the stream breaks, send again those without a result: with the
        same idempotency keys none is sent twice.
        """
        async with aclosing(self.stream(self.messages.SendMessages, batches.requests(messages))) as responses:
            async for response in responses:
                for result in response.results:
                    yield result

    async def upload(
        self, content: bytes, *, file_name: str, media_type: str, attempts: int | None = None
    ) -> attachments_pb2.Attachment:
        """Reserves an attachment and streams its content up; the digest is checked at the other end."""
        source = transfers.Bytes(content)
        return await transfers.upload(self, source, file_name=file_name, media_type=media_type, attempts=attempts)

    async def upload_file(
        self, file: Path, *, media_type: str = "", file_name: str = "", progress: Progress | None = None
    ) -> attachments_pb2.Attachment:
        """The same from a file, of which a piece is in memory at a time; goes on where it broke off.

        The file must not change meanwhile: the digest is that of its beginning.
        """
        return await transfers.upload(
            self,
            transfers.File(file),
            file_name=file_name or file.name,
            media_type=media_type or transfers.media_type(file),
            progress=progress,
        )

    async def upload_content(self, name: str, content: bytes, *, offset: int = 0) -> attachments_pb2.Attachment:
        """Streams the content of a reserved attachment up, from `offset` on, without a second try."""
        return await transfers.send(self, name, transfers.Bytes(content), offset)

    async def download(self, name: str) -> bytes:
        """The content of an attachment, by gRPC."""
        request = attachments_pb2.DownloadAttachmentRequest(name=name)
        return b"".join([body.data async for body in self.stream(self.attachments.DownloadAttachment, request)])

    async def download_file(
        self, name: str, file: Path, *, sha256: str = "", size: int = 0, progress: Progress | None = None
    ) -> None:
        """Downloads an attachment into a file, which is there only when it is whole; goes on where it broke off.

        What has come lies in `<file>.part` meanwhile, also for a later call.
        Where `sha256` is given (a message says it of its attachments) and the
        content has another, it is thrown away: DataLoss. `size` is for
        `progress` alone.
        """
        await transfers.download(self, name, file, sha256=sha256, size=size, progress=progress)

    async def rest(self, verb: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A call by REST: JSON in, JSON out."""
        return await self._json(verb, path, json=body, headers={"authorization": f"Bearer {await self.token()}"})

    async def form(self, path: str, form: Mapping[str, str]) -> dict[str, Any]:
        """A call of an OAuth endpoint: a form in, JSON out.

        The certificate says who calls, and where the profile has an assertion
        key an assertion does, too.
        """
        return await self._json("POST", path, data={**form, **assertions.of(self.profile)})

    async def document(self, path: str) -> dict[str, Any]:
        """A document that takes no token, such as the metadata of the authorisation server."""
        return await self._json("GET", path)

    async def rest_content(self, path: str) -> tuple[str, bytes]:
        """Content by REST: its media type and bytes."""
        headers = {"authorization": f"Bearer {await self.token()}"}
        async with self._connections.http.get(path, headers=headers) as answer:
            if answer.status >= 400:
                raise _fault(answer.status, await answer.json(content_type=None))
            return answer.content_type, await answer.read()

    async def _called(
        self,
        method: Callable[..., Awaitable[Response]],
        request: Message,
        metadata: Sequence[tuple[str, str]],
        timeout: float,
    ) -> Response:
        try:
            return await method(request, metadata=metadata, timeout=timeout)
        except grpc.RpcError as error:
            raise status.fault_of(error) from None

    async def _json(self, verb: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            async with self._connections.http.request(verb, path, **options) as answer:
                if answer.status >= 400:
                    raise _fault(answer.status, await answer.json(content_type=None))
                result: dict[str, Any] = await answer.json(content_type=None)
                return result
        except aiohttp.ClientConnectionError as error:
            raise Unavailable("UNAVAILABLE", f"the edge at {self.profile.edge} does not answer: {error}") from None


def is_repeatable(request: Message) -> bool:
    """Whether a call with this request may be made twice: it only reads, or has a key by which a repeat is known."""
    fields = request.DESCRIPTOR.fields_by_name
    keys = [getattr(request, key) for key in _KEYS if key in fields]
    return request.DESCRIPTOR.name.startswith(_READING) or any(keys)


def keyed(request: Request) -> Request:
    """The request, or a copy of it with a new key where it has a field for one that is not set."""
    if request.DESCRIPTOR.name.startswith(_READING):
        return request
    for key in _KEYS[:2]:
        if key in request.DESCRIPTOR.fields_by_name and not getattr(request, key):
            request = _copy(request)
            setattr(request, key, str(uuid.uuid4()))
    return request


def _copy(request: Request) -> Request:
    copy = type(request)()
    copy.CopyFrom(request)
    return copy


def _fault(http_status: int, document: Any) -> Fault:
    """A refusal of the REST door (RFC 9457) or of an OAuth endpoint (RFC 6749, section 5.2) as a Fault."""
    problem = document if isinstance(document, dict) else {}
    kind = BY_CODE.get(_CODES.get(http_status, ""), Internal)
    if "error" in problem and "reason" not in problem:
        return kind(f"OAUTH_{problem['error']}".upper(), problem.get("error_description", ""))
    return kind(
        problem.get("reason", "EDGE_REFUSED"),
        problem.get("detail", f"HTTP status {http_status}"),
        violations=[(error["field"], error["description"]) for error in problem.get("errors", [])],
    )
