"""The filters of one request, in their order, each with the reason for its place.

0. `request_id`: only on routes that ask for it: the caller's own name for the call
   is put in place of the edge's, before anybody refuses.
1. `rate`: how many calls all clients together may still make, and this one, by
   its certificate. Before anything costs something; holds for the adapters too.
2. `revocation`: whether the connection's certificate has been revoked since its
   handshake. First of the checks: it costs least, and holds for the adapters too.
3. `authentication`: signature, issuer, audience and life of the access token. Before
   the body is looked at, so strangers never reach a parser.
4. `body_limit`: counts the body as it was sent, JSON or gRPC, as it streams.
5. `problem`: only on REST routes; before the transcoder in order to see the
   response after it.
6. `transcoder`: only on REST routes; turns the request into a gRPC call and has
   its route looked up again.
7. `binding`: whether the token is an access token bound to the certificate of
   this connection. One policy for all routes: each copy would take 50 kB.
8. `scopes`: whether the token has the scopes of the method. After the
   transcoder, so that one policy holds for both forms. Where a route has no
   policy it refuses everybody.
9. `router`.

Browsers, who bring neither certificate nor token, meet `rate`, which counts all of
them together, `body_limit` and `router`; nothing but adapters is behind them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

from gateway.envoy import xds
from gateway.envoy.plan import Json, Limits, Plan
from gateway.problems import TITLES
from gateway.routes import Door

REQUEST_ID = "request_id"
RATE = "rate"
REVOCATION = "revocation"
AUTHENTICATION = "authentication"
BODY_LIMIT = "body_limit"
PROBLEM = "problem"
TRANSCODER = "transcoder"
BINDING = "binding"
SCOPES = "scopes"

CALLERS_REQUEST_ID = "x-edge-request-id"
"""Where a caller's own `x-request-id` waits for the filter `request_id`; the edge strips what comes under this name."""

CLIENT = "client"
"""What calls are counted by: the client's identity in its certificate."""

REVOKED = "revoked"
"""Name of the rule that refuses revoked certificates; Envoy tells it in the details of its reply."""

PROVIDER = "node"
"""The one issuer whose tokens are accepted: the node itself."""

HEADER = "header"
"""Under this name the header of the verified token is found in the metadata of `JWT_METADATA`."""

CLIENT_ID, TOKEN_ID, GRANTED, BOUND_TO = "x-edge-client", "x-edge-token", "x-edge-scope", "x-edge-bound-to"
"""Headers of the request with claims of the verified token; the edge strips what comes under these names. As metadata
the claims would be copied whole, several times for each call, which costs a third of all that the checks do."""

JWT_METADATA = "envoy.filters.http.jwt_authn"
"""Envoy's own name for the metadata of its token filter, whatever the filter is called here."""

JWT_TYPE = "at+jwt"
"""RFC 9068, section 2.1."""

CLOCK_SKEW_SECONDS = 5
"""Difference between the clocks of two machines that NTP keeps."""

NO_BODY = 1
"""Bytes of body for what no route takes; Envoy has no smaller limit."""

_PROBLEM_LUA = resources.files(__package__).joinpath("problem.lua").read_text(encoding="utf-8")
_JWT_AUTHN = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
_RBAC = "envoy.extensions.filters.http.rbac.v3.RBAC"

SERIAL = "solmu.certificate.serial"
"""State of a connection: the serial number of the client's certificate, in hexadecimal."""


def chain(plan: Plan, door: Door) -> list[Json]:
    """The filters of a public port."""
    if door is Door.BROWSERS:
        return [_rate(plan.limits.browser_calls_per_second), _body_limit(), _router()]
    return [
        _request_id(),
        _rate(plan.limits.calls_per_second, **_each_client(plan.limits)),
        _followed(plan, REVOCATION, xds.REVOCATION, _RBAC),
        _followed(plan, AUTHENTICATION, xds.AUTHENTICATION, _JWT_AUTHN),
        _body_limit(),
        _problem(),
        _transcoder(plan),
        _binding(),
        _scopes(),
        _router(),
    ]


