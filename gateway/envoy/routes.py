"""Routes: which request goes where, under which limits.

A gRPC method is found by its path. A REST path is found twice: first by a
route that only switches the translation on and sets the body limit, then,
when the transcoder has made a gRPC call of it, by the route of the method.
What no route knows is answered here. Each listener has a table of its own; that
of browsers leads to adapters only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.envoy import filters, xds
from gateway.envoy.plan import ADAPTERS, Json, Plan
from gateway.routes import Binding, Door, Endpoint, Route
from services.runtime import identity

UNKNOWN = "unknown"
"""Name of the route for what has none."""

ROUTE_METADATA = "solmu.edge"
"""Metadata of a route, for replies: `scopes`, separated by spaces."""

CALL = "/solmu.exchange.v1.CallService/Call"
"""The method by whose policy calls of other members' gRPC services go."""

OTHERS = "solmu-service"
"""The metadata by which such a call is known (calls.proto)."""

_NOT_GRPC = {**xds.GRPC_REQUEST, "invert_match": True, "treat_missing_header_as_empty": True}

_HTTPS_ONLY = {"key": "strict-transport-security", "value": "max-age=31536000"}
"""RFC 6797."""

_FOR_THE_EDGE_ALONE = ("x-envoy-external-address", filters.CALLERS_REQUEST_ID, filters.GRANTED, filters.BOUND_TO)
"""Headers that end here. Client and token go on, as the log line is written after that; they are no secret of a token's
service, and nothing to rely on."""

_SERIAL = {"key": identity.SERIAL_HEADER, "value": "%DOWNSTREAM_PEER_SERIAL%"}
"""By which a service knows the streams of a certificate that is revoked while they last."""

_NO_ACCESS_CHECK = {
    Door.SYSTEMS: {filters.BINDING: filters.switched(on=False), filters.SCOPES: filters.switched(on=False)},
    Door.BROWSERS: {},
}
"""On routes that lead to no method. Where there are no methods, there are no such filters."""

_NO_TOKEN = {
    Door.SYSTEMS: {filters.AUTHENTICATION: filters.switched(on=False)} | _NO_ACCESS_CHECK[Door.SYSTEMS],
    Door.BROWSERS: {},
}


