"""Grants: what a proven client gets at the token endpoint. Pure rules.

Client credentials (RFC 6749, section 4.4), and what is common to every grant;
the authorisation code is in `log_ins.py`, token exchange in `exchange.py`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.authorisations.clients import Client
from services.authorisations.exchange import TOKEN_EXCHANGE
from services.runtime.errors import InvalidArgument

CLIENT_CREDENTIALS = "client_credentials"
AUTHORIZATION_CODE = "authorization_code"
GRANT_TYPES = (CLIENT_CREDENTIALS, AUTHORIZATION_CODE, TOKEN_EXCHANGE)

TOKEN_LIFETIME = 300
"""Seconds. A token outlives its client's revocation by no more where the news of it cannot get through."""

_SCOPE = re.compile(r"[!#-\[\]-~]+(?: [!#-\[\]-~]+)*")
"""RFC 6749, section 3.3: scope-tokens separated by single spaces."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A call to the token endpoint, as far as every grant reads it."""

    grant_type: str
    scope: str
    """As sent: scope-tokens separated by single spaces, or empty."""
    resource: str
    """As sent (RFC 8707), or empty."""
    authorization_details: bool
    """Whether authorisation details came along (RFC 9396)."""


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What a token stands on, and therefore the most that it may give."""

    scopes: frozenset[str]
    claims: Mapping[str, Any]
    """Who the token is about: `sub`, and what belongs to it."""
    expires: int | None = None
    """In seconds since 1970; None where only the lifetime of tokens bounds it."""
    origin: str = ""
    """The `jti` of the token of this node that it was exchanged from; empty for none."""


def examine(asked: Asked, *, audience: str) -> None:
    """What can be judged before the client is looked up.

    Raises InvalidArgument: OAUTH_INVALID_REQUEST,
    OAUTH_UNSUPPORTED_GRANT_TYPE, OAUTH_INVALID_TARGET,
    OAUTH_INVALID_AUTHORIZATION_DETAILS.
    """
    # 1. RFC 6749, 4.4.2: the grant type is given, and it is ours.
    if not asked.grant_type:
        raise InvalidArgument("OAUTH_INVALID_REQUEST", "the grant type is missing", parameter="grant_type")
    if asked.grant_type not in GRANT_TYPES:
        raise InvalidArgument(
            "OAUTH_UNSUPPORTED_GRANT_TYPE", "the node does not have this grant type", grant_type=asked.grant_type
        )
    # 2. RFC 8707, 2: the resource, where one is named, is this node.
    if asked.resource not in ("", audience):
        raise InvalidArgument("OAUTH_INVALID_TARGET", "the resource is not this node")
    # 3. RFC 9396, 5: no type of authorisation details belongs to a client's own token, or to a person's.
    if asked.authorization_details and asked.grant_type != TOKEN_EXCHANGE:
        raise InvalidArgument("OAUTH_INVALID_AUTHORIZATION_DETAILS", "the grant takes no authorisation details")


def client_credentials(client: Client) -> Basis:
    """A client that is proven, and asks for itself."""
    return Basis(scopes=frozenset(client.scopes), claims={"sub": client.party})


def scopes(asked: Asked, basis: Basis) -> tuple[str, ...]:
    """The scopes granted. Raises InvalidArgument, OAUTH_INVALID_SCOPE."""
    # RFC 6749, 3.3: nothing asked for is all that there is; anything else must be part of it.
    if asked.scope and not _SCOPE.fullmatch(asked.scope):
        raise InvalidArgument("OAUTH_INVALID_SCOPE", "the scope is malformed")
    wanted = tuple(sorted(set(asked.scope.split()) or basis.scopes))
    refused = " ".join(scope for scope in wanted if scope not in basis.scopes)
    if refused:
        raise InvalidArgument("OAUTH_INVALID_SCOPE", f"the client may not have the scope {refused}", scope=refused)
    if not wanted:
        raise InvalidArgument("OAUTH_INVALID_SCOPE", "there are no scopes to be had")
    return wanted


def access_token(
    *,
    client: Client,
    basis: Basis,
    scopes: tuple[str, ...],
    certificate_sha256: str,
    issuer: str,
    issued_at: int,
    token_id: str,
) -> dict[str, Any]:
    """The claims of an access token (RFC 9068, section 2.2).

    `issued_at` is in seconds since 1970; `certificate_sha256` is hexadecimal.
    The token is bound to the certificate (RFC 8705, section 3.1); `x5t_hex`
    beside `x5t#S256` says the same in the form that the edge can compare.
    Raises InvalidArgument, OAUTH_INVALID_GRANT, where its basis ends now.
    """
    thumbprint = base64.urlsafe_b64encode(bytes.fromhex(certificate_sha256)).rstrip(b"=").decode("ascii")
    longest = issued_at + TOKEN_LIFETIME
    expires = longest if basis.expires is None else min(longest, basis.expires)
    if expires <= issued_at:
        raise InvalidArgument("OAUTH_INVALID_GRANT", "what the token would stand on has ended")
    return {
        **basis.claims,
        "iss": issuer,
        "aud": issuer,
        "client_id": client.client_id,
        "scope": " ".join(scopes),
        "iat": issued_at,
        "exp": expires,
        "jti": token_id,
        "cnf": {"x5t#S256": thumbprint, "x5t_hex": certificate_sha256},
    }