def authentication(plan: Plan, jwks: str) -> Json:
    """File of the filter `authentication` (ECDS), with the keys in it: Envoy reads a file of keys once and never again.

    `jwks` is a JSON Web Key Set (RFC 7517). The token goes on to the service,
    which checks it again.
    """
    provider = {
        "issuer": plan.issuer,
        "audiences": [plan.issuer],
        "require_expiration": True,
        "clock_skew_seconds": CLOCK_SKEW_SECONDS,
        "local_jwks": {"inline_string": jwks},
        "forward": True,
        "from_headers": [{"name": "Authorization", "value_prefix": "Bearer "}],
        "header_in_metadata": HEADER,
        "claim_to_headers": [
            {"header_name": CLIENT_ID, "claim_name": "client_id"},
            {"header_name": TOKEN_ID, "claim_name": "jti"},
            {"header_name": GRANTED, "claim_name": "scope"},
            {"header_name": BOUND_TO, "claim_name": "cnf.x5t_hex"},
        ],
        "jwt_cache_config": {
            "jwt_cache_size": plan.limits.cached_tokens,
            "jwt_max_token_size": plan.limits.token_bytes,
        },
    }
    rule = {"match": {"prefix": "/"}, "requires": {"provider_name": PROVIDER}}
    config = xds.typed(_JWT_AUTHN, providers={PROVIDER: provider}, rules=[rule])
    return _extension_file(AUTHENTICATION, config)


def revocation(serials: Sequence[int]) -> Json:
    """File of the filter `revocation` (ECDS): refuses calls on connections with one of these certificates.

    Envoy looks at revocation lists in handshakes only. Some 10,000 numbers
    take it two seconds to read. Of two authorities' certificates with the same
    number both are refused; RFC 5280 numbers are random enough not to meet.
    """
    allow, deny = (
        {"name": action, "typed_config": xds.typed("envoy.config.rbac.v3.Action", name=REVOKED, action=action)}
        for action in ("ALLOW", "DENY")
    )
    matcher: Json = {"on_no_match": {"action": allow}}
    if serials:
        state = "type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.FilterStateInput"
        matcher["matcher_tree"] = {
            "input": {"name": "serial", "typed_config": {"@type": state, "key": SERIAL}},
            "exact_match_map": {"map": {hexadecimal(serial): {"action": deny} for serial in sorted(serials)}},
        }
    return _extension_file(REVOCATION, xds.typed(_RBAC, matcher=matcher))


def hexadecimal(serial: int) -> str:
    """A serial number as Envoy spells it: whole bytes."""
    digits = f"{serial:x}"
    return digits.zfill(len(digits) + len(digits) % 2)


def _extension_file(name: str, config: Json) -> Json:
    return xds.resources(xds.typed("envoy.config.core.v3.TypedExtensionConfig", name=name, typed_config=config))


def certificate_serial() -> Json:
    """Network filter: remembers, once for each connection, what `revocation` compares."""
    value = {"text_format_source": {"inline_string": "%DOWNSTREAM_PEER_SERIAL%"}}
    return xds.extension(
        "certificate_serial",
        "envoy.extensions.filters.network.set_filter_state.v3.Config",
        on_downstream_tls_handshake=[{"object_key": SERIAL, "factory_key": "envoy.string", "format_string": value}],
    )


def scope_policy(wanted: Sequence[str]) -> Json:
    """The filter `scopes` on the route of a method: the token has every one of them, whole and between spaces."""
    demands = [
        {"header": {"name": GRANTED, "string_match": {"safe_regex": {"regex": rf"(.* )?{re.escape(scope)}( .*)?"}}}}
        for scope in wanted
    ]
    rules = _allow("scopes", {"and_ids": {"ids": demands}})
    return xds.typed("envoy.extensions.filters.http.rbac.v3.RBACPerRoute", rbac={"rules": rules})


def body_limit(max_request_bytes: int) -> Json:
    """The filter `body_limit` on a route that takes another amount than the default."""
    chain = {"filters": [_size_limit(max_request_bytes)]}
    return xds.typed("envoy.extensions.filters.http.filter_chain.v3.FilterChainConfigPerRoute", filter_chain=chain)


def switched(*, on: bool) -> Json:
    """Puts a filter on or off for a route."""
    setting: Json = {"config": {}} if on else {"disabled": True}
    return xds.typed("envoy.config.route.v3.FilterConfig", **setting)


