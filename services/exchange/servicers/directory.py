"""DirectoryService: the node's own copies, whether their publishers can be reached or not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from google.protobuf.message import Message
from solmu.exchange.v1 import directory_pb2, directory_service_pb2

from services.exchange import names
from services.exchange.evidence import identifiers
from services.exchange.meshes import Mesh, Meshes, utc_now, view
from services.runtime import pages
from services.runtime.errors import Fault, not_found

M = TypeVar("M", bound=Message)

DEFAULT_SIZE = 100
"""Entries on a page where the caller does not say (directory_service.proto)."""


class Directories:
    """Reads the directories that this node has verified."""

    def __init__(self, *, meshes: Meshes) -> None:
        self._meshes = meshes

    async def GetDirectory(self, request: directory_service_pb2.GetDirectoryRequest) -> directory_pb2.Directory:
        """How a directory stands."""
        return view(self._mesh(request.name), now=utc_now())

    async def ListDirectories(
        self, request: directory_service_pb2.ListDirectoriesRequest
    ) -> directory_service_pb2.ListDirectoriesResponse:
        """All directories, the node's own mesh first."""
        shown = [view(mesh, now=utc_now()) for mesh in self._meshes.all()]
        found, token = page(
            [("" if one.own else one.name, one) for one in shown], request.page_size, request.page_token, default=50
        )
        return directory_service_pb2.ListDirectoriesResponse(directories=found, next_page_token=token)

    async def GetMember(self, request: directory_service_pb2.GetMemberRequest) -> directory_pb2.Member:
        """A member."""
        identifier = names.identifier(request.name, 3)
        found = self._entry(request.name, identifier, "members")
        assert isinstance(found, directory_pb2.Member)
        return _named(found, request.name)

    async def ListMembers(
        self, request: directory_service_pb2.ListMembersRequest
    ) -> directory_service_pb2.ListMembersResponse:
        """Members of a mesh, or of all."""
        shown = [
            (identifier, _named(member, names.resource("members", identifier)))
            for mesh in self._listed(request.instance)
            if mesh.directory is not None
            for identifier, member in mesh.directory.members.items()
        ]
        found, token = page(shown, request.page_size, request.page_token, question=request.instance)
        return directory_service_pb2.ListMembersResponse(members=found, next_page_token=token)

    async def GetSubsystem(self, request: directory_service_pb2.GetSubsystemRequest) -> directory_pb2.Subsystem:
        """A subsystem."""
        identifier = names.identifier(request.name, 4)
        found = self._entry(request.name, identifier, "subsystems")
        assert isinstance(found, directory_pb2.Subsystem)
        return self._subsystem(identifier, found)

    async def ListSubsystems(
        self, request: directory_service_pb2.ListSubsystemsRequest
    ) -> directory_service_pb2.ListSubsystemsResponse:
        """Subsystems of all members, or of one."""
        member = names.identifier(request.member, 3) if request.member else ""
        shown = [
            (identifier, self._subsystem(identifier, subsystem))
            for mesh in self._listed(request.instance)
            if mesh.directory is not None
            for identifier, subsystem in mesh.directory.subsystems.items()
            if not member or names.member_of(identifier) == member
            if not request.hosted_only or self._meshes.hosts(identifier)
        ]
        question = f"{request.instance} {member} {request.hosted_only}"
        found, token = page(shown, request.page_size, request.page_token, question=question)
        return directory_service_pb2.ListSubsystemsResponse(subsystems=found, next_page_token=token)

    async def GetNode(self, request: directory_service_pb2.GetNodeRequest) -> directory_pb2.Node:
        """A node."""
        identifier = names.identifier(request.name, 4)
        found = self._entry(request.name, identifier, "nodes")
        assert isinstance(found, directory_pb2.Node)
        return self._node(identifier, found)

    async def ListNodes(
        self, request: directory_service_pb2.ListNodesRequest
    ) -> directory_service_pb2.ListNodesResponse:
        """Nodes of all members, or of one."""
        member = names.identifier(request.member, 3) if request.member else ""
        shown = [
            (identifier, self._node(identifier, node))
            for mesh in self._meshes.all()
            if mesh.directory is not None
            for identifier, node in mesh.directory.nodes.items()
            if not member or names.member_of(identifier) == member
        ]
        found, token = page(shown, request.page_size, request.page_token, question=member)
        return directory_service_pb2.ListNodesResponse(nodes=found, next_page_token=token)

    async def ListGlobalGroups(
        self, request: directory_service_pb2.ListGlobalGroupsRequest
    ) -> directory_service_pb2.ListGlobalGroupsResponse:
        """The global groups of a mesh."""
        directory = self._meshes.directory(self._mesh(request.parent).instance)
        shown = [
            (identifier, _named(group, f"{request.parent}/globalGroups/{identifier.partition('/')[2]}"))
            for identifier, group in directory.groups.items()
        ]
        found, token = page(shown, request.page_size, request.page_token, question=request.parent, default=50)
        return directory_service_pb2.ListGlobalGroupsResponse(global_groups=found, next_page_token=token)

    async def ListTrustServices(
        self, request: directory_service_pb2.ListTrustServicesRequest
    ) -> directory_service_pb2.ListTrustServicesResponse:
        """The authorities that a mesh recognises."""
        directory = self._meshes.directory(self._mesh(request.parent).instance)
        shown = [
            (service.service_code, _named(service, f"{request.parent}/trustServices/{service.service_code}"))
            for service in directory.document.trust_services
        ]
        found, token = page(shown, request.page_size, request.page_token, question=request.parent, default=50)
        return directory_service_pb2.ListTrustServicesResponse(trust_services=found, next_page_token=token)

    def _mesh(self, name: str) -> Mesh:
        instance = identifiers.decode(name.split("/")[1])
        for mesh in self._meshes.all():
            if mesh.instance == instance:
                return mesh
        raise not_found(name)

    def _entry(self, name: str, identifier: str, kind: str) -> Message:
        try:
            found: Message | None = getattr(self._meshes.directory_of(identifier), kind).get(identifier)
        except Fault:
            found = None
        if found is None:
            raise not_found(name)
        return found

    def _listed(self, instance: str) -> list[Mesh]:
        return [mesh for mesh in self._meshes.all() if instance in {"", mesh.instance}]

    def _subsystem(self, identifier: str, subsystem: directory_pb2.Subsystem) -> directory_pb2.Subsystem:
        shown = _named(subsystem, names.resource("subsystems", identifier))
        shown.hosted = self._meshes.hosts(identifier)
        return shown

    def _node(self, identifier: str, node: directory_pb2.Node) -> directory_pb2.Node:
        shown = _named(node, names.resource("nodes", identifier))
        shown.own = self._meshes.node == identifier
        return shown


def page(
    entries: Iterable[tuple[str, M]], size: int, token: str, *, question: str = "", default: int = DEFAULT_SIZE
) -> tuple[Sequence[M], str]:
    """A page of entries in the order of their keys, and the token of the next."""
    asked, after = pages.size(size, default), pages.key(token, question=question)
    rest = sorted((entry for entry in entries if not after or entry[0] > after), key=lambda entry: entry[0])
    following = pages.token(rest[asked - 1][0], question=question) if len(rest) > asked else ""
    return [message for _, message in rest[:asked]], following


def _named(entry: M, name: str) -> M:
    shown = type(entry)()
    shown.CopyFrom(entry)
    shown.name = name  # type: ignore[attr-defined]  # every entry has one
    return shown
