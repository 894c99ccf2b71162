"""The client: one object that takes a profile and calls the edge, by gRPC and REST."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
import grpc
from google.api import httpbody_pb2
from google.protobuf.message import Message
from solmu.authorisations.v1 import clients_pb2_grpc
from solmu.messages.v1 import (
    attachments_pb2,
    attachments_pb2_grpc,
    feed_pb2_grpc,
    inbox_pb2_grpc,
    mailboxes_pb2_grpc,
    messages_pb2_grpc,
    units_pb2_grpc,
)

from gateway.client.profile import Profile
from services.runtime import status, tls
from services.runtime.errors import BY_CODE, DeadlineExceeded, Fault, Internal, Unavailable

Response = TypeVar("Response", bound=Message)

RENEW_BEFORE = 30.0
"""Seconds before its expiry that a token is replaced."""

PIECE = 256 * 1024
"""Bytes of an attachment in one message of the stream."""

FIRST_BACKOFF, MAX_BACKOFF = 0.1, 2.0
"""Seconds between attempts: doubling from the first to the largest."""

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
        context = ssl.create_default_context(cafile=str(self.profile.files.authorities))
        context.load_cert_chain(str(self.profile.files.certificate), str(self.profile.files.key))
        self._http = aiohttp.ClientSession(self.profile.edge, connector=aiohttp.TCPConnector(ssl=context))
        self.channel = grpc.aio.secure_channel(
            self.profile.target,
            tls.channel_credentials(self.profile.files),
            options=[("grpc.use_local_subchannel_pool", 1)],
        )
        self.clients = clients_pb2_grpc.ClientServiceStub(self.channel)
        self.units = units_pb2_grpc.UnitServiceStub(self.channel)
        self.mailboxes = mailboxes_pb2_grpc.MailboxServiceStub(self.channel)
        self.messages = messages_pb2_grpc.MessageServiceStub(self.channel)
        self.attachments = attachments_pb2_grpc.AttachmentServiceStub(self.channel)
        self.inbox = inbox_pb2_grpc.InboxServiceStub(self.channel)
        self.feed = feed_pb2_grpc.FeedServiceStub(self.channel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.channel.close()
        await self._http.close()

    async def token(self) -> str:
        """An access token that is valid for a while yet. Raises Fault where the edge grants none."""
        async with self._lock:
            if time.time() > self._expires - RENEW_BEFORE:
                form = {
                    "grant_type": "client_credentials",
                    "client_id": self.profile.client_id,
                    "scope": " ".join(self.profile.scopes),
                }
                answer = await self._json("POST", "/oauth2/token", data=form)
                self._token, self._expires = answer["access_token"], time.time() + answer["expires_in"]
            return self._token

    async def metadata(self) -> list[tuple[str, str]]:
        """What a gRPC call carries: the access token."""
        return [("authorization", f"Bearer {await self.token()}")]

    async def call(
        self, method: Callable[..., Awaitable[Response]], request: Message, *, attempts: int = 1, timeout: float = 15.0
    ) -> Response:
        """A unary call by gRPC.

        `attempts` over 1 repeats it while the node is away: for methods that
        take an idempotency key, or change nothing.
        """
        backoff = FIRST_BACKOFF
        for left in reversed(range(attempts)):
            try:
                return await self._called(method, request, timeout)
            except (Unavailable, DeadlineExceeded):
                if not left:
                    raise
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, MAX_BACKOFF)
        raise AssertionError("attempts is at least 1")

    async def stream(self, method: Callable[..., Any], request: Message) -> AsyncGenerator[Any]:
        """A call by gRPC that answers with a stream."""
        try:
            async for response in method(request, metadata=await self.metadata()):
                yield response
        except grpc.RpcError as error:
            raise status.fault_of(error) from None

    async def upload(
        self, content: bytes, *, file_name: str, media_type: str, attempts: int = 1
    ) -> attachments_pb2.Attachment:
        """Reserves an attachment and streams its content up; the digest is checked at the other end."""
        asked = attachments_pb2.Attachment(
            file_name=file_name,
            media_type=media_type,
            size_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )
        reserve = attachments_pb2.CreateAttachmentRequest(attachment=asked)
        reserved = await self.call(self.attachments.CreateAttachment, reserve, attempts=attempts)
        return await self.upload_content(reserved.name, content)

    async def upload_content(self, name: str, content: bytes, *, offset: int = 0) -> attachments_pb2.Attachment:
        """Streams the content of a reserved attachment up, from `offset` on."""

        async def pieces() -> AsyncIterator[attachments_pb2.UploadAttachmentRequest]:
            for start in range(offset, len(content), PIECE):
                first = start == offset
                yield attachments_pb2.UploadAttachmentRequest(
                    name=name if first else "",
                    offset=offset if first else 0,
                    content=httpbody_pb2.HttpBody(data=content[start : start + PIECE]),
                )

        try:
            return await self.attachments.UploadAttachment(pieces(), metadata=await self.metadata())
        except grpc.RpcError as error:
            raise status.fault_of(error) from None

    async def download(self, name: str) -> bytes:
        """The content of an attachment, by gRPC."""
        request = attachments_pb2.DownloadAttachmentRequest(name=name)
        return b"".join([body.data async for body in self.stream(self.attachments.DownloadAttachment, request)])

    async def rest(self, verb: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """A call by REST: JSON in, JSON out."""
        return await self._json(verb, path, json=body, headers={"authorization": f"Bearer {await self.token()}"})

    async def rest_content(self, path: str) -> tuple[str, bytes]:
        """Content by REST: its media type and bytes."""
        headers = {"authorization": f"Bearer {await self.token()}"}
        async with self._http.get(path, headers=headers) as answer:
            if answer.status >= 400:
                raise _fault(answer.status, await answer.json(content_type=None))
            return answer.content_type, await answer.read()

    async def save(self, name: str, file: Path) -> None:
        """Downloads an attachment by REST into a file."""
        _, content = await self.rest_content(f"/v1/{name}/content")
        await asyncio.to_thread(file.write_bytes, content)

    async def _called(self, method: Callable[..., Awaitable[Response]], request: Message, timeout: float) -> Response:
        metadata = await self.metadata()
        try:
            return await method(request, metadata=metadata, timeout=timeout)
        except grpc.RpcError as error:
            raise status.fault_of(error) from None

    async def _json(self, verb: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            async with self._http.request(verb, path, **options) as answer:
                if answer.status >= 400:
                    raise _fault(answer.status, await answer.json(content_type=None))
                result: dict[str, Any] = await answer.json(content_type=None)
                return result
        except aiohttp.ClientConnectionError as error:
            raise Unavailable("UNAVAILABLE", f"the edge at {self.profile.edge} does not answer: {error}") from None


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
