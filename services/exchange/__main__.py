"""The exchange service: `python -m services.exchange`."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from solmu.exchange.v1 import (
    access_rights_pb2,
    calls_pb2,
    deliveries_pb2,
    directory_service_pb2,
    envelopes_pb2,
    evidence_log_pb2,
    evidence_pb2,
    exchanges_pb2,
    hosting_pb2,
    keys_pb2,
    mesh_pb2,
    monitoring_pb2,
    policies_pb2,
    publishing_pb2,
    services_pb2,
    topics_pb2,
)

from services.runtime import config, foundation
from services.runtime.config import Address, ServiceSettings, setting
from services.runtime.server import run


@dataclass(frozen=True, kw_only=True)
class Settings(ServiceSettings):
    """What the exchange service reads."""

    authorisations: Address = setting("SOLMU_AUTHORISATIONS", config.address, doc="host:port of authorisations")


async def main(stop: asyncio.Event, stack: AsyncExitStack) -> None:
    """Wires the service and serves."""
    settings = config.read(Settings)
    base = await foundation.lay(
        "exchange",
        settings,
        stop=stop,
        stack=stack,
        migrations=Path(__file__).parent / "migrations",
        fetch_keys=foundation.keys_from(settings.authorisations, settings),
    )
    base.consume(foundation.revocation_consumer(base, service="exchange"))

    # PeerService is not among them: other nodes reach it on a listener of its own, never on this one.
    contract = (
        (directory_service_pb2, "DirectoryService", None),
        (mesh_pb2, "MeshService", None),
        (publishing_pb2, "PublisherService", None),
        (hosting_pb2, "HostingService", None),
        (services_pb2, "CatalogueService", None),
        (access_rights_pb2, "AccessRightService", None),
        (policies_pb2, "PolicyService", None),
        (keys_pb2, "OrganisationKeyService", None),
        (calls_pb2, "CallService", None),
        (exchanges_pb2, "ExchangeService", None),
        (topics_pb2, "TopicService", None),
        (envelopes_pb2, "EnvelopeService", None),
        (deliveries_pb2, "DeliveryService", None),
        (evidence_pb2, "EvidenceService", None),
        (evidence_log_pb2, "EvidenceLogService", None),
        (monitoring_pb2, "MonitoringService", None),
    )
    for module, name, servicer in contract:
        base.server.add(module.DESCRIPTOR.services_by_name[name], servicer)
    await base.server.run(stop)


if __name__ == "__main__":
    run(main)
