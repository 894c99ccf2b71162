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
    mandates_pb2,
    mesh_pb2,
    monitoring_pb2,
    policies_pb2,
    publishing_pb2,
    services_pb2,
    topics_pb2,
)

from services.exchange.assembly import Exchange
from services.exchange.keys import PKCS11, KeyToken
from services.exchange.mandates import OwnChecks
from services.exchange.servicers.grpc_calls import SERVICE
from services.runtime import config, foundation
from services.runtime.client import Peer
from services.runtime.config import Address, ConfigError, ServiceSettings, setting
from services.runtime.keys.root import Root
from services.runtime.keys.setting import root_setting
from services.runtime.server import run

CONTRACT = (
    (directory_service_pb2, "DirectoryService"),
    (mesh_pb2, "MeshService"),
    (publishing_pb2, "PublisherService"),
    (hosting_pb2, "HostingService"),
    (services_pb2, "CatalogueService"),
    (access_rights_pb2, "AccessRightService"),
    (policies_pb2, "PolicyService"),
    (keys_pb2, "OrganisationKeyService"),
    (calls_pb2, "CallService"),
    (mandates_pb2, "MandateService"),
    (exchanges_pb2, "ExchangeService"),
    (topics_pb2, "TopicService"),
    (envelopes_pb2, "EnvelopeService"),
    (deliveries_pb2, "DeliveryService"),
    (evidence_pb2, "EvidenceService"),
    (evidence_log_pb2, "EvidenceLogService"),
    (monitoring_pb2, "MonitoringService"),
)
"""What is served inside the node. A service without a servicer answers METHOD_NOT_IMPLEMENTED."""


@dataclass(frozen=True, kw_only=True)
class Settings(ServiceSettings):
    """What the exchange service reads."""

    authorisations: Address = setting("SOLMU_AUTHORISATIONS", config.address, doc="host:port of authorisations")
    root_key: Root = root_setting()
    peer_listen: Address | None = setting(
        "SOLMU_PEER_LISTEN", config.address, default=None, doc="host:port on which it serves other nodes of its meshes"
    )
    pkcs11_module: Path | None = setting(
        "SOLMU_PKCS11_MODULE", config.file, default=None, doc="library of a token's maker: keys may lie in the token"
    )
    pkcs11_label: str = setting("SOLMU_PKCS11_LABEL", config.text, default="", doc="label of the token")
    pkcs11_pin: Path | None = setting("SOLMU_PKCS11_PIN", config.file, default=None, doc="file with the token's PIN")
    test_mode: bool = setting(
        "SOLMU_TEST_MODE", config.flag, default=False, doc="yes: take time stamps of test authorities"
    )


def tokens(settings: Settings) -> dict[str, KeyToken]:
    """The tokens that hold keys besides the database. Raises ConfigError."""
    if settings.pkcs11_module is None:
        return {}
    if not settings.pkcs11_label or settings.pkcs11_pin is None:
        raise ConfigError(["SOLMU_PKCS11_MODULE takes SOLMU_PKCS11_LABEL and SOLMU_PKCS11_PIN"])
    try:
        from services.exchange.tokens import Token  # noqa: PLC0415  # its library is an optional extra
    except ImportError:
        raise ConfigError(["SOLMU_PKCS11_MODULE takes the extra pkcs11: pip install 'solmu[pkcs11]'"]) from None
    return {PKCS11: Token(settings.pkcs11_module, settings.pkcs11_label, settings.pkcs11_pin)}


async def main(stop: asyncio.Event, stack: AsyncExitStack) -> None:
    """Wires the service and serves."""
    settings = config.read(Settings)
    base = await foundation.lay(
        "exchange",
        settings,
        stop=stop,
        stack=stack,
        fetch_keys=foundation.keys_from(settings.authorisations, settings),
    )
    base.consume(foundation.revocation_consumer(base, service="exchange"))

    vault = await foundation.vault(base, settings.root_key)
    authorisations = Peer(
        name="authorisations", address=settings.authorisations, files=settings.tls, telemetry=base.telemetry
    )
    stack.push_async_callback(authorisations.close)
    exchange = Exchange(
        database=base.database,
        outbox=base.outbox,
        vault=vault,
        telemetry=base.telemetry,
        peer_listen=settings.peer_listen,
        checks=OwnChecks(authorisations),
        test_mode=settings.test_mode,
        tokens=tokens(settings),
        revoked=base.revocations.revoked,
    )
    stack.push_async_callback(exchange.close)
    await exchange.load()
    exchange.run(base.tasks.start, stop)

    # PeerService is not among them: other nodes reach it on a listener of its own, never on this one.
    servicers = exchange.servicers()
    for module, name in CONTRACT:
        base.server.add(module.DESCRIPTOR.services_by_name[name], servicers.get((module, name)))
    call = calls_pb2.DESCRIPTOR.services_by_name["CallService"].methods_by_name["Call"]
    base.server.pass_on(SERVICE, call, exchange.grpc_calls.call)
    await base.server.run(stop)


if __name__ == "__main__":
    run(main)
