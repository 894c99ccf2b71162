"""Services of the node itself, under codes that are reserved: what a subsystem provides, and its descriptions.

They are called like any other, signed and kept, and are open to every member
(services.proto). `own_service` says which codes there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from urllib.parse import parse_qs

from google.protobuf import json_format
from solmu.exchange.v1 import services_pb2

from services.exchange import configuration_store, descriptions, names
from services.exchange.access import Pattern
from services.exchange.backends import Answer, spoken
from services.exchange.configuration import Configuration, Service, Snapshot
from services.exchange.heads import RequestHead
from services.exchange.meshes import Meshes, utc_now
from services.exchange.policies import Policy
from services.runtime.database import Database

LIST_METHODS = "listMethods"
ALLOWED_METHODS = "allowedMethods"
GET_OPENAPI = "getOpenAPI"

_RESERVED = {LIST_METHODS, ALLOWED_METHODS, GET_OPENAPI}
_BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


def own_service(identifier: str) -> Service | None:
    """The service of the node itself that an identifier names; None where it is none."""
    if identifier[len(names.subsystem_of(identifier)) + 1 :] not in _RESERVED:
        return None
    content = services_pb2.Service(
        protocol=services_pb2.Service.PROTOCOL_HTTP, state=services_pb2.Service.STATE_ENABLED
    )
    return Service(identifier, content, "", _BEGINNING, _BEGINNING, 1)


class Metaservices:
    """Answers for the subsystems of this node."""

    def __init__(self, *, database: Database, configuration: Configuration, meshes: Meshes) -> None:
        self._database = database
        self._configuration = configuration
        self._meshes = meshes

    @asynccontextmanager
    async def call(
        self,
        service: Service,
        head: RequestHead,
        body: AsyncIterator[bytes] | bytes,
        length: int | None,  # noqa: ARG002  # of a body that is not wanted
        policy: Policy,  # noqa: ARG002  # as with a backend
    ) -> AsyncIterator[Answer]:
        """Answers GET, as a backend would."""
        if not isinstance(body, bytes):
            async for _ in body:
                pass
        subsystem = names.subsystem_of(service.identifier)
        code = service.identifier[len(subsystem) + 1 :]
        consumer = next((value.decode() for name, value in head.headers if name == "X-Road-Client"), "")
        if head.method != "GET":
            yield spoken(405, b"", "text/plain", (("Allow", b"GET"),))
        elif code == GET_OPENAPI:
            yield await self._description(subsystem, head.target)
        else:
            listed = self.services(subsystem, consumer=consumer if code == ALLOWED_METHODS else "")
            content = json_format.MessageToJson(listed, indent=None, ensure_ascii=False)
            yield spoken(200, content.encode(), "application/json")

    def services(self, subsystem: str, *, consumer: str = "") -> services_pb2.ListServicesResponse:
        """The services of a subsystem, as other members see them; of a consumer, those that it may call."""
        current = self._configuration.current
        response = services_pb2.ListServicesResponse()
        for service in current.services_of(subsystem):
            if not consumer:
                response.services.append(public(service))
            elif (shown := self._allowed(current, service, consumer)) is not None:
                response.services.append(shown)
        return response

    async def description(self, identifier: str) -> bytes | None:
        """A service's description as other members see it, JSON; None where it has none."""
        row = await configuration_store.service(self._database, identifier)
        if row is None or row["description"] is None:
            return None
        return await asyncio.to_thread(lambda: descriptions.public(descriptions.read(row["description"])))

    async def _description(self, subsystem: str, target: bytes) -> Answer:
        codes = parse_qs(target.partition(b"?")[2].decode("ascii")).get("serviceCode", [])
        found = await self.description(f"{subsystem}/{codes[0].replace('~', '/')}") if len(codes) == 1 else None
        if found is None:
            return spoken(404, b"", "text/plain")
        return spoken(200, found, "application/json")

    def _allowed(self, current: Snapshot, service: Service, consumer: str) -> services_pb2.Service | None:
        """What a consumer may call of a service: the endpoints that some right of its allows."""
        groups, now = self._meshes.groups(consumer), utc_now()
        rights = [
            right
            for right in current.rights.get(f"services {service.identifier}", ())
            if right.held_by(consumer, groups, now=now)
        ]
        if not rights or service.disabled:
            return None
        shown = public(service)
        if all(right.patterns for right in rights):
            patterns = {pattern for right in rights for pattern in right.patterns}
            described = {Pattern(endpoint.method, endpoint.path): endpoint for endpoint in shown.endpoints}
            allowed = [endpoint for pattern, endpoint in described.items() if _covered(pattern, patterns)]
            bare = [
                services_pb2.Service.Endpoint(method=pattern.method, path=pattern.path)
                for pattern in sorted(patterns - described.keys(), key=lambda pattern: (pattern.path, pattern.method))
            ]
            del shown.endpoints[:]
            shown.endpoints.extend(allowed or bare)
        return shown


def public(service: Service) -> services_pb2.Service:
    """A service as other members see it: nothing of the provider's network, and not by which policy."""
    shown = view(service)
    shown.ClearField("backend")
    shown.ClearField("policy")
    shown.ClearField("etag")
    return shown


def view(service: Service) -> services_pb2.Service:
    """A service as its provider sees it."""
    shown = services_pb2.Service()
    shown.CopyFrom(service.content)
    shown.name = names.service_resource(service.identifier)
    shown.id.CopyFrom(names.service_id(service.identifier))
    if not shown.protocol:
        shown.protocol = services_pb2.Service.PROTOCOL_HTTP
    if not shown.state:
        shown.state = services_pb2.Service.STATE_ENABLED
    shown.description_sha256 = service.description_sha256
    shown.create_time.FromDatetime(service.create_time)
    shown.update_time.FromDatetime(service.update_time)
    shown.etag = str(service.revision)
    return shown


def _covered(endpoint: Pattern, patterns: set[Pattern]) -> bool:
    """Whether some pattern allows all calls of an endpoint."""
    segments = tuple(endpoint.path[1:].split("/"))
    return endpoint in patterns or any(pattern.allows(endpoint.method, segments) for pattern in patterns)
