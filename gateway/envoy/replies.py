"""Refusals of the edge itself, each with its documented reason, in both forms.

A gRPC caller gets status, message and `google.rpc.Status` with `ErrorInfo` in
`grpc-status-details-bin`, all made beforehand; a REST caller gets a problem
document. The first line of `REFUSALS` whose condition holds wins.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

from google.protobuf.any_pb2 import Any
from google.rpc import code_pb2, error_details_pb2, status_pb2

from gateway.envoy import xds
from gateway.envoy.filters import BOUND_TO, HEADER, JWT_METADATA, JWT_TYPE, REVOKED
from gateway.envoy.plan import Json
from gateway.envoy.routes import ROUTE_METADATA
from gateway.problems import MEDIA_TYPE, NODE_DOMAIN, problem


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """One reason for which the edge refuses."""

    reason: str
    """Value of `solmu.runtime.v1.ErrorReason` without its prefix."""
    code: str
    """Canonical status code for gRPC callers."""
    status: int
    """HTTP status for REST callers."""
    text: str
    """For people. REST callers see what `problem.lua` leaves of Envoy's own text instead, where `verbatim` is set."""
    when: str
    """CEL over Envoy's reply: which of them this is."""
    challenge: str = ""
    """Value of WWW-Authenticate (RFC 6750, section 3)."""
    retry_after: int = 0
    """Seconds after which it is worth trying again; 0 where it is not."""
    verbatim: bool = False

    @property
    def details(self) -> str:
        """`grpc-status-details-bin`: `google.rpc.Status` in base64."""
        status = status_pb2.Status(code=code_pb2.Code.Value(self.code), message=self.text)
        _pack(status.details.add(), error_details_pb2.ErrorInfo(reason=self.reason, domain=NODE_DOMAIN))
        if self.retry_after:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.seconds = self.retry_after
            _pack(status.details.add(), retry)
        return base64.b64encode(status.SerializeToString(deterministic=True)).decode("ascii").rstrip("=")


