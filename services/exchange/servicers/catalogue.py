"""CatalogueService: services, and their descriptions."""

from __future__ import annotations

import asyncio
from urllib.parse import quote, urlsplit
from uuid import UUID

from google.api.httpbody_pb2 import HttpBody
from google.protobuf import json_format
from google.protobuf.field_mask_pb2 import FieldMask
from solmu.exchange.v1 import access_rights_pb2, services_pb2
from solmu.exchange.v1.identifiers_pb2 import Requester

from services.exchange import configuration_store, descriptions, names
from services.exchange.backends import collected
from services.exchange.bodies import IN_MEMORY
from services.exchange.calling import Call, Calling
from services.exchange.configuration import Configuration, Service, Snapshot
from services.exchange.evidence import identifiers
from services.exchange.heads import RequestHead
from services.exchange.mandates import MANDATES
from services.exchange.meshes import Meshes
from services.exchange.metaservices import ALLOWED_METHODS, GET_OPENAPI, LIST_METHODS, Metaservices, view
from services.exchange.requesters import Requesters
from services.exchange.servicers.directory import page
from services.exchange.servicers.masks import check_etag, merge
from services.runtime.database import Database
from services.runtime.errors import (
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    Unavailable,
    not_found,
)

CHANGEABLE = ("display_name", "protocol", "backend", "state", "notice", "policy")


