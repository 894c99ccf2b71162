"""The handlers of X-Road's REST interface: calls, and what a subsystem or a mesh has (metaservices)."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from aiohttp import web
from solmu.exchange.v1 import (
    calls_pb2,
    calls_pb2_grpc,
    directory_service_pb2,
    directory_service_pb2_grpc,
    services_pb2,
    services_pb2_grpc,
)
from solmu.exchange.v1.identifiers_pb2 import Requester

from gateway.adapters.xroad import errors, evidence, requests
from gateway.adapters.xroad.errors import BadRequestError, Style
from gateway.adapters.xroad.requests import Call, RequestHash
from gateway.routes import Endpoint
from services.runtime import xfcc
from services.runtime.client import Peer
from services.runtime.errors import Fault
from services.runtime.streams import NotWantedError, Stream

MAX_REQUEST_BYTES = 16 << 30
"""Each policy of the exchange sets its own limit below (calls.proto)."""

SECONDS = 3600.0
"""Time for an exchange as a whole; policies set theirs."""

LIST_SECONDS = 12.0
"""Time for a list; the edge gives it 15."""

SMALL = 64 << 10
"""Bytes of a body that goes to the exchange in one frame with its head."""

CHUNK = 256 << 10

ENDPOINTS = (
    Endpoint(
        "/r1/{path}",
        MAX_REQUEST_BYTES,
        pattern=r"/r1/[^/]+/[^/]+/[^/]+/[^/]+/[^/]+(/.*)?",
        timeout_seconds=int(SECONDS),
    ),
    Endpoint("/listClients", 1),
    Endpoint(evidence.PATH, 1),
)

METASERVICES = {"listMethods", "allowedMethods"}
GET_OPENAPI = "getOpenAPI"

Handler = Callable[["XRoad", web.Request], Awaitable[web.StreamResponse]]


def _refusing(handler: Handler) -> Handler:
    """Gives refusals X-Road's form."""

    @functools.wraps(handler)
    async def answer(self: XRoad, request: web.Request) -> web.StreamResponse:
        try:
            return await handler(self, request)
        except BadRequestError as error:
            return self.refused(request, errors.BAD_REQUEST, str(error), detail="")
        except Fault as fault:
            return self.refused(
                request, errors.code_of(fault), fault.message, detail=fault.metadata.get("exchange", "")
            )

    return answer


