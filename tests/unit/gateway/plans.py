"""Plans of edges that tests render."""

from __future__ import annotations

from pathlib import Path

from gateway import adapters
from gateway.envoy.plan import Json, Plan
from gateway.routes import routes
from services.runtime.config import Address, Instances
from tests.unit.gateway import contract


def adapters_of(plan: Plan) -> list[Json]:
    """What the routes of a plan's adapters match."""
    return [
        {"safe_regex": {"regex": endpoint.pattern}} if endpoint.pattern else {"path": endpoint.path}
        for endpoint in plan.endpoints
    ]


ONE_MACHINE = Plan(
    node="solmu",
    issuer="https://localhost:8443",
    listen=Address("127.0.0.1", 8443),
    folder=Path("/var/lib/solmu/edge"),
    upstreams={
        "parcels": Instances((Address("127.0.0.1", 7001), Address("127.0.0.1", 7002))),
        "gateway": Instances((Address("127.0.0.1", 7000),)),
    },
    routes=routes(contract.DESCRIPTORS),
    endpoints=adapters.ENDPOINTS,
    descriptors="descriptors.binpb",
)
"""Everything on the loopback interface, two processes of the service, no traces."""

CLUSTER = Plan(
    node="city",
    issuer="https://edge.city.example",
    listen=Address("0.0.0.0", 443),  # noqa: S104
    browser_listen=Address("0.0.0.0", 444),  # noqa: S104
    folder=Path("/run/edge"),
    upstreams={
        "parcels": Instances((Address("parcels.city.svc", 7000),)),
        "gateway": Instances((Address("gateway.city.svc", 7000),)),
    },
    routes=routes(contract.DESCRIPTORS),
    endpoints=adapters.ENDPOINTS,
    descriptors="descriptors.binpb",
    traces=Address("collector.city.svc", 4317),
    trace_ratio=0.1,
)
"""Services found by name, calls traced, a port for browsers."""
