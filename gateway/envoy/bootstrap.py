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


def render(plan: Plan) -> Json:
    """The bootstrap file."""
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
        "overload_manager": {"resource_monitors": [connections]},
        "stats_config": {
            "stats_matcher": {"inclusion_list": {"patterns": [{"prefix": prefix} for prefix in _STATISTICS]}}
        },
        "application_log_config": {"log_format": {"json_format": _LOG_LINE}},
    }


_LOG_LINE = {"time": "%Y-%m-%dT%T.%fZ", "level": "%l", "logger": "%n", "message": "%j", "log": "edge.process"}