class XRoad:
    """Translates calls for the exchange. `style` is how error codes are spelt."""

    def __init__(self, *, exchange: Peer, style: Style) -> None:
        self._exchange = exchange
        self._style = style
        self._evidence = evidence.Evidence(exchange=exchange, certificate=_certificate)

    def routes(self) -> list[web.RouteDef]:
        """For the application of the gateway."""
        return [
            web.route("*", "/r1/{path:.*}", self.call),
            web.get("/listClients", self.list_clients),
            web.get(evidence.PATH, self._evidence.download),
        ]

    @_refusing
    async def call(self, request: web.Request) -> web.StreamResponse:
        """A call of a service, or of one of the reserved codes."""
        headers = [(name.decode("latin-1"), value) for name, value in request.raw_headers]
        call = requests.read(request.method, request.raw_path.encode("latin-1"), headers)
        requester = Requester(
            subsystem=requests.name_of("subsystems", call.client), certificate_sha256=_certificate(request)
        )
        if call.service[-1] in METASERVICES:
            return await self._list_methods(call, requester)
        if call.service[-1] == GET_OPENAPI:
            return await self._description(call, requester)
        return await self._pass(request, call, requester)

    @_refusing
    async def list_clients(self, request: web.Request) -> web.StreamResponse:
        """Members and subsystems of a mesh; of the node's own where none is named."""
        instance = request.query.get("xRoadInstance", "")
        entries = await self._clients(instance)
        if "application/json" in request.headers.get("Accept", ""):
            return web.json_response({"member": entries})
        return web.Response(body=_clients_xml(entries), content_type="text/xml", charset="utf-8")

    def refused(self, request: web.Request, code: str, text: str, *, detail: str) -> web.Response:
        """An error document."""
        made = errors.refusal(code, text, detail=detail, accept=request.headers.get("Accept", ""), style=self._style)
        return web.Response(
            status=made.status,
            body=made.body,
            headers={"Content-Type": made.content_type, "X-Road-Error": made.code},
        )

    async def _pass(self, request: web.Request, call: Call, requester: Requester) -> web.StreamResponse:
        head = calls_pb2.CallRequestHead(
            requester=requester,
            service=f"{requests.name_of('subsystems', call.service[:4])}/services/{requests.encode(call.service[4])}",
            method=call.method,
            target=call.target,
            headers=[calls_pb2.HeaderField(name=name, value=value) for name, value in call.headers],
            message_id=call.message_id,
            node=requests.name_of("nodes", call.node) if call.node else "",
        )
        if request.content_length is not None or not request.can_read_body:
            head.body_bytes = request.content_length or 0
        digest = RequestHash()
        with self._exchange.faults():
            stub = self._exchange.stub(calls_pb2_grpc.CallServiceStub)
            stream = Stream(stub.Call(metadata=self._exchange.metadata(), timeout=SECONDS))
            sending = asyncio.create_task(_send(stream, head, request, digest))
            try:
                return await _answer(request, call, stream, sending, digest)
            finally:
                sending.cancel()
                stream.cancel()

    async def _list_methods(self, call: Call, requester: Requester) -> web.StreamResponse:
        message = services_pb2.ListServicesRequest(
            parent=requests.name_of("subsystems", call.service[:4]),
            requester=requester,
            allowed_only=call.service[-1] == "allowedMethods",
            page_size=1000,
        )
        services = []
        while True:
            page = await self._ask(services_pb2_grpc.CatalogueServiceStub, "ListServices", message)
            services += [_service(service) for service in page.services]
            if not page.next_page_token:
                return web.json_response({"service": services})
            message.page_token = page.next_page_token

    async def _description(self, call: Call, requester: Requester) -> web.StreamResponse:
        codes = parse_qs(call.target.partition(b"?")[2].decode("latin-1")).get("serviceCode", [])
        if len(codes) != 1:
            raise BadRequestError("the parameter serviceCode is missing")
        message = services_pb2.GetServiceDescriptionRequest(
            name=f"{requests.name_of('subsystems', call.service[:4])}/services/{requests.encode(codes[0])}",
            requester=requester,
        )
        found = await self._ask(services_pb2_grpc.CatalogueServiceStub, "GetServiceDescription", message)
        return web.Response(body=found.data, content_type="application/json")

    async def _clients(self, instance: str) -> list[dict[str, Any]]:
        members = directory_service_pb2.ListMembersRequest(instance=instance, page_size=1000)
        entries: list[dict[str, Any]] = []
        names = {}
        while True:
            page = await self._ask(directory_service_pb2_grpc.DirectoryServiceStub, "ListMembers", members)
            for member in page.members:
                names[member.name.partition("/")[2]] = member.display_name
                entries.append({"id": _member_id(member.id, "MEMBER"), "name": member.display_name})
            if not page.next_page_token:
                break
            members.page_token = page.next_page_token
        subsystems = directory_service_pb2.ListSubsystemsRequest(instance=instance, page_size=1000)
        while True:
            page = await self._ask(directory_service_pb2_grpc.DirectoryServiceStub, "ListSubsystems", subsystems)
            for subsystem in page.subsystems:
                owner = subsystem.name.partition("/")[2].rpartition("~")[0]
                shown = _member_id(subsystem.id.member, "SUBSYSTEM")
                shown["subsystem_code"] = subsystem.id.subsystem_code
                entries.append({"id": shown, "name": names.get(owner, ""), "subsystem_name": subsystem.display_name})
            if not page.next_page_token:
                return entries
            subsystems.page_token = page.next_page_token

    async def _ask(self, stub: Callable[..., Any], method: str, message: Any) -> Any:
        with self._exchange.faults():
            calling = getattr(self._exchange.stub(stub), method)
            return await calling(message, metadata=self._exchange.metadata(), timeout=LIST_SECONDS)


async def _send(stream: Stream, head: calls_pb2.CallRequestHead, request: web.Request, digest: RequestHash) -> None:
    if head.HasField("body_bytes") and head.body_bytes <= SMALL:
        head.body = await request.content.read(-1) if request.can_read_body else b""
        digest.update(head.body)
        await stream.write(calls_pb2.CallRequest(head=head))
    else:
        await stream.write(calls_pb2.CallRequest(head=head))
        async for chunk in _chunks(request):
            digest.update(chunk)
            await stream.write(calls_pb2.CallRequest(chunk=chunk))
        await stream.write(calls_pb2.CallRequest(end=calls_pb2.CallEnd()))
    await stream.done_writing()


