"""The public ports: TLS, HTTP and its limits.

One is for information systems, with their certificates. The other, where the
node has it, is for people's browsers, which have none.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.envoy import filters, logs, replies, secrets, xds
from gateway.envoy.clusters import TRACES
from gateway.envoy.plan import Json, Plan
from gateway.routes import Door
from services.runtime.config import Address

_STRIPPED = ("x-edge-", "x-envoy-", "x-forwarded-", "x-real-", "x-client-")
"""Headers with which proxies speak to services. From a client they are forgeries."""


def render(plan: Plan) -> Json:
    """File of the listeners (LDS)."""
    return xds.resources(*(_listener(plan, door, address) for door, address in plan.doors.items()))


def _listener(plan: Plan, door: Door, address: Address) -> Json:
    manager = xds.extension(
        "http",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        **_connection_manager(plan, door),
    )
    return xds.typed(
        "envoy.config.listener.v3.Listener",
        name=door.value,
        address={"socket_address": {"address": address.host, "port_value": address.port}},
        per_connection_buffer_limit_bytes=plan.limits.buffer_bytes,
        tcp_keepalive=xds.TCP_KEEPALIVE,
        access_log=logs.refused_handshakes(),
        filter_chains=[
            {
                "filters": [filters.certificate_serial(), manager] if door is Door.SYSTEMS else [manager],
                "transport_socket": secrets.downstream_tls(plan.folder, door),
                "transport_socket_connect_timeout": xds.seconds(plan.limits.handshake_seconds),
            }
        ],
    )


def _connection_manager(plan: Plan, door: Door) -> Json:
    limits = plan.limits
    manager: Json = {
        "stat_prefix": door.value,
        "server_name": plan.node,
        "http_filters": filters.chain(plan, door),
        "rds": {
            "route_config_name": door.value,
            "config_source": xds.watched(plan.folder, xds.route_file(door.value)),
        },
        "local_reply_config": replies.local_replies(),
        "access_log": logs.requests(),
        "early_header_mutation_extensions": [_strip_forged_headers()],
        **_CLIENT_CERTIFICATE[door],
        "use_remote_address": True,
        "skip_xff_append": True,
        "always_set_request_id_in_response": True,
        # One spelling of a path: what the routes compare is what the service sees.
        "normalize_path": True,
        "merge_slashes": False,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "max_request_headers_kb": limits.header_kilobytes,
        "request_headers_timeout": xds.seconds(limits.headers_seconds),
        "stream_idle_timeout": xds.seconds(limits.stalled_seconds),
        "common_http_protocol_options": {
            "idle_timeout": xds.seconds(limits.idle_seconds),
            "max_connection_duration": xds.seconds(limits.connection_seconds),
            "max_headers_count": limits.headers,
            "headers_with_underscores_action": "REJECT_REQUEST",
        },
        "http2_protocol_options": {
            "max_concurrent_streams": limits.streams_per_connection,
            "initial_stream_window_size": limits.stream_window_bytes,
            "initial_connection_window_size": limits.connection_window_bytes,
            "override_stream_error_on_invalid_http_message": True,
            "connection_keepalive": {"interval": "30s", "timeout": "10s"},
        },
    }
    if plan.traces is not None:
        manager["tracing"] = _tracing(plan)
    return manager


_CLIENT_CERTIFICATE: Mapping[Door, Json] = {
    # The service learns who called from this header alone, which Envoy sets from the handshake.
    Door.SYSTEMS: {
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"subject": True, "uri": True},
    },
    Door.BROWSERS: {"forward_client_cert_details": "SANITIZE"},
}


def _strip_forged_headers() -> Json:
    mutations: list[Json] = [{"remove_on_match": {"key_matcher": {"prefix": prefix}}} for prefix in _STRIPPED]
    given = {"header": {"key": filters.CALLERS_REQUEST_ID, "value": "%REQ(x-request-id)%"}}
    mutations += [{"append": given}, {"remove": "forwarded"}, {"remove": "x-request-id"}]
    return xds.extension(
        "strip_forged_headers",
        "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
        mutations=mutations,
    )


def _tracing(plan: Plan) -> Json:
    """The edge decides what is traced; a caller's trace goes on under its own id. No query, address or error text."""
    exporter = xds.extension(
        "envoy.tracers.opentelemetry",
        "envoy.config.trace.v3.OpenTelemetryConfig",
        service_name=Door.SYSTEMS.value,
        grpc_service={"envoy_grpc": {"cluster_name": TRACES}, "timeout": "1s"},
    )
    return {
        "random_sampling": {"value": plan.trace_ratio * 100},
        "spawn_upstream_span": True,
        "provider": exporter,
        "max_path_tag_length": 0,
        "custom_tags": [
            {"tag": "http.route", "value": "%ROUTE_NAME%"},
            {"tag": "peer.address", "literal": {"value": "-"}},
            {"tag": "grpc.message", "literal": {"value": "-"}},  # quotes what was asked for
        ],
    }
