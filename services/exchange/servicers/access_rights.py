"""AccessRightService."""

from __future__ import annotations

from uuid import UUID

from solmu.exchange.v1 import access_rights_pb2

from services.exchange import access, configuration_store, names
from services.exchange.access import Pattern
from services.exchange.configuration import Configuration, parent_of, right_name
from services.exchange.meshes import Meshes, utc_now
from services.runtime import identity, pages
from services.runtime.database import Database, Row
from services.runtime.errors import Aborted, FailedPrecondition, Fault, InvalidArgument, not_found
from services.runtime.ids import new_id

DEFAULT_SIZE = 100


class AccessRights:
    """Gives and takes the rights to what this node's subsystems provide."""

    def __init__(self, *, database: Database, configuration: Configuration, meshes: Meshes) -> None:
        self._database = database
        self._configuration = configuration
        self._meshes = meshes

    async def CreateAccessRight(
        self, request: access_rights_pb2.CreateAccessRightRequest
    ) -> access_rights_pb2.AccessRight:
        """Gives a right."""
        parent = await self._parent(request.parent)
        right = access_rights_pb2.AccessRight()
        right.CopyFrom(request.access_right)
        for field in ("name", "create_time", "creator"):
            right.ClearField(field)
        self._check(parent, right)
        async with configuration_store.changing(self._database) as transaction:
            row = await configuration_store.insert_right(
                transaction,
                right_id=new_id(),
                parent=parent,
                content=right.SerializeToString(deterministic=True),
                creator=identity.caller().client,
            )
        await self._configuration.load()
        return _view(row)

    async def ListAccessRights(
        self, request: access_rights_pb2.ListAccessRightsRequest
    ) -> access_rights_pb2.ListAccessRightsResponse:
        """The rights to something, latest first."""
        parent = await self._parent(request.parent)
        size, before = pages.size(request.page_size, DEFAULT_SIZE), pages.key(request.page_token, question=parent)
        rows = [row for row in reversed(self._configuration.current.right_rows) if row["parent"] == parent]
        rows = [row for row in rows if not before or str(row["access_right_id"]) < before]
        response = access_rights_pb2.ListAccessRightsResponse(access_rights=[_view(row) for row in rows[:size]])
        if len(rows) > size:
            response.next_page_token = pages.token(str(rows[size - 1]["access_right_id"]), question=parent)
        return response

    async def DeleteAccessRight(
        self, request: access_rights_pb2.DeleteAccessRightRequest
    ) -> access_rights_pb2.AccessRight:
        """Takes a right back."""
        async with configuration_store.changing(self._database) as transaction:
            row = await configuration_store.delete_right(
                transaction, UUID(request.name.rpartition("/")[2]), parent=parent_of(request.name)
            )
        if row is None:
            raise not_found(request.name)
        await self._configuration.load()
        return _view(row)

    async def CheckAccess(self, request: access_rights_pb2.CheckAccessRequest) -> access_rights_pb2.CheckAccessResponse:
        """Judges a call as the node would."""
        parent = await self._parent(request.name)
        subsystem = names.identifier(request.subsystem, 4)
        try:
            right = access.judge(
                self._configuration.current.rights.get(parent, ()),
                subsystem=subsystem,
                groups=self._meshes.groups(subsystem),
                method=request.method,
                path=request.path.encode("utf-8"),
                now=utc_now(),
            )
        except Fault as fault:
            return access_rights_pb2.CheckAccessResponse(reason=fault.reason)
        return access_rights_pb2.CheckAccessResponse(allowed=True, access_right=right.name)

    async def SetLocalGroup(self, request: access_rights_pb2.SetLocalGroupRequest) -> access_rights_pb2.LocalGroup:
        """Sets a local group."""
        subsystem, code = self._group(request.local_group.name)
        current = (await self._configuration.load()).groups.get((subsystem, code))
        if request.local_group.etag and (current is None or str(current[1]) != request.local_group.etag):
            raise Aborted("ETAG_MISMATCH", "the group has changed since it was read")
        for member in request.local_group.subsystems:
            names.identifier(member, 4)
        group = access_rights_pb2.LocalGroup()
        group.CopyFrom(request.local_group)
        group.ClearField("etag")
        async with configuration_store.changing(self._database) as transaction:
            revision = await configuration_store.set_group(transaction, subsystem, code, group.SerializeToString())
        await self._configuration.load()
        group.etag = str(revision)
        return group

    async def ListLocalGroups(
        self, request: access_rights_pb2.ListLocalGroupsRequest
    ) -> access_rights_pb2.ListLocalGroupsResponse:
        """The local groups of a subsystem, by name."""
        subsystem = self._hosted(request.parent)
        size, after = pages.size(request.page_size), pages.key(request.page_token, question=subsystem)
        current = await self._configuration.load()
        found = [
            (code, group, revision)
            for (owner, code), (group, revision) in sorted(current.groups.items())
            if owner == subsystem and code > after
        ]
        response = access_rights_pb2.ListLocalGroupsResponse()
        for _, group, revision in found[:size]:
            shown = response.local_groups.add()
            shown.CopyFrom(group)
            shown.etag = str(revision)
        if len(found) > size:
            response.next_page_token = pages.token(found[size - 1][0], question=subsystem)
        return response

    async def DeleteLocalGroup(
        self, request: access_rights_pb2.DeleteLocalGroupRequest
    ) -> access_rights_pb2.LocalGroup:
        """Deletes a local group, and the rights given to it."""
        subsystem, code = self._group(request.name)
        current = await self._configuration.load()
        if (subsystem, code) not in current.groups:
            raise not_found(request.name)
        async with configuration_store.changing(self._database) as transaction:
            await configuration_store.delete_group(transaction, subsystem, code)
            for row in current.right_rows:
                right = access_rights_pb2.AccessRight.FromString(row["content"])
                if right.local_group == request.name:
                    await configuration_store.delete_right(transaction, row["access_right_id"], parent=row["parent"])
        await self._configuration.load()
        return current.groups[subsystem, code][0]

    async def _parent(self, name: str) -> str:
        self._hosted(name)
        parent = parent_of(name)
        kind, _, identifier = parent.partition(" ")
        if kind == "services" and identifier not in (await self._configuration.load()).services:
            raise not_found(name)
        return parent

    def _hosted(self, name: str) -> str:
        subsystem = names.identifier(name, 4)
        if not self._meshes.hosts(subsystem):
            raise FailedPrecondition(
                "SUBSYSTEM_NOT_HOSTED", "this node does not serve the subsystem", subsystem=subsystem
            )
        return subsystem

    def _group(self, name: str) -> tuple[str, str]:
        return self._hosted(name), name.rpartition("/")[2]

    def _check(self, parent: str, right: access_rights_pb2.AccessRight) -> None:
        kind, _, identifier = parent.partition(" ")
        if kind != "services" and (right.patterns or right.operation_ids):
            raise InvalidArgument(
                "PATTERN_INVALID", "a right to a topic or an inbox has no patterns", field="access_right.patterns"
            )
        for pattern in right.patterns:
            access.check_pattern(Pattern(pattern.method, pattern.path))
        if right.operation_ids:
            operations = self._configuration.current.services[identifier].operations()
            if any(one not in operations for one in right.operation_ids):
                raise InvalidArgument(
                    "PATTERN_INVALID",
                    "the description has no operation of this id",
                    field="access_right.operation_ids",
                )
        if right.HasField("local_group"):
            parts = right.local_group.split("/")
            owner = names.subsystem_of(identifier)
            if parts[1].replace("~", "/") != owner or (owner, parts[3]) not in self._configuration.current.groups:
                raise not_found(right.local_group)
        if right.HasField("subsystem"):
            names.identifier(right.subsystem, 4)


def _view(row: Row) -> access_rights_pb2.AccessRight:
    right = access_rights_pb2.AccessRight.FromString(row["content"])
    right.name = right_name(row)
    right.create_time.FromDatetime(row["create_time"])
    right.creator = row["creator"]
    return right
