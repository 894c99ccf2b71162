"""What is logged of a request: JSON lines on standard output, with no personal data in them.

No path, no query string, no token, no body: what was called is the route, for
a mistaken client may put anything into a path. Who called is the client and
its certificate.
"""

from __future__ import annotations

from gateway.envoy import xds
from gateway.envoy.filters import CLIENT_ID, TOKEN_ID
from gateway.envoy.plan import Json

_CLIENT = {
    "certificate": "%DOWNSTREAM_PEER_FINGERPRINT_256%",
    "certificate_uri": "%DOWNSTREAM_PEER_URI_SAN%",
    "tls": "%DOWNSTREAM_TLS_VERSION%",
    "time": "%START_TIME%",
}

_REQUEST = {
    **_CLIENT,
    "client": f"%REQ({CLIENT_ID})%",
    "token": f"%REQ({TOKEN_ID})%",
    "method": "%REQ(X-ENVOY-ORIGINAL-METHOD?:METHOD)%",
    "route": "%ROUTE_NAME%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "grpc_status": "%GRPC_STATUS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "flags": "%RESPONSE_FLAGS%",
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
    "milliseconds": "%DURATION%",
    "upstream_milliseconds": "%RESPONSE_DURATION%",
    "upstream": "%UPSTREAM_CLUSTER%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "traceparent": "%REQ(TRACEPARENT):55%",
    "log": "edge.request",
}

_HANDSHAKE = {
    **_CLIENT,
    "address": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%",
    "failure": "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%",
    "log": "edge.handshake",
}


def requests() -> list[Json]:
    """One line for each request."""
    return [_stdout(_REQUEST)]


def refused_handshakes() -> list[Json]:
    """One line for each connection that TLS refused: a missing, foreign, expired or revoked certificate.

    The caller is told no reason but a TLS alert, so this is the place to look.
    It has the network address, since nothing else says who it was.
    """
    return [{**_stdout(_HANDSHAKE), "filter": _HANDSHAKE_FAILED}]


_HANDSHAKE_FAILED = {
    "extension_filter": xds.extension(
        "envoy.access_loggers.extension_filters.cel",
        "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
        expression="connection.transport_failure_reason != ''",
    )
}


def _stdout(fields: Json) -> Json:
    return xds.extension(
        "envoy.access_loggers.stdout",
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
        log_format={"json_format": fields},
    )