async def _chunks(request: web.Request) -> AsyncIterator[bytes]:
    async for chunk in request.content.iter_any():
        for at in range(0, len(chunk), CHUNK):
            yield chunk[at : at + CHUNK]


async def _answer(
    request: web.Request, call: Call, stream: Stream, sending: asyncio.Task[None], digest: RequestHash
) -> web.StreamResponse:
    answers = stream.answers()
    head = await _began(answers, sending)
    exchange_id = head.exchange.partition("/")[2]
    response = web.StreamResponse(status=head.status, reason=head.reason_phrase or None)
    for field in head.headers:
        if not field.name.lower().startswith("x-road-") or field.name.lower() == "x-road-error":
            response.headers.add(field.name, field.value.decode("utf-8", "surrogateescape"))
    response.headers.update(
        {
            "x-road-id": head.message_id,
            "x-road-client": requests.spelt(call.client),
            "x-road-service": requests.spelt(call.service),
            "x-road-request-id": exchange_id,
            "x-road-request-hash": digest.value(call, exchange_id=exchange_id, message_id=head.message_id),
        }
    )
    if head.HasField("body_bytes"):
        response.content_length = head.body_bytes
    await response.prepare(request)
    if head.HasField("end"):
        await response.write(head.body)
    else:
        async for frame in answers:
            if frame.WhichOneof("frame") == "chunk":
                await response.write(frame.chunk)
    await response.write_eof()
    return response


async def _began(
    answers: AsyncIterator[calls_pb2.CallResponse], sending: asyncio.Task[None]
) -> calls_pb2.CallResponseHead:
    """How the answer begins, once the request is sent. Raises AioRpcError, the refusal where there is one."""
    first = await anext(answers, None)
    with contextlib.suppress(NotWantedError):
        await sending
        if first is not None:
            return first.head
    async for _ in answers:  # until it says why
        pass
    raise BadRequestError("the exchange gave no answer")


def _certificate(request: web.Request) -> str:
    """SHA-256 of the certificate with which the consumer opened its connection, as the edge verified it."""
    try:
        return xfcc.parse(*request.headers.getall(xfcc.HEADER, [])).sha256
    except xfcc.XfccError:
        raise BadRequestError("the connection has no client certificate") from None


def _service(service: services_pb2.Service) -> dict[str, Any]:
    identifier = service.id
    shown = _member_id(identifier.subsystem.member, "SERVICE")
    shown |= {
        "subsystem_code": identifier.subsystem.subsystem_code,
        "service_code": identifier.service_code,
        "service_type": "OPENAPI" if service.description_sha256 else "REST",
        "endpoint_list": [{"method": endpoint.method, "path": endpoint.path} for endpoint in service.endpoints],
    }
    if identifier.service_version:
        shown["service_version"] = identifier.service_version
    return shown


def _member_id(member: Any, kind: str) -> dict[str, Any]:
    return {
        "member_class": member.member_class,
        "member_code": member.member_code,
        "object_type": kind,
        "xroad_instance": member.instance,
    }


def _clients_xml(entries: list[Mapping[str, Any]] | list[dict[str, Any]]) -> bytes:
    """The list in PR-META's XML."""
    xroad, ids = "http://x-road.eu/xsd/xroad.xsd", "http://x-road.eu/xsd/identifiers"
    rows = []
    for entry in entries:
        shown = entry["id"]
        parts = [
            ("xRoadInstance", shown["xroad_instance"]),
            ("memberClass", shown["member_class"]),
            ("memberCode", shown["member_code"]),
        ]
        if "subsystem_code" in shown:
            parts.append(("subsystemCode", shown["subsystem_code"]))
        inner = "".join(f"<id:{name}>{escape(value)}</id:{name}>" for name, value in parts)
        rows.append(
            f'<xroad:member><xroad:id id:objectType="{shown["object_type"]}">{inner}</xroad:id>'
            f"<xroad:name>{escape(entry['name'])}</xroad:name></xroad:member>"
        )
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><xroad:clientList xmlns:xroad="{xroad}" xmlns:id="{ids}">'
        f"{''.join(rows)}</xroad:clientList>"
    ).encode()
