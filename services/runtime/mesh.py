"""Which services a node has, and whose events each of them consumes.

One table, read by all: the services declare their streams and durables from
it, the deployment renders NATS accounts and their exports from it. Who may
*call* whom stands where the methods are: in the option `access` of each.

Each service owns a NATS account of its own with one stream in it. A service
that consumes another's events reads one durable of that stream, named after
the consumer; nothing else of the account is visible to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

EDGE = "edge"
"""The identity with which Envoy calls the services. Its calls carry a client's token."""

GATEWAY = "gateway"
"""The Python process beside Envoy: renders its configuration, serves the foreign protocols.

A call of its own carries no token; one that it makes for a client carries the client's, and is that client's.
"""

OPERATOR = "operator"
"""The identity of the node's own tools: health probes and provisioning."""


@dataclass(frozen=True)
class Service:
    """One service of the node."""

    name: str
    """Folder, proto package, database, role and certificate name at once."""
    consumes: tuple[str, ...]
    """The services whose events it consumes. What follows from its own it does in `outbox.Outbox`."""


SERVICES: Mapping[str, Service] = {
    service.name: service
    for service in (
        # Clients revoked in authorisations are refused by every service that takes tokens.
        Service("authorisations", consumes=()),
        # What other nodes bring, and what became of what was sent there, messages hears from exchange.
        Service("messages", consumes=("authorisations", "exchange")),
        Service("exchange", consumes=("authorisations",)),
    )
}


def stream(service: str) -> str:
    """The JetStream stream that holds a service's events: "EVT_MESSAGES"."""
    return f"EVT_{service.upper()}"


def subject(service: str, event_type: str) -> str:
    """The subject of one type of event: "evt.messages.message_accepted"."""
    return f"evt.{service}.{event_type}"


def consumers(service: str) -> tuple[str, ...]:
    """The services that consume this one's events. Each has a durable of its name."""
    return tuple(other.name for other in SERVICES.values() if service in other.consumes)


def api_prefix(publisher: str) -> str:
    """Under which subject prefix the consumers of a publisher reach the JetStream API of its account."""
    return f"JS.{publisher}.API"


def service_uri(node: str, service: str) -> str:
    """The SPIFFE identity of a service, as it stands in its certificate."""
    return f"spiffe://{node}/service/{service}"


def client_uri(node: str, client_id: str) -> str:
    """The SPIFFE identity of a client (an information system), as it stands in its certificate."""
    return f"spiffe://{node}/client/{client_id}"