class Catalogue:
    """Keeps the services of this node's subsystems, and reads those of any other."""

    def __init__(
        self,
        *,
        database: Database,
        configuration: Configuration,
        meshes: Meshes,
        metaservices: Metaservices,
        calling: Calling,
        requesters: Requesters,
    ) -> None:
        self._database = database
        self._configuration = configuration
        self._meshes = meshes
        self._metaservices = metaservices
        self._calling = calling
        self._requesters = requesters

    async def CreateService(self, request: services_pb2.CreateServiceRequest) -> services_pb2.Service:
        """Makes a service."""
        subsystem = self._hosted(request.parent)
        code = identifiers.encode(request.service_code)
        version = f"/{identifiers.encode(request.service_version)}" if request.service_version else ""
        identifier = f"{subsystem}/{code}{version}"
        content = services_pb2.Service()
        merge(content, request.service, FieldMask(), changeable=CHANGEABLE)
        await self._check(identifier, content)
        request_id = UUID(request.request_id) if request.request_id else None
        async with configuration_store.changing(self._database) as transaction:
            made = await configuration_store.insert_service(
                transaction, identifier, content.SerializeToString(), request_id=request_id
            )
            before = await configuration_store.service_of_request(transaction, request_id) if request_id else None
        if not made and before != identifier:
            raise AlreadyExists(
                "RESOURCE_EXISTS", "there is a service of this name", resource=names.service_resource(identifier)
            )
        return view(await self._own(identifier))

    async def GetService(self, request: services_pb2.GetServiceRequest) -> services_pb2.Service:
        """A service, of this node or of another member."""
        identifier = names.service(request.name)
        if self._meshes.hosts(names.subsystem_of(identifier)):
            return view(await self._own(identifier))
        listed = await self._listed(names.subsystem_of(identifier), request.requester, LIST_METHODS)
        for service in listed.services:
            if service.name == request.name:
                return service
        raise not_found(request.name)

    async def ListServices(self, request: services_pb2.ListServicesRequest) -> services_pb2.ListServicesResponse:
        """The services of a subsystem, by name; with `allowed_only` those that the requester may call."""
        subsystem = names.identifier(request.parent, 4)
        if not self._meshes.hosts(subsystem):
            code = ALLOWED_METHODS if request.allowed_only else LIST_METHODS
            services = list((await self._listed(subsystem, request.requester, code)).services)
        elif request.allowed_only:
            await self._configuration.load()
            consumer = self._requesters.one(request.requester)
            services = list(self._metaservices.services(subsystem, consumer=consumer).services)
        else:
            services = [view(service) for service in (await self._configuration.load()).services_of(subsystem)]
        question = f"{request.parent} {request.allowed_only}"
        found, token = page(
            [(service.name, service) for service in services], request.page_size, request.page_token, question=question
        )
        return services_pb2.ListServicesResponse(services=found, next_page_token=token)

    async def UpdateService(self, request: services_pb2.UpdateServiceRequest) -> services_pb2.Service:
        """Changes a service."""
        current = await self._own(names.service(request.service.name))
        check_etag(request.service.etag, current.revision)
        content = services_pb2.Service()
        content.CopyFrom(current.content)
        merge(content, request.service, request.update_mask, changeable=CHANGEABLE)
        await self._check(current.identifier, content)
        async with configuration_store.changing(self._database) as transaction:
            await configuration_store.set_service(transaction, current.identifier, content.SerializeToString())
        return view(await self._own(current.identifier))

    async def DeleteService(self, request: services_pb2.DeleteServiceRequest) -> services_pb2.Service:
        """Deletes a service with its description and rights."""
        current = await self._own(names.service(request.name))
        check_etag(request.etag, current.revision)
        async with configuration_store.changing(self._database) as transaction:
            await configuration_store.delete_service(transaction, current.identifier)
        await self._configuration.load()
        return view(current)

    async def SetServiceDescription(self, request: services_pb2.SetServiceDescriptionRequest) -> services_pb2.Service:
        """Sets a service's description; its operations become the service's endpoints."""
        current = await self._own(names.service(request.name))
        document = await asyncio.to_thread(descriptions.read, request.content.data)
        content = services_pb2.Service()
        content.CopyFrom(current.content)
        del content.endpoints[:]
        content.endpoints.extend(descriptions.endpoints(document))
        gone = current.operations().keys() - {endpoint.operation_id for endpoint in content.endpoints}
        affected = _affected(self._configuration.current, current, gone)
        if affected and not request.allow_ending_rights:
            raise FailedPrecondition(
                "ACCESS_RIGHTS_AFFECTED", "the change would end access rights", count=str(len(affected))
            )
        async with configuration_store.changing(self._database) as transaction:
            await configuration_store.set_description(
                transaction,
                current.identifier,
                content.SerializeToString(),
                description=request.content.data,
                media_type=request.content.content_type,
            )
            for right_id, right in affected:
                kept = [one for one in right.operation_ids if one not in gone]
                del right.operation_ids[:]
                right.operation_ids.extend(kept)
                if kept or right.patterns:
                    await configuration_store.set_right(transaction, right_id, right.SerializeToString())
                else:
                    await configuration_store.delete_right(
                        transaction, right_id, parent=f"services {current.identifier}"
                    )
        return view(await self._own(current.identifier))

    async def GetServiceDescription(self, request: services_pb2.GetServiceDescriptionRequest) -> HttpBody:
        """A service's description, JSON."""
        identifier = names.service(request.name)
        subsystem = names.subsystem_of(identifier)
        if self._meshes.hosts(subsystem):
            found = await self._metaservices.description(identifier)
        else:
            code = identifier[len(subsystem) + 1 :].replace("/", "~")
            target = f"/?serviceCode={quote(code, safe='~')}".encode("ascii")
            found = await self._ask(subsystem, request.requester, GET_OPENAPI, target)
        if found is None:
            raise not_found(request.name)
        return HttpBody(content_type="application/json", data=found)

    async def _listed(self, subsystem: str, requester: Requester, code: str) -> services_pb2.ListServicesResponse:
        """The services of another member's subsystem, asked of its node."""
        content = await self._ask(subsystem, requester, code, b"/")
        try:
            return json_format.Parse(content or b"{}", services_pb2.ListServicesResponse(), ignore_unknown_fields=True)
        except json_format.ParseError:
            raise DataLoss("BACKEND_RESPONSE_INVALID", "the other node's list cannot be read") from None

    async def _ask(self, subsystem: str, requester: Requester, code: str, target: bytes) -> bytes | None:
        """What another node answers under a reserved code; None where it has nothing."""
        call = Call(
            consumer=self._requesters.one(requester),
            service=f"{subsystem}/{code}",
            head=RequestHead("GET", target, (("Accept", b"application/json"),)),
            body=b"",
            length=0,
        )
        async with self._calling.call(call) as reply:
            content = await collected(reply.chunks, most=4 * IN_MEMORY)
        if reply.head.status == 404:
            return None
        if reply.head.status != 200:
            raise Unavailable("BACKEND_RESPONSE_INVALID", "the other node does not answer this")
        return content

    async def _own(self, identifier: str) -> Service:
        found = (await self._configuration.load()).services.get(identifier)
        if found is None or not self._meshes.hosts(names.subsystem_of(identifier)):
            raise not_found(names.service_resource(identifier))
        return found

    def _hosted(self, name: str) -> str:
        subsystem = names.identifier(name, 4)
        if not self._meshes.hosts(subsystem):
            raise FailedPrecondition(
                "SUBSYSTEM_NOT_HOSTED", "this node does not serve the subsystem", subsystem=subsystem
            )
        return subsystem

    async def _check(self, identifier: str, content: services_pb2.Service) -> None:
        policies = (await self._configuration.load()).policies
        if content.policy and content.policy.rpartition("/")[2] not in policies:
            raise not_found(content.policy)
        if names.reserved(identifier):
            _check_own(identifier, content)
            return
        uri = content.backend.uri
        if not uri or "@" in uri.partition("://")[2].partition("/")[0] or "?" in uri or "#" in uri or not uri.isascii():
            raise InvalidArgument(
                "FIELD_INVALID",
                "a service needs the address of its backend",
                violations=[("service.backend.uri", "is empty, or has a user, a query or a fragment")],
            )
        if content.protocol == services_pb2.Service.PROTOCOL_GRPC and urlsplit(uri).path not in {"", "/"}:
            raise InvalidArgument(
                "FIELD_INVALID",
                "methods of gRPC have no path before them",
                violations=[("service.backend.uri", "has a path")],
            )


def _check_own(identifier: str, content: services_pb2.Service) -> None:
    """Raises InvalidArgument, FIELD_INVALID, for what is no service of the node itself."""
    if identifier.rpartition("/")[2] != MANDATES:
        raise InvalidArgument(
            "FIELD_INVALID",
            "the node has no such service of its own",
            violations=[("service_code", f"is not {MANDATES}")],
        )
    if content.HasField("backend"):
        raise InvalidArgument(
            "FIELD_INVALID",
            "the node answers for itself",
            violations=[("service.backend", "is set, for a service of the node itself")],
        )


def _affected(current: Snapshot, service: Service, gone: set[str]) -> list[tuple[UUID, access_rights_pb2.AccessRight]]:
    """The rights to operations that are gone."""
    found = []
    for row in current.right_rows:
        if row["parent"] == f"services {service.identifier}":
            right = access_rights_pb2.AccessRight.FromString(row["content"])
            if gone & set(right.operation_ids):
                found.append((row["access_right_id"], right))
    return found