def _request_id() -> Json:
    """Where the caller sent an id of its own, it takes the place of the edge's."""
    given = {"header": {"key": "x-request-id", "value": f"%REQ({CALLERS_REQUEST_ID}?x-request-id)%"}}
    mutation = {"append": {**given, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}
    filter_ = xds.http_filter(
        REQUEST_ID, "header_mutation.v3.HeaderMutation", mutations={"request_mutations": [mutation]}
    )
    return {**filter_, "disabled": True}


def _rate(calls_per_second: int, **more: Any) -> Json:
    """A token bucket for all calls."""
    always = {"default_value": {"numerator": 100}}
    return xds.http_filter(
        RATE,
        "local_ratelimit.v3.LocalRateLimit",
        stat_prefix=RATE,
        token_bucket=_bucket(calls_per_second, calls_per_second),
        filter_enabled=always,
        filter_enforced=always,
        **more,
    )


def _each_client(limits: Limits) -> Json:
    """And a bucket for each client, named by its certificate, and what is left of it in every answer.

    A bucket that has not been used for the longest time makes room for a new
    client's.
    """
    client = xds.extension(
        "client",
        "envoy.extensions.rate_limit_descriptors.expr.v3.Descriptor",
        descriptor_key=CLIENT,
        parsed=_select(_identifier("connection"), "uri_san_peer_certificate"),
    )
    bucket = _bucket(limits.client_burst, limits.client_calls_per_second)
    return {
        "rate_limits": [{"actions": [{"extension": client}]}],
        "descriptors": [{"entries": [{"key": CLIENT}], "token_bucket": bucket}],
        "max_dynamic_descriptors": limits.counted_clients,
        "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
    }


def _bucket(most: int, calls_per_second: int) -> Json:
    return {"max_tokens": most, "tokens_per_fill": calls_per_second, "fill_interval": "1s"}


def _followed(plan: Plan, name: str, file: str, type_name: str) -> Json:
    """A filter whose configuration is a file of its own, which changes while the edge runs."""
    source = xds.watched(plan.folder, file)
    return {
        "name": name,
        "config_discovery": {"config_source": source, "type_urls": [f"type.googleapis.com/{type_name}"]},
    }


def _body_limit() -> Json:
    chain = {"filters": [_size_limit(NO_BODY)]}
    return xds.http_filter(BODY_LIMIT, "filter_chain.v3.FilterChainConfig", default_filter_chain=chain)


def _size_limit(max_request_bytes: int) -> Json:
    return xds.http_filter("body_size_limit", "body_size_limit.v3.BodySizeLimit", max_request_bytes=max_request_bytes)


def _problem() -> Json:
    titles = ", ".join(f'[{status}] = "{title}"' for status, title in sorted(TITLES.items()))
    source = _PROBLEM_LUA.replace("--[[titles]]", titles)
    return {
        **xds.http_filter(PROBLEM, "lua.v3.Lua", default_source_code={"inline_string": source}),
        "disabled": True,
    }


def _transcoder(plan: Plan) -> Json:
    transcoder = xds.http_filter(
        TRANSCODER,
        "grpc_json_transcoder.v3.GrpcJsonTranscoder",
        proto_descriptor=str(plan.folder / plan.descriptors),
        services=sorted({route.service for route in plan.routes if route.rest}),
        convert_grpc_status=True,
        print_options={"stream_newline_delimited": True},
        request_validation_options={
            "reject_unknown_query_parameters": True,
            "reject_binding_body_field_collisions": True,
        },
        max_request_body_size=plan.limits.json_bytes,
        max_response_body_size=plan.limits.json_answer_bytes,
    )
    return {**transcoder, "disabled": True}


def _binding() -> Json:
    """RFC 9068, section 4, and RFC 8705, section 3. A claim that is missing or of another type refuses."""
    rules = _allow("bound", _is_access_token(), condition=_token_is_bound())
    return xds.http_filter(BINDING, "rbac.v3.RBAC", rules=rules)


def _scopes() -> Json:
    return xds.http_filter(SCOPES, "rbac.v3.RBAC", rules={"action": "ALLOW", "policies": {}})


def _allow(name: str, principal: Json, **fields: Any) -> Json:
    policy = {"permissions": [{"any": True}], "principals": [principal], **fields}
    return {"action": "ALLOW", "policies": {name: policy}}


def _router() -> Json:
    return xds.http_filter("router", "router.v3.Router", suppress_envoy_headers=True)


def _is_access_token() -> Json:
    value = {"string_match": {"exact": JWT_TYPE}}
    matcher = {"filter": JWT_METADATA, "path": [{"key": HEADER}, {"key": "typ"}], "value": value}
    return {"sourced_metadata": {"metadata_source": "DYNAMIC", "metadata_matcher": matcher}}


def _token_is_bound() -> Json:
    """A condition in CEL, as the syntax tree that Envoy wants: peer certificate's digest == token's cnf.x5t_hex.

    `x5t_hex` is our own member of `cnf` beside `x5t#S256`, which is base64url:
    CEL has no conversion between the two, and Lua costs a quarter more.
    """
    digest = _select(_identifier("connection"), "sha256_peer_certificate_digest")
    headers = _select(_identifier("request"), "headers")
    claim = _call("_[_]", headers, {"const_expr": {"string_value": BOUND_TO}})
    return _call("_==_", digest, claim)


def _identifier(name: str) -> Json:
    return {"ident_expr": {"name": name}}


def _select(operand: Json, field: str) -> Json:
    return {"select_expr": {"operand": operand, "field": field}}


def _call(function: str, *args: Any) -> Json:
    return {"call_expr": {"function": function, "args": list(args)}}