def render(plan: Plan, door: Door) -> Json:
    """File of all routes of a listener (RDS)."""
    calls, others = {}, []
    paths = [(endpoint.prefix, _endpoint(endpoint, door)) for endpoint in plan.endpoints if door in endpoint.doors]
    if door is Door.SYSTEMS:
        calls = {route.path: _grpc(route) for route in plan.routes}
        others = [_others(route) for route in plan.routes if route.path == CALL]
        paths += [(binding.prefix, _rest(route, binding)) for route in plan.routes for binding in route.rest]
    configuration = xds.typed(
        "envoy.config.route.v3.RouteConfiguration",
        name=door.value,
        request_headers_to_remove=[*_FOR_THE_EDGE_ALONE],
        virtual_hosts=[{"name": door.value, "domains": ["*"], "matcher": _tree(calls, paths, others, door)}],
    )
    if door is Door.SYSTEMS:
        configuration["request_headers_to_add"] = [{"header": _SERIAL, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]
    if door is Door.BROWSERS and not plan.issuer.startswith("https://localhost:"):
        # Of a machine's own name it would bind every other program on that machine, too.
        configuration["response_headers_to_add"] = [{"header": _HTTPS_ONLY}]
    return xds.resources(configuration)


def _tree(calls: Mapping[str, Json], paths: Sequence[tuple[str, Json]], others: Sequence[Json], door: Door) -> Json:
    """Finds a route without trying all: `calls` by their whole path, `paths` by what a path begins with.

    The longest beginning decides, so each has the routes of the shorter ones, too.
    `others` are tried for whatever is no call of the node's own.
    """
    unknown = _unknown(door)

    def found(*routes: Json) -> Json:
        listed = xds.typed("envoy.config.route.v3.RouteList", routes=[*routes, unknown])
        return {"action": {"name": "routes", "typed_config": listed}}

    beginnings = {
        beginning: found(*(route for prefix, route in paths if beginning.startswith(prefix)), *others)
        for beginning in sorted({prefix for prefix, _ in paths})
    }
    tree = {"matcher_tree": {"input": _PATH, "prefix_match_map": {"map": beginnings}}, "on_no_match": found(*others)}
    if not calls:
        return tree
    whole = {path: found(route) for path, route in calls.items()}
    return {"matcher_tree": {"input": _PATH, "exact_match_map": {"map": whole}}, "on_no_match": {"matcher": tree}}


_PATH = xds.extension("path", "envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name=":path")


def _grpc(route: Route) -> Json:
    limit = xds.seconds(route.timeout_seconds)
    action = {
        "cluster": route.upstream,
        # Both: without the first a REST call has no deadline, without the second a client sets its own.
        "max_stream_duration": {"max_stream_duration": limit, "grpc_timeout_header_max": limit},
    }
    if route.server_streaming:
        action["idle_timeout"] = "0s"
    if not route.client_streaming:
        action["retry_policy"] = _RETRY
    return {
        "name": f"{route.service}/{route.method}",
        "match": {"path": route.path, "grpc": {}},
        "metadata": {"filter_metadata": {ROUTE_METADATA: {"scopes": " ".join(route.scopes)}}},
        "route": action,
        "typed_per_filter_config": {
            filters.BODY_LIMIT: filters.body_limit(route.max_request_bytes),
            filters.SCOPES: filters.scope_policy(route.scopes),
        },
    }


def _others(route: Route) -> Json:
    """GRPC methods of other members' services: the call says in metadata whose, and goes by the policy of `CALL`."""
    named = {"name": OTHERS, "present_match": True}
    return _grpc(route) | {
        "name": f"{route.service}/{route.method} of others",
        "match": {"prefix": "/", "grpc": {}, "headers": [named]},
    }


# Only what did not reach the service: no connection, a stream it says it never
# looked at, a connection that broke before the request was written. A service
# answers CANCELLED to calls that come while it stops, before it looks at them.
# Tried again at another instance, if there is one: DNS may name for seconds one
# that is gone. It has no calls, so the balancer likes it best: of two instances
# it is offered three times in four, and 5 offers were too few in practice.
_RETRY = {
    "retry_on": "connect-failure,refused-stream,reset-before-request,cancelled",
    "num_retries": 2,
    "retry_host_predicate": [
        xds.extension(
            "envoy.retry_host_predicates.previous_hosts",
            "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
        )
    ],
    "host_selection_retry_max_attempts": 30,
}


def _rest(route: Route, binding: Binding) -> Json:
    verb = {"name": ":method", "string_match": {"exact": binding.verb}}
    return {
        "name": f"{route.service}/{route.method} {binding.verb} {binding.template}",
        "match": {"safe_regex": {"regex": binding.pattern}, "headers": [verb, _NOT_GRPC]},
        "direct_response": {"status": 404},
        "typed_per_filter_config": {
            filters.BODY_LIMIT: filters.body_limit(route.max_request_bytes),
            filters.PROBLEM: filters.switched(on=True),
            filters.TRANSCODER: filters.switched(on=True),
        },
    }


def _endpoint(endpoint: Endpoint, door: Door) -> Json:
    checks = {filters.SCOPES: filters.scope_policy(endpoint.scopes)} if endpoint.scopes else _NO_TOKEN[door]
    named = {filters.REQUEST_ID: filters.switched(on=True)} if endpoint.echoes_request_id else {}
    return {
        "name": f"adapter {endpoint.path}",
        "match": {"safe_regex": {"regex": endpoint.pattern}} if endpoint.pattern else {"path": endpoint.path},
        "metadata": {"filter_metadata": {ROUTE_METADATA: {"scopes": " ".join(endpoint.scopes)}}},
        "route": {
            "cluster": ADAPTERS,
            # From the first byte on; `timeout` would begin with the last one of the body, which need never come.
            "max_stream_duration": {"max_stream_duration": xds.seconds(endpoint.timeout_seconds)},
            "retry_policy": _RETRY,
        },
        "typed_per_filter_config": {
            filters.BODY_LIMIT: filters.body_limit(endpoint.max_request_bytes),
            **checks,
            **named,
        },
    }


def _unknown(door: Door) -> Json:
    return {
        "name": UNKNOWN,
        "match": {"prefix": "/"},
        "direct_response": {"status": 404},
        "typed_per_filter_config": {
            filters.BODY_LIMIT: filters.switched(on=False),
            **_NO_ACCESS_CHECK[door],
        },
    }
