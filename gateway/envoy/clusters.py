"""Upstreams: the services, the gateway's own adapters, and the collector of traces."""

from __future__ import annotations

import ipaddress
from typing import Any

from gateway.envoy import secrets, xds
from gateway.envoy.plan import ADAPTERS, Json, Plan
from services.runtime.config import Address, Instances

TRACES = "traces"

CONNECT_SECONDS = 2
"""Time for connecting to a service, TLS included. They are in the same house."""

CONNECTION_SECONDS = 600
"""Age at which a connection to a service is given up, in seconds, so that new instances get their share."""

PING_AFTER_SECONDS = 30
"""Idle time after which a connection to a service is tried with a PING before it is used. Only then: grpc takes
PINGs at regular intervals without calls for an attack, and closes."""

ADAPTER_IDLE_SECONDS = 30
"""Idle time after which a connection to an adapter is closed: well before the server, with its 75 s, does so."""


_LEAST_BUSY = {
    "name": "least_request",
    "typed_config": xds.typed(
        "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest", selection_method="FULL_SCAN"
    ),
}
"""Whichever instance has the fewest calls. Of all, not of two drawn by lot: long streams are few, and two of them would
meet in one instance while another one is idle."""


def render(plan: Plan) -> Json:
    """File of all upstreams (CDS)."""
    messages = [_service(plan, name, instances) for name, instances in sorted(plan.upstreams.items())]
    if plan.traces is not None:
        options = _http(http2_protocol_options={})
        messages.append(_cluster(TRACES, Instances((plan.traces,)), typed_extension_protocol_options=options))
    return xds.resources(*(xds.typed("envoy.config.cluster.v3.Cluster", **message) for message in messages))


def _service(plan: Plan, name: str, instances: Instances) -> Json:
    if name == ADAPTERS:
        protocol = "http/1.1"
        options = _http(idle=ADAPTER_IDLE_SECONDS, http_protocol_options={})
    else:
        protocol = "h2"
        options = _http(
            http2_protocol_options={
                "max_concurrent_streams": plan.limits.upstream_streams,
                "connection_keepalive": {
                    "connection_idle_interval": xds.seconds(PING_AFTER_SECONDS),
                    "timeout": xds.seconds(CONNECT_SECONDS),
                },
            }
        )
    threshold = {
        "max_connections": plan.limits.upstream_calls,
        "max_pending_requests": plan.limits.upstream_calls,
        "max_requests": plan.limits.upstream_calls,
    }
    return _cluster(
        name,
        instances,
        circuit_breakers={"thresholds": [threshold]},
        upstream_connection_options={"tcp_keepalive": xds.TCP_KEEPALIVE},
        typed_extension_protocol_options=options,
        transport_socket=secrets.upstream_tls(plan.folder, node=plan.node, service=name, protocol=protocol),
    )


def _cluster(name: str, instances: Instances, **fields: Any) -> Json:
    endpoints = [_endpoint(one) for one in instances.addresses]
    return {
        "name": name,
        # A name may stand for several instances, and for others tomorrow.
        "type": "STATIC" if all(_is_ip(one.host) for one in instances.addresses) else "STRICT_DNS",
        "connect_timeout": xds.seconds(CONNECT_SECONDS),
        "load_balancing_policy": {"policies": [{"typed_extension_config": _LEAST_BUSY}]},
        "per_connection_buffer_limit_bytes": 1 << 20,
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        **fields,
    }


def _endpoint(address: Address) -> Json:
    return {"endpoint": {"address": {"socket_address": {"address": address.host, "port_value": address.port}}}}


def _http(*, idle: float | None = None, **explicit: Json) -> Json:
    common = {"max_connection_duration": xds.seconds(CONNECTION_SECONDS)}
    if idle is not None:
        common["idle_timeout"] = xds.seconds(idle)
    name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {name: xds.typed(name, common_http_protocol_options=common, explicit_http_config=explicit)}


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
