"""The parts of the exchange, put together: what the process serves inside the node, and to other nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from types import ModuleType
from typing import Any

from solmu.exchange.v1 import (
    access_rights_pb2,
    calls_pb2,
    directory_pb2,
    directory_service_pb2,
    evidence_log_pb2,
    evidence_pb2,
    exchanges_pb2,
    hosting_pb2,
    keys_pb2,
    mandates_pb2,
    mesh_pb2,
    monitoring_pb2,
    peer_pb2,
    policies_pb2,
    publishing_pb2,
    services_pb2,
)

from services.exchange import keys, names
from services.exchange.backends import Backends
from services.exchange.backlog import Backlogs
from services.exchange.calling import Calling
from services.exchange.configuration import Configuration, Service
from services.exchange.envelope_assembly import EnvelopeParts
from services.exchange.evidence_assembly import EvidenceParts
from services.exchange.grpc_backends import GrpcBackends
from services.exchange.journal import Journal
from services.exchange.keys import KeyRing, KeyToken
from services.exchange.mandates import Checks, MandateBook, Mandates
from services.exchange.meshes import Meshes
from services.exchange.metaservices import Metaservices, own_service
from services.exchange.peer_listener import PeerListener
from services.exchange.peers import Peers
from services.exchange.providing import Backend, Providing
from services.exchange.proving import Proving
from services.exchange.publishing import Publisher
from services.exchange.refreshing import Refresher
from services.exchange.requesters import Requesters
from services.exchange.servicers.access_rights import AccessRights
from services.exchange.servicers.calls import Calls
from services.exchange.servicers.catalogue import Catalogue
from services.exchange.servicers.directory import Directories
from services.exchange.servicers.exchanges import Exchanges, Monitoring
from services.exchange.servicers.grpc_calls import GrpcCalls
from services.exchange.servicers.hosting import HostingServicer
from services.exchange.servicers.keys import OrganisationKeys
from services.exchange.servicers.mandates import MandateServicer
from services.exchange.servicers.mesh import MeshServicer
from services.exchange.servicers.peer_calls import PeerCalls
from services.exchange.servicers.peer_directory import PeerDirectory
from services.exchange.servicers.policies import Policies
from services.exchange.servicers.publisher import PublisherServicer
from services.runtime.config import Address
from services.runtime.database import Database
from services.runtime.outbox import Outbox
from services.runtime.sealing import Vault
from services.runtime.telemetry import Telemetry


class Exchange:
    """The exchange of one process. `peer_listen` is where other nodes reach it, `checks` says what mandates allow."""

    def __init__(
        self,
        *,
        database: Database,
        outbox: Outbox | None,
        vault: Vault,
        telemetry: Telemetry,
        peer_listen: Address | None,
        checks: Checks,
        test_mode: bool = False,
        tokens: Mapping[str, KeyToken] | None = None,
        revoked: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self.ring = KeyRing(database=database, vault=vault, tokens=tokens)
        self.meshes = Meshes(database=database, outbox=outbox)
        self.configuration = Configuration(database=database)
        self.peers = Peers(ring=self.ring, meshes=self.meshes, telemetry=telemetry)
        self.evidence = EvidenceParts(
            database=database,
            outbox=outbox,
            vault=vault,
            ring=self.ring,
            meshes=self.meshes,
            configuration=self.configuration,
            peers=self.peers,
            test_mode=test_mode,
        )
        self.journal = Journal(database, keep=self.evidence.keeping.keep, outbox=outbox)
        self.publisher = Publisher(database=database, ring=self.ring, meshes=self.meshes)
        self.refresher = Refresher(database=database, meshes=self.meshes, peers=self.peers)

        self.directories = Directories(meshes=self.meshes)
        self.publishing = PublisherServicer(
            database=database, meshes=self.meshes, ring=self.ring, publisher=self.publisher
        )
        self.keys = OrganisationKeys(
            database=database, ring=self.ring, meshes=self.meshes, statuses=self.evidence.statuses
        )
        self.hosting = HostingServicer(
            database=database, configuration=self.configuration, meshes=self.meshes, under_way=self._under_way
        )
        self.rights = AccessRights(database=database, configuration=self.configuration, meshes=self.meshes)
        self.policies = Policies(database=database, configuration=self.configuration)

        self.requesters = Requesters(configuration=self.configuration, meshes=self.meshes)
        self.proving = Proving(ring=self.ring, meshes=self.meshes, status=self.evidence)
        self.calling = Calling(
            meshes=self.meshes,
            configuration=self.configuration,
            journal=self.journal,
            proving=self.proving,
            peers=self.peers,
        )
        self.book = MandateBook(checks)
        self.mandates = Mandates(
            book=self.book, calling=self.calling, meshes=self.meshes, configuration=self.configuration
        )
        self.asynchronous = EnvelopeParts(
            database=database,
            outbox=outbox,
            vault=vault,
            meshes=self.meshes,
            configuration=self.configuration,
            peers=self.peers,
            requesters=self.requesters,
            evidence=self.evidence,
            proving=self.proving,
            journal=self.journal,
            mandates=self.mandates,
            revoked=revoked,
        )
        self.mesh = MeshServicer(
            database=database,
            meshes=self.meshes,
            ring=self.ring,
            refresher=self.refresher,
            abandon=self.asynchronous.sending.abandon,
        )
        self.backends = Backends(identity=self._tls_identity)
        self.grpc_backends = GrpcBackends(identity=self._tls_identity)
        self.metaservices = Metaservices(database=database, configuration=self.configuration, meshes=self.meshes)
        self.providing = Providing(
            meshes=self.meshes,
            configuration=self.configuration,
            journal=self.journal,
            proving=self.proving,
            backend=self._backend,
            mandates=self.mandates,
            places=self.backends.turn,
        )
        self.grpc_calls = GrpcCalls(calling=self.calling, requesters=self.requesters)
        self.calls = Calls(calling=self.calling, requesters=self.requesters)
        self.catalogue = Catalogue(
            database=database,
            configuration=self.configuration,
            meshes=self.meshes,
            metaservices=self.metaservices,
            calling=self.calling,
            requesters=self.requesters,
        )

        self.exchanges = Exchanges(database=database, requesters=self.requesters)
        self.backlogs = Backlogs(database=database)
        self.monitoring = Monitoring(
            database=database,
            requesters=self.requesters,
            meshes=self.meshes,
            peers=self.peers,
            backlogs=self.backlogs,
        )

        self.listener = None
        if peer_listen is not None:
            self.listener = PeerListener(
                listen=peer_listen,
                servicer=_Parts(
                    PeerDirectory(database=database, meshes=self.meshes, publisher=self.publisher),
                    self.evidence.peer_servicer,
                    self.asynchronous.peer_servicer,
                    PeerCalls(providing=self.providing, meshes=self.meshes, configuration=self.configuration),
                ),
                ring=self.ring,
                meshes=self.meshes,
                telemetry=telemetry,
            )

    def servicers(self) -> dict[tuple[ModuleType, str], object]:
        """What is served inside the node: by contract and name of the service."""
        return {
            (directory_service_pb2, "DirectoryService"): self.directories,
            (mesh_pb2, "MeshService"): self.mesh,
            (publishing_pb2, "PublisherService"): self.publishing,
            (hosting_pb2, "HostingService"): self.hosting,
            (services_pb2, "CatalogueService"): self.catalogue,
            (calls_pb2, "CallService"): self.calls,
            (mandates_pb2, "MandateService"): MandateServicer(self.mandates),
            (exchanges_pb2, "ExchangeService"): self.exchanges,
            (monitoring_pb2, "MonitoringService"): self.monitoring,
            (access_rights_pb2, "AccessRightService"): self.rights,
            (policies_pb2, "PolicyService"): self.policies,
            (keys_pb2, "OrganisationKeyService"): self.keys,
            (evidence_pb2, "EvidenceService"): self.evidence.evidence,
            (evidence_log_pb2, "EvidenceLogService"): self.evidence.log,
            **self.asynchronous.servicers(),
        }

    async def load(self) -> None:
        """Reads what the database has, before anything is served."""
        await self.ring.load()
        await self.meshes.load()
        await self.configuration.load()

    def run(self, start: Callable[[Coroutine[Any, Any, None]], object], stop: asyncio.Event) -> None:
        """Starts what runs for as long as the process does."""
        for work in (
            self.ring.follow(),
            self.meshes.follow(),
            self.configuration.follow(),
            self.publisher.run(),
            self.refresher.run(),
            *self.evidence.work(),
            self.asynchronous.leading.run(),
            self.backlogs.follow(),
        ):
            start(work)
        if self.listener is not None:
            start(self.listener.run(stop))

    def _backend(self, service: Service) -> Backend:
        """What answers the calls of a service."""
        if own_service(service.identifier) is not None:
            return self.metaservices
        if names.reserved(service.identifier):
            return self.book
        return self.grpc_backends if service.protocol == "grpc" else self.backends

    def _tls_identity(self) -> tuple[bytes, bytes] | None:
        """The node's own key and certificate for TLS, PEM."""
        if not self.meshes.joined:
            return None
        own = self.ring.active(directory_pb2.KEY_USE_TLS, names.member_of(self.meshes.node))
        return (keys.private_pem(own.private), keys.pem(own.certificate)) if own is not None else None

    def _under_way(self) -> int:
        return self.providing.under_way + self.calling.under_way

    async def close(self) -> None:
        """Closes connections."""
        await self.backends.close()
        await self.grpc_backends.close()
        await self.peers.close()
        await self.journal.close()
        await self.evidence.close()


class _Parts:
    """Several servicers as one: each has some of the methods of PeerService."""

    def __init__(self, *parts: object) -> None:
        for method in peer_pb2.DESCRIPTOR.services_by_name["PeerService"].methods:
            for part in parts:
                behaviour: Callable[..., Awaitable[object]] | None = getattr(part, method.name, None)
                if behaviour is not None:
                    setattr(self, method.name, behaviour)
