"""Grants: what a proven client gets at the token endpoint. Pure rules.

One grant so far, client credentials (RFC 6749, section 4.4).
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Any

from services.authorisations.clients import Client
from services.runtime.errors import InvalidArgument

CLIENT_CREDENTIALS = "client_credentials"

TOKEN_LIFETIME = 300
"""Seconds. A token outlives its client's revocation by no more where the news of it cannot get through."""

_SCOPE = re.compile(r"[!#-\[\]-~]+(?: [!#-\[\]-~]+)*")
"""RFC 6749, section 3.3: scope-tokens separated by single spaces."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A call to the token endpoint, as far as the client credentials grant reads it."""

    grant_type: str
    scope: str
    """As sent: scope-tokens separated by single spaces, or empty."""
    resource: str
    """As sent (RFC 8707), or empty."""
    authorization_details: bool
    """Whether authorisation details came along (RFC 9396)."""


def examine(asked: Asked, *, audience: str) -> None:
    """What can be judged before the client is looked up.

    Raises InvalidArgument: OAUTH_INVALID_REQUEST,
    OAUTH_UNSUPPORTED_GRANT_TYPE, OAUTH_INVALID_TARGET,
    OAUTH_INVALID_AUTHORIZATION_DETAILS. What remains is `client_credentials`.
    """
    # 1. RFC 6749, 4.4.2: the grant type is given, and it is ours.
    if not asked.grant_type:
        raise InvalidArgument("OAUTH_INVALID_REQUEST", "the grant type is missing", parameter="grant_type")
    if asked.grant_type != CLIENT_CREDENTIALS:
        raise InvalidArgument(
            "OAUTH_UNSUPPORTED_GRANT_TYPE", "the node does not have this grant type", grant_type=asked.grant_type
        )
    # 2. RFC 8707, 2: the resource, where one is named, is this node.
    if asked.resource not in ("", audience):
        raise InvalidArgument("OAUTH_INVALID_TARGET", "the resource is not this node")
    # 3. RFC 9396, 5: no type of authorisation details belongs to this grant.
    if asked.authorization_details:
        raise InvalidArgument("OAUTH_INVALID_AUTHORIZATION_DETAILS", "the grant takes no authorisation details")


def client_credentials(asked: Asked, client: Client) -> tuple[str, ...]:
    """The scopes granted to a client that is proven. Raises InvalidArgument, OAUTH_INVALID_SCOPE."""
    # RFC 6749, 3.3: nothing asked for is all that is registered; anything else must be part of it.
    if asked.scope and not _SCOPE.fullmatch(asked.scope):
        raise InvalidArgument("OAUTH_INVALID_SCOPE", "the scope is malformed")
    scopes = tuple(sorted(set(asked.scope.split()))) or client.scopes
    refused = " ".join(scope for scope in scopes if scope not in client.scopes)
    if refused:
        raise InvalidArgument("OAUTH_INVALID_SCOPE", f"the client may not have the scope {refused}", scope=refused)
    if not scopes:
        raise InvalidArgument("OAUTH_INVALID_SCOPE", "the client has no scopes")
    return scopes


def access_token(
    *, client: Client, scopes: tuple[str, ...], certificate_sha256: str, issuer: str, issued_at: int, token_id: str
) -> dict[str, Any]:
    """The claims of an access token (RFC 9068, section 2.2).

    `issued_at` is in seconds since 1970; `certificate_sha256` is hexadecimal.
    The token is bound to the certificate (RFC 8705, section 3.1); `x5t_hex`
    beside `x5t#S256` says the same in the form that the edge can compare.
    """
    thumbprint = base64.urlsafe_b64encode(bytes.fromhex(certificate_sha256)).rstrip(b"=").decode("ascii")
    return {
        "iss": issuer,
        "aud": issuer,
        "sub": client.party,
        "client_id": client.client_id,
        "scope": " ".join(scopes),
        "iat": issued_at,
        "exp": issued_at + TOKEN_LIFETIME,
        "jti": token_id,
        "cnf": {"x5t#S256": thumbprint, "x5t_hex": certificate_sha256},
    }
