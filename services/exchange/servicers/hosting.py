"""HostingService: what this node has to know of its subsystems, and whether it serves now."""

from __future__ import annotations

from collections.abc import Callable

from solmu.exchange.v1 import hosting_pb2

from services.exchange import configuration_store, names
from services.exchange.configuration import Configuration
from services.exchange.meshes import Meshes
from services.exchange.servicers.masks import check_etag, merge
from services.runtime.database import Database
from services.runtime.errors import FailedPrecondition, not_found

HOSTING = ("clients", "certificates", "policy", "disabled")
MAINTENANCE = ("active", "notice", "expected_end_time")


class HostingServicer:
    """Keeps the settings of subsystems, and maintenance."""

    def __init__(
        self, *, database: Database, configuration: Configuration, meshes: Meshes, under_way: Callable[[], int]
    ) -> None:
        self._database = database
        self._configuration = configuration
        self._meshes = meshes
        self._under_way = under_way

    async def GetHosting(self, request: hosting_pb2.GetHostingRequest) -> hosting_pb2.Hosting:
        """A subsystem's settings."""
        await self._configuration.load()
        return self._view(self._hosted(request.name))

    async def UpdateHosting(self, request: hosting_pb2.UpdateHostingRequest) -> hosting_pb2.Hosting:
        """Changes a subsystem's settings."""
        subsystem = self._hosted(request.hosting.name)
        current = (await self._configuration.load()).hosting(subsystem)
        check_etag(request.hosting.etag, current.revision)
        content = hosting_pb2.Hosting()
        content.CopyFrom(current.content)
        merge(content, request.hosting, request.update_mask, changeable=HOSTING)
        if content.policy and content.policy.rpartition("/")[2] not in self._configuration.current.policies:
            raise not_found(content.policy)
        async with configuration_store.changing(self._database) as transaction:
            await configuration_store.set_hosting(transaction, subsystem, content.SerializeToString())
        await self._configuration.load()
        return self._view(subsystem)

    async def GetMaintenance(self, _: hosting_pb2.GetMaintenanceRequest) -> hosting_pb2.Maintenance:
        """Whether this node is in maintenance."""
        await self._configuration.load()
        return self._maintenance()

    async def UpdateMaintenance(self, request: hosting_pb2.UpdateMaintenanceRequest) -> hosting_pb2.Maintenance:
        """Takes this node into maintenance, or out of it."""
        content = hosting_pb2.Maintenance()
        content.CopyFrom((await self._configuration.load()).maintenance)
        merge(content, request.maintenance, request.update_mask, changeable=MAINTENANCE)
        async with configuration_store.changing(self._database) as transaction:
            await configuration_store.set_maintenance(transaction, content.SerializeToString())
        await self._configuration.load()
        return self._maintenance()

    def _maintenance(self) -> hosting_pb2.Maintenance:
        shown = hosting_pb2.Maintenance()
        shown.CopyFrom(self._configuration.current.maintenance)
        shown.name = "nodes/-/maintenance"
        shown.calls_under_way = self._under_way()
        return shown

    def _view(self, subsystem: str) -> hosting_pb2.Hosting:
        hosting = self._configuration.current.hosting(subsystem)
        shown = hosting_pb2.Hosting()
        shown.CopyFrom(hosting.content)
        shown.name = f"{names.resource('subsystems', subsystem)}/hosting"
        shown.etag = str(hosting.revision)
        return shown

    def _hosted(self, name: str) -> str:
        subsystem = names.identifier(name, 4)
        if not self._meshes.hosts(subsystem):
            raise FailedPrecondition(
                "SUBSYSTEM_NOT_HOSTED", "this node does not serve the subsystem", subsystem=subsystem
            )
        return subsystem
