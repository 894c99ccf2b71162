"""Problem documents (RFC 9457): what a REST caller sees of a refusal.

    {"type": "urn:solmu:reason:SCOPE_MISSING", "title": "Forbidden", "status": 403,
     "detail": "...", "reason": "SCOPE_MISSING", "domain": "node.solmu"}

`reason` and `domain` are those of the `google.rpc.ErrorInfo` that a gRPC
caller sees; they never change for one and the same failure, `detail` may.
"""

from __future__ import annotations

from typing import Any

MEDIA_TYPE = "application/problem+json"

NODE_DOMAIN = "node.solmu"
"""Domain of the reasons in `solmu.runtime.v1.ErrorReason`, which the edge gives too."""

TYPE_PREFIX = "urn:solmu:reason:"

TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    412: "Precondition Failed",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    499: "Client Closed Request",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
"""Reason phrases of RFC 9110, and the one that gRPC's CANCELLED has at REST."""

STATUS_OF_CODE = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
"""The status at REST of each of gRPC's, as Envoy's transcoder has it; any other is 500."""


def problem(reason: str, *, status: int, detail: str, domain: str = NODE_DOMAIN) -> dict[str, Any]:
    """The document of one refusal."""
    return {
        "type": TYPE_PREFIX + reason,
        "title": TITLES[status],
        "status": status,
        "detail": detail,
        "reason": reason,
        "domain": domain,
    }