def _pack(target: Any, message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> None:
    target.Pack(message, deterministic=True)


_JWT = f"metadata.filter_metadata['{JWT_METADATA}']"
_JWT_REFUSED = "response.code_details.startsWith('jwt_authn_access_denied')"
_ACCESS_REFUSED = "response.code_details.startsWith('rbac_access_denied')"
_IS_ACCESS_TOKEN = f"{_JWT}['{HEADER}']['typ'] == '{JWT_TYPE}'"
_IS_BOUND = f"request.headers['{BOUND_TO}'] == connection.sha256_peer_certificate_digest"

_INVALID = 'Bearer error="invalid_token"'

REFUSALS = (
    Refusal(
        reason="TOKEN_MISSING",
        code="UNAUTHENTICATED",
        status=401,
        text="the call carries no access token",
        when=f"{_JWT_REFUSED} && response.code_details.contains('Jwt_is_missing')",
        challenge="Bearer",
    ),
    Refusal(
        reason="TOKEN_EXPIRED",
        code="UNAUTHENTICATED",
        status=401,
        text="the access token has expired or is not valid yet: get a new one",
        when=f"{_JWT_REFUSED} && (response.code_details.contains('Jwt_is_expired')"
        " || response.code_details.contains('Jwt_not_yet_valid'))",
        challenge=_INVALID,
    ),
    Refusal(
        reason="TOKEN_AUDIENCE_MISMATCH",
        code="UNAUTHENTICATED",
        status=401,
        text="the access token is for another audience",
        when=f"{_JWT_REFUSED} && response.code_details.contains('Audiences_in_Jwt_are_not_allowed')",
        challenge=_INVALID,
    ),
    Refusal(
        reason="TOKEN_INVALID",
        code="UNAUTHENTICATED",
        status=401,
        text="the access token is not one of this node's",
        when=_JWT_REFUSED,
        challenge=_INVALID,
    ),
    Refusal(
        reason="CLIENT_REVOKED",
        code="UNAUTHENTICATED",
        status=401,
        text="the client certificate of this connection has been revoked",
        when=f"{_ACCESS_REFUSED} && response.code_details.contains('[{REVOKED}]')",
    ),
    # The access filter says no and not why; its conditions are looked at once more.
    Refusal(
        reason="SCOPE_MISSING",
        code="PERMISSION_DENIED",
        status=403,
        text="the access token lacks a scope that the method needs",
        when=f"{_ACCESS_REFUSED} && {_IS_ACCESS_TOKEN} && {_IS_BOUND}",
        challenge=f'Bearer error="insufficient_scope", scope="%METADATA(ROUTE:{ROUTE_METADATA}:scopes)%"',
    ),
    Refusal(
        reason="TOKEN_BINDING_MISMATCH",
        code="UNAUTHENTICATED",
        status=401,
        text="the access token is bound to another certificate than this connection's, or to none",
        when=f"{_ACCESS_REFUSED} && {_IS_ACCESS_TOKEN}",
        challenge=_INVALID,
    ),
    Refusal(
        reason="TOKEN_INVALID",
        code="UNAUTHENTICATED",
        status=401,
        text="the token is not an access token",
        when=_ACCESS_REFUSED,
        challenge=_INVALID,
    ),
    Refusal(
        reason="METHOD_UNKNOWN",
        code="UNIMPLEMENTED",
        status=404,
        text="there is no such method or path",
        when="response.code == 404",
    ),
    Refusal(
        reason="BODY_TOO_LARGE",
        code="RESOURCE_EXHAUSTED",
        status=413,
        text="the request body is larger than the method takes",
        when="response.code == 413",
    ),
    Refusal(
        reason="JSON_MALFORMED",
        code="INVALID_ARGUMENT",
        status=400,
        text="the request is not of the method's shape",
        when="response.code == 400 && response.code_details.contains('grpc_json_transcode_failure')",
        verbatim=True,
    ),
    Refusal(
        reason="HEADERS_INVALID",
        code="INTERNAL",
        status=431,
        text="the request headers are too large",
        when="response.code == 431",
    ),
    Refusal(
        reason="HEADERS_INVALID",
        code="INTERNAL",
        status=400,
        text="the request line or headers are malformed",
        # 426 is for HTTP before 1.1, 403 for an upgrade that nobody offered.
        when="response.code in [400, 403, 426]",
    ),
    Refusal(
        reason="RATE_LIMITED",
        code="RESOURCE_EXHAUSTED",
        status=429,
        text="more calls than the client is allowed at present",
        when="response.code == 429",
        retry_after=1,
    ),
    Refusal(
        reason="DEADLINE_EXCEEDED",
        code="DEADLINE_EXCEEDED",
        status=504,
        text="the call took longer than it may",
        when="response.code == 504 || response.code == 408",
    ),
    Refusal(
        reason="UNAVAILABLE",
        code="UNAVAILABLE",
        status=503,
        text="a part of the node is away: try again",
        when="response.code == 502 || response.code == 503",
        retry_after=1,
    ),
    Refusal(
        reason="EDGE_REFUSED",
        code="INTERNAL",
        status=500,
        text="the edge cannot serve this request",
        when="true",
    ),
)


def local_replies() -> Json:
    """Local reply configuration of the connection manager."""
    return {"mappers": [mapper for refusal in REFUSALS for mapper in (_grpc(refusal), _rest(refusal))]}


# A translated request looks like gRPC from the transcoder on, but for the path
# that the transcoder puts away; a client's own header of that name is stripped.
_IS_GRPC = {
    "and_filter": {
        "filters": [
            {"header_filter": {"header": xds.GRPC_REQUEST}},
            {"header_filter": {"header": {"name": "x-envoy-original-path", "present_match": False}}},
        ]
    }
}


def _grpc(refusal: Refusal) -> Json:
    headers = {
        "grpc-status": str(code_pb2.Code.Value(refusal.code)),
        "grpc-status-details-bin": refusal.details,
        **_headers(refusal),
    }
    body = {"text_format_source": {"inline_string": refusal.text}, "content_type": "application/grpc"}
    return _mapper({"and_filter": {"filters": [_IS_GRPC, _when(refusal)]}}, refusal, headers, body)


def _rest(refusal: Refusal) -> Json:
    detail = "%LOCAL_REPLY_BODY%" if refusal.verbatim else refusal.text
    document = problem(refusal.reason, status=refusal.status, detail=detail)
    body = {
        "json_format": {**document, "status": "%RESPONSE_CODE%"},
        "content_type": MEDIA_TYPE,
    }
    return _mapper(_when(refusal), refusal, _headers(refusal), body)


def _mapper(filter_: Json, refusal: Refusal, headers: dict[str, str], body: Json) -> Json:
    return {
        "filter": filter_,
        "status_code": refusal.status,
        "headers_to_add": [
            {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            for key, value in headers.items()
        ],
        "body_format_override": body,
    }


def _headers(refusal: Refusal) -> dict[str, str]:
    headers = {}
    if refusal.challenge:
        headers["www-authenticate"] = refusal.challenge
    if refusal.retry_after:
        headers["retry-after"] = str(refusal.retry_after)
    return headers


def _when(refusal: Refusal) -> Json:
    return {
        "extension_filter": xds.extension(
            "envoy.access_loggers.extension_filters.cel",
            "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
            expression=refusal.when,
        )
    }
