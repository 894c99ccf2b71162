"""X-Road's evidence download (ug-sigdoc, section 2): the containers of what a consumer's message id stands for.

    GET /asic?queryId=&xRoadInstance=&memberClass=&memberCode=&subsystemCode=
        [&requestOnly|responseOnly[&unique]][&force]

Each direction is a container of its own; several come as a ZIP file. With
`unique` there must be one. `force` takes those whose time stamp is still to
come, which are refused otherwise. Refusals are plain text.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from solmu.exchange.v1 import evidence_pb2, evidence_pb2_grpc, exchanges_pb2, exchanges_pb2_grpc
from solmu.exchange.v1.identifiers_pb2 import Requester

from gateway.adapters.xroad import requests
from gateway.adapters.xroad.errors import BadRequestError
from services.runtime.client import Peer
from services.runtime.errors import Fault

PATH = "/asic"
ASICE = "application/vnd.etsi.asic-e+zip"
SECONDS = 12.0
MOST = 100
"""Exchanges with one message id that are looked at."""

_PARAMETERS = ("xRoadInstance", "memberClass", "memberCode", "subsystemCode")
_STATUS = {"CONSUMER_NOT_REGISTERED": 401, "REQUESTER_INVALID": 401, "NAME_INVALID": 400, "RESOURCE_NOT_FOUND": 404}


class Evidence:
    """The handler. `certificate` reads the certificate of the consumer's connection."""

    def __init__(self, *, exchange: Peer, certificate: Callable[[web.Request], str]) -> None:
        self._exchange = exchange
        self._certificate = certificate

    async def download(self, request: web.Request) -> web.Response:
        """Containers of evidence."""
        try:
            return await self._found(request)
        except BadRequestError as error:
            return web.Response(status=400, text=str(error))
        except Fault as fault:
            return web.Response(status=_STATUS.get(fault.reason, 500), text=fault.message)

    async def _found(self, request: web.Request) -> web.Response:
        query = request.query
        if any(not query.get(name) for name in ("queryId", *_PARAMETERS)):
            raise BadRequestError("queryId, or a part of the subsystem's identifier, is missing")
        if "requestOnly" in query and "responseOnly" in query:
            raise BadRequestError("requestOnly and responseOnly exclude each other")
        if "unique" in query and "requestOnly" not in query and "responseOnly" not in query:
            raise BadRequestError("unique goes with requestOnly or responseOnly")
        requester = Requester(
            subsystem=requests.name_of("subsystems", [query[name] for name in _PARAMETERS]),
            certificate_sha256=self._certificate(request),
        )
        named = await self._statements(query["queryId"], requester, query)
        if not named:
            return web.Response(status=404, text="there is no such message")
        if "unique" in query:
            if len(named) != 1:
                return web.Response(status=400, text="the message is not unique")
            [(_, statement)] = named
            content = await self._container(statement, requester, force="force" in query)
            return web.Response(body=content, content_type=ASICE)
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            for name, statement in named:
                file.writestr(f"{name}.asice", await self._container(statement, requester, force="force" in query))
        return web.Response(body=archive.getvalue(), content_type="application/zip")

    async def _statements(self, message_id: str, requester: Requester, query: Any) -> list[tuple[str, str]]:
        """What to call each container, and the statement that it is of."""
        listed = await self._ask(
            exchanges_pb2_grpc.ExchangeServiceStub,
            "ListExchanges",
            exchanges_pb2.ListExchangesRequest(message_id=message_id, requester=requester, page_size=MOST),
        )
        named = {}
        for exchange in listed.exchanges:
            number = exchange.name.partition("/")[2]
            if exchange.request_statement and "responseOnly" not in query:
                named[exchange.request_statement] = f"request-{number}"
            if exchange.response_statement and "requestOnly" not in query:
                named[exchange.response_statement] = f"response-{number}"
        return [(name, statement) for statement, name in named.items()]

    async def _container(self, statement: str, requester: Requester, *, force: bool) -> bytes:
        message = evidence_pb2.ExportEvidenceRequest(name=statement, requester=requester, allow_pending=force)
        with self._exchange.faults():
            stub: Any = self._exchange.stub(evidence_pb2_grpc.EvidenceServiceStub)
            stream = stub.ExportEvidence(message, metadata=self._exchange.metadata(), timeout=SECONDS)
            return b"".join([part.data async for part in stream])

    async def _ask(self, stub: Callable[..., Any], method: str, message: Any) -> Any:
        with self._exchange.faults():
            calling: Callable[..., Awaitable[Any]] = getattr(self._exchange.stub(stub), method)
            return await calling(message, metadata=self._exchange.metadata(), timeout=SECONDS)
