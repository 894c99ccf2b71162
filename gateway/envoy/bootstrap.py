"""What Envoy reads once at its start: where everything else is, and how it looks after itself."""

from __future__ import annotations

from gateway.envoy import xds
from gateway.envoy.plan import Json, Plan

_STATISTICS = (
    "http.edge.",
    "http.browsers.",
    "listener.",
    "cluster.",
    "server.",
    "sds.",
    "listener_manager.",
    "cluster_manager.",
    "overload.",
    "tracing.",
    "extension_config_discovery.",
)
"""Counters that are kept; each costs memory, and Envoy has thousands."""


HEAP = "envoy.resource_monitors.fixed_heap"

SHEDDING = {
    "shrink_heap": 0.7,
    "disable_http_keepalive": 0.8,
    "stop_accepting_requests": 0.85,
    "stop_accepting_connections": 0.95,
}
"""What Envoy does from which share of its memory on: calls under way end well, new ones are told to come back later."""


def render(plan: Plan) -> Json:
    """The bootstrap file."""
    heap = xds.extension(
        HEAP,
        "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
        max_heap_size_bytes=plan.limits.heap_bytes,
    )
    actions = [
        {
            "name": f"envoy.overload_actions.{action}",
            "triggers": [{"name": HEAP, "threshold": {"value": share}}],
        }
        for action, share in SHEDDING.items()
    ]
    connections = xds.extension(
        "envoy.resource_monitors.global_downstream_max_connections",
        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        max_active_downstream_connections=plan.limits.connections,
    )
    return {
        "node": {"id": f"{plan.node}-edge", "cluster": plan.node},
        "admin": {"address": {"pipe": {"path": str(plan.folder / xds.ADMIN_SOCKET), "mode": 0o600}}},
        "dynamic_resources": {
            "lds_config": xds.watched(plan.folder, xds.LISTENERS),
            "cds_config": xds.watched(plan.folder, xds.CLUSTERS),
        },
        "overload_manager": {"resource_monitors": [heap, connections], "actions": actions},
        "stats_config": {
            "stats_matcher": {"inclusion_list": {"patterns": [{"prefix": prefix} for prefix in _STATISTICS]}}
        },
        "application_log_config": {"log_format": {"json_format": _LOG_LINE}},
    }


_LOG_LINE = {"time": "%Y-%m-%dT%T.%fZ", "level": "%l", "logger": "%n", "message": "%j", "log": "edge.process"}
