"""The handlers, and the paths that lead to them."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from aiohttp import BodyPartReader, MultipartReader, hdrs, web
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.message import Message as Request
from solmu.authorisations.v1 import tokens_pb2
from solmu.messages.v1 import (
    attachments_pb2,
    attachments_pb2_grpc,
    feed_pb2,
    feed_pb2_grpc,
    mailboxes_pb2_grpc,
    messages_pb2,
    messages_pb2_grpc,
    numbers_pb2,
    numbers_pb2_grpc,
    units_pb2,
    units_pb2_grpc,
)

from gateway.adapters.suomifi import answers, events, ids, refusals, requests
from gateway.adapters.suomifi.calls import CALL_SECONDS, TRANSFER_SECONDS, Calls
from gateway.adapters.suomifi.refusals import RefusedError
from gateway.routes import Endpoint
from services.runtime import xfcc
from services.runtime.client import Peer
from services.runtime.errors import Fault

Message = messages_pb2.Message

JSON_BYTES = 2 << 20
"""A message with a text of 200,000 characters, or 10,000 ids."""

UPLOAD_BYTES = (2 << 30) + (1 << 20)
"""An attachment of 2 GiB, and the form around it."""

PIECE = 256 << 10
"""Bytes of an attachment that are held at once."""

UNITS_AT_ONCE = 16
"""Feeds that one call reads at the same time."""

REQUEST_ID = "X-Request-Id"
TRACE_ID = "traceid"

IssueToken = Callable[[str, Request], Awaitable[Any]]
"""Calls the method of `TokenService` that has this name; raises Fault."""

ENDPOINTS = (
    Endpoint("/v1/token", JSON_BYTES),
    Endpoint("/v1/change-password", JSON_BYTES),
    Endpoint("/v1/mailboxes/active", JSON_BYTES),
    Endpoint("/v2/attachments", UPLOAD_BYTES, timeout_seconds=int(TRANSFER_SECONDS)),
    Endpoint(
        "/v1/attachments/{attachment}",
        1,
        pattern=f"/v1/attachments/{ids.PATTERN}",
        timeout_seconds=int(TRANSFER_SECONDS),
    ),
    Endpoint("/v2/messages", JSON_BYTES),
    Endpoint("/v2/messages/electronic", JSON_BYTES),
    Endpoint("/v2/paper-mail-without-id", JSON_BYTES),
    Endpoint("/v2/messages/{message}", 1, pattern="/v2/messages/[0-9]{1,18}"),
    Endpoint("/v2/events", 1),
)

Handler = Callable[["SuomiFi", web.Request, Calls], Awaitable[web.StreamResponse]]
OpenHandler = Callable[["SuomiFi", web.Request], Awaitable[web.StreamResponse]]


def _refusing(handler: OpenHandler) -> OpenHandler:
    """Gives the refusals of a handler the form of the interface."""

    @functools.wraps(handler)
    async def answer(self: SuomiFi, request: web.Request) -> web.StreamResponse:
        try:
            return await handler(self, request)
        except RefusedError as refusal:
            return _refused(request, refusal)
        except Fault as fault:
            return _refused(request, refusals.of(fault))

    return answer


def _for_client(handler: Handler) -> OpenHandler:
    """Gives a handler the calls in the name of the client, and tells the client what is left of its allowance."""

    @_refusing
    @functools.wraps(handler)
    async def answer(self: SuomiFi, request: web.Request) -> web.StreamResponse:
        calls = Calls(self.messages, request)
        response = await handler(self, request, calls)
        if not response.prepared:
            response.headers.update(calls.told)
        return response

    return answer


class SuomiFi:
    """The handlers. `messages` is the service that they call."""

    def __init__(self, *, messages: Peer, issue: IssueToken) -> None:
        self.messages = messages
        self._issue = issue

    def routes(self) -> list[web.RouteDef]:
        """For the application of the gateway."""
        return [
            web.post("/v1/token", self.token),
            web.post("/v1/change-password", self.change_password),
            web.post("/v1/mailboxes/active", self.active_mailboxes),
            web.post("/v2/attachments", self.upload),
            web.get("/v1/attachments/{attachment}", self.download),
            web.post("/v2/messages", self.send),
            web.post("/v2/messages/electronic", self.send_electronic),
            web.post("/v2/paper-mail-without-id", self.send_paper),
            web.get("/v2/messages/{message}", self.message),
            web.get("/v2/events", self.events),
        ]

    @_refusing
    async def token(self, request: web.Request) -> web.Response:
        """An access token for the client that the certificate proves and `username` names."""
        user_name = requests.credentials(await _json(request))
        try:
            certificate = xfcc.parse(*request.headers.getall(xfcc.HEADER, []))
        except xfcc.XfccError:
            raise RefusedError(400, "OAUTH_INVALID_CLIENT") from None
        issued = await self._issue(
            "IssueToken",
            tokens_pb2.IssueTokenRequest(
                grant_type="client_credentials",
                client_id=user_name,
                certificate=tokens_pb2.ClientCertificate(
                    sha256=certificate.sha256, uri_sans=certificate.uris, subject=certificate.subject
                ),
            ),
        )
        document = {
            "access_token": issued.access_token,
            "token_type": issued.token_type,
            "expires_in": issued.expires_in,
        }
        return _answer(request, document, headers={hdrs.CACHE_CONTROL: "no-store"})

    @_refusing
    async def change_password(self, _: web.Request) -> web.Response:
        """Refuses: a client is proven by its certificate, and there is no password that could change."""
        raise RefusedError(400, "PASSWORD_NOT_USED", faults=["the node has no passwords: certificates prove clients"])

    @_for_client
    async def active_mailboxes(self, request: web.Request, calls: Calls) -> web.Response:
        """Those of the ids that have an open mailbox, as they were given."""
        asked = requests.end_users(await _json(request))
        found = await calls.call(mailboxes_pb2_grpc.MailboxServiceStub, "LookUpMailboxes", requests.look_up(asked))
        active = [{"id": asked[result.index]} for result in found.results if result.reachable]
        return _answer(request, {"endUsersWithActiveMailbox": active})

    @_for_client
    async def upload(self, request: web.Request, calls: Calls) -> web.Response:
        """Takes the part `file` of a form, a piece at a time."""
        form, part = await _file(request)
        asked = attachments_pb2.Attachment(file_name=part.filename or "")
        service = attachments_pb2_grpc.AttachmentServiceStub
        reserved = await calls.call(
            service, "CreateAttachment", attachments_pb2.CreateAttachmentRequest(attachment=asked)
        )
        digest = hashlib.sha256()

        async def pieces() -> AsyncIterator[attachments_pb2.UploadAttachmentRequest]:
            yield attachments_pb2.UploadAttachmentRequest(name=reserved.name)
            while piece := await part.read_chunk(PIECE):
                digest.update(piece)
                yield attachments_pb2.UploadAttachmentRequest(content=HttpBody(data=piece))
            while await form.next() is not None:  # raises where the form has no end
                pass

        try:
            uploaded = await calls.send(service, "UploadAttachment", pieces())
        except ValueError:  # the form breaks off, or is none
            raise RefusedError(400, "FIELD_INVALID", faults=["the body is not a whole form"]) from None
        assert uploaded.sha256 == digest.hexdigest()
        return _answer(request, {"attachmentId": ids.outward(reserved.name)})

    @_for_client
    async def download(self, request: web.Request, calls: Calls) -> web.StreamResponse:
        """Gives the content of an attachment, as it comes."""
        asked = attachments_pb2.DownloadAttachmentRequest(name=ids.inward(request.match_info["attachment"]))
        response = web.StreamResponse(headers={"X-Content-Type-Options": "nosniff", **_trace(request)})
        async for piece in calls.receive(attachments_pb2_grpc.AttachmentServiceStub, "DownloadAttachment", asked):
            if not response.prepared:
                response.content_type = piece.content_type
                await response.prepare(request)
            await response.write(piece.data)
        await response.write_eof()
        return response

    @_for_client
    async def send(self, request: web.Request, calls: Calls) -> web.Response:
        """Sends to the mailbox, or on paper where there is none."""
        return await self._send(request, calls, electronic=True, paper=True)

    @_for_client
    async def send_electronic(self, request: web.Request, calls: Calls) -> web.Response:
        """Sends to the mailbox."""
        return await self._send(request, calls, electronic=True, paper=False)

    @_for_client
    async def send_paper(self, request: web.Request, calls: Calls) -> web.Response:
        """Sends on paper to an address, whoever lives there."""
        return await self._send(request, calls, electronic=False, paper=True)

    @_for_client
    async def message(self, request: web.Request, calls: Calls) -> web.Response:
        """A message that a resident sent to one of the caller's units."""
        name = await self._named(int(request.match_info["message"]))
        message = await self._read(calls, name)
        if message.direction != Message.DIRECTION_INBOUND:
            raise RefusedError(404, "RESOURCE_NOT_FOUND")
        root = await self._root(calls, message)
        numbers = await self._numbers([name] if root is None else [name, root.name])
        return _answer(request, answers.received(message, numbers=numbers, root=root))

    @_for_client
    async def events(self, request: web.Request, calls: Calls) -> web.Response:
        """What happened to the messages of all of the organisation's units since a token."""
        cursors = events.cursors(request.query.get("continuationToken", ""))
        units = await _units(calls)
        size = max(1, events.MOST // max(1, len(units)))
        room = asyncio.Semaphore(UNITS_AT_ONCE)

        async def news(unit: str) -> tuple[list[feed_pb2.Event], str]:
            async with room:
                return await _news(calls, unit, cursors.get(unit, ""), size)

        pages = await asyncio.gather(*(news(unit) for unit in units))
        found = sorted((event for page, _ in pages for event in page), key=lambda event: event.time.ToNanoseconds())
        numbers = await self._numbers([event.message for event in found])
        document = {
            "continuationToken": events.token({unit: cursor for unit, (_, cursor) in zip(units, pages, strict=True)}),
            "events": [events.event(event, numbers[event.message]) for event in found],
        }
        return _answer(request, document)

    async def _send(self, request: web.Request, calls: Calls, *, electronic: bool, paper: bool) -> web.Response:
        body = await _json(request)
        answered = requests.answered(body) if electronic else 0
        asked = requests.message(
            body,
            electronic=electronic,
            paper=paper,
            in_reply_to=await self._named(answered) if answered else "",
            call=request.headers.get(REQUEST_ID) or str(uuid.uuid4()),
        )
        try:
            sent = await calls.call(messages_pb2_grpc.MessageServiceStub, "SendMessage", asked)
        except Fault as fault:
            if fault.reason != "IDEMPOTENCY_KEY_REUSED":
                raise
            first = fault.metadata["message"]
            raise RefusedError(409, fault.reason, message_id=(await self._numbers([first]))[first]) from None
        return _answer(request, {"messageId": (await self._numbers([sent.name]))[sent.name]})

    async def _read(self, calls: Calls, name: str) -> Message:
        message: Message = await calls.call(
            messages_pb2_grpc.MessageServiceStub, "GetMessage", messages_pb2.GetMessageRequest(name=name)
        )
        return message

    async def _root(self, calls: Calls, message: Message) -> Message | None:
        """The message that a conversation began with; None where the unit does not have it."""
        unit, _, _ = message.name.partition("/messages/")
        root = f"{unit}/messages/{message.thread.removeprefix('threads/')}"
        if root == message.name:
            return message
        try:
            return await self._read(calls, root)
        except Fault as fault:
            if fault.code != "NOT_FOUND":
                raise
            return None

    async def _numbers(self, names: Sequence[str]) -> dict[str, int]:
        distinct = list(dict.fromkeys(names))
        asked = numbers_pb2.NumberMessagesRequest(names=distinct)
        numbers = (await self._own("NumberMessages", asked)).numbers if distinct else []
        return dict(zip(distinct, numbers, strict=True))

    async def _named(self, number: int) -> str:
        return str((await self._own("FindMessage", numbers_pb2.FindMessageRequest(number=number))).name)

    async def _own(self, method: str, request: Request) -> Any:
        with self.messages.faults():
            stub = self.messages.stub(numbers_pb2_grpc.NumberServiceStub)
            return await getattr(stub, method)(request, timeout=CALL_SECONDS, metadata=self.messages.metadata())


async def _units(calls: Calls) -> list[str]:
    """The names of all units of the caller's organisation."""
    asked, names = units_pb2.ListUnitsRequest(page_size=1000), []
    while True:
        page = await calls.call(units_pb2_grpc.UnitServiceStub, "ListUnits", asked)
        names += [unit.name for unit in page.units]
        if not page.next_page_token:
            return names
        asked.page_token = page.next_page_token


async def _news(calls: Calls, unit: str, cursor: str, size: int) -> tuple[list[feed_pb2.Event], str]:
    """Events of a unit that the interface has a name for, and where to go on; none only at the end of the feed."""
    while True:
        asked = feed_pb2.ListEventsRequest(parent=unit, cursor=cursor, page_size=size, types=list(events.TYPES))
        try:
            page = await calls.call(feed_pb2_grpc.FeedServiceStub, "ListEvents", asked)
        except Fault as fault:
            if fault.reason != "CURSOR_EXPIRED":
                raise
            cursor = fault.metadata["oldest"]
            continue
        if page.events or page.next_cursor == cursor:
            return list(page.events), page.next_cursor
        cursor = page.next_cursor


async def _json(request: web.Request) -> object:
    try:
        return json.loads(await request.read())
    except ValueError:
        raise RefusedError(400, "JSON_MALFORMED", faults=["the body is not JSON"]) from None


async def _file(request: web.Request) -> tuple[MultipartReader, BodyPartReader]:
    """A form, and its part `file`."""
    if request.content_type != "multipart/form-data":
        raise RefusedError(415, "FIELD_INVALID", faults=["the body is not multipart/form-data"])
    try:
        form = await request.multipart()
        async for part in form:
            if isinstance(part, BodyPartReader) and part.name == "file":
                return form, part
    except ValueError:  # not a form
        pass
    raise RefusedError(400, "FIELD_INVALID", faults=["the form has no part file"])


def _answer(
    request: web.Request, document: object, *, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """JSON, its type without a charset: some clients compare it to the letter."""
    return web.Response(
        status=status,
        body=json.dumps(document, ensure_ascii=False).encode(),
        content_type="application/json",
        headers={**(headers or {}), **_trace(request)},
    )


def _refused(request: web.Request, refusal: RefusedError) -> web.Response:
    return _answer(request, refusal.document, status=refusal.status, headers=refusal.headers)


def _trace(request: web.Request) -> dict[str, str]:
    return {TRACE_ID: request.headers[REQUEST_ID]} if REQUEST_ID in request.headers else {}
