"""Log-ins: from a client's pushed request, by way of an identity provider, to a code. Pure rules.

Authorisation code (RFC 6749, section 4.1) with PKCE (RFC 7636), after a pushed
request and never without (RFC 9126), as FAPI 2.0 Security Profile has it. A
log-in goes one way through three moves, each made once and in time:

    pushed  --the browser comes-->  started  --it comes back-->  finished  --the code is used-->  over
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlencode
from uuid import UUID

from services.authorisations import grants
from services.authorisations.clients import Client
from services.authorisations.grants import AUTHORIZATION_CODE, Asked, Basis
from services.runtime.errors import InvalidArgument, PermissionDenied

REQUEST_PREFIX = "urn:ietf:params:oauth:request_uri:"
"""RFC 9126, section 2.2."""

REQUEST_LIFETIME = timedelta(seconds=60)
"""For the browser to come with the reference. FAPI 2.0 allows up to ten minutes; it comes at once."""

LOG_IN_LIFETIME = timedelta(minutes=10)
"""For the person at the identity provider, who may have to find a telephone first."""

CODE_LIFETIME = timedelta(seconds=60)
"""FAPI 2.0 Security Profile, section 5.3.2.1: at most 60 seconds."""

LOG_IN_AGAIN = "login"
"""The one `prompt`."""

_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")
"""RFC 7636, section 4.1."""
_PRINTABLE = re.compile(r"[\x20-\x7e]*")
"""RFC 6749, appendix A.5."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """The parameters of a pushed request, as sent."""

    response_type: str
    redirect_uri: str
    scope: str
    state: str
    code_challenge: str
    code_challenge_method: str
    acr_values: str
    ui_locales: str
    prompt: str
    identity_provider: str
    """`identityProviders/{provider}`, or empty for the first."""


@dataclass(frozen=True, kw_only=True)
class LogIn:
    """A log-in that a client has begun."""

    log_in: UUID
    client_id: str
    provider: str
    """`identityProviders/{provider}`."""
    redirect_uri: str
    scope: str
    client_state: str
    code_challenge: str
    acr_values: str
    ui_locales: str
    prompt: str
    expire_time: datetime
    """When its next move must have been made."""
    start_time: datetime | None = None
    """When the person was sent to the provider."""
    finish_time: datetime | None = None
    """When the person came back."""
    party: str = ""
    """Who it turned out to be. Empty until then, and where it failed."""
    acr: str = ""
    auth_time: int | None = None
    provider_until: int | None = None
    """When the provider's word ends, in seconds since 1970."""
    token_id: str = ""
    """The `jti` of the token for which the code was used."""


def pushed(request: Request, client: Client, *, providers: Collection[str], log_in: UUID, now: datetime) -> LogIn:
    """The log-in that a client, which is proven, begins at one of the providers.

    Raises InvalidArgument: OAUTH_UNSUPPORTED_RESPONSE_TYPE,
    OAUTH_INVALID_REQUEST, OAUTH_INVALID_SCOPE, REDIRECT_URI_UNKNOWN;
    PermissionDenied, OAUTH_UNAUTHORIZED_CLIENT.
    """
    # 1. The client is one to which people log in (RFC 6749, 2).
    if not client.redirect_uris:
        raise PermissionDenied("OAUTH_UNAUTHORIZED_CLIENT", "the client is not one to which people log in")
    # 2. RFC 6749, 4.1.1, with the one response type of FAPI 2.0, 5.3.2.2.
    if request.response_type != "code":
        raise InvalidArgument("OAUTH_UNSUPPORTED_RESPONSE_TYPE", "the response type must be code")
    # 3. FAPI 2.0, 5.3.2.2: the redirect URI is given, and compared as a string.
    if request.redirect_uri not in client.redirect_uris:
        raise InvalidArgument("REDIRECT_URI_UNKNOWN", "the redirect URI is not one of the client's")
    # 4. RFC 7636, 4.3; FAPI 2.0, 5.3.2.2: S256, and nothing else.
    if request.code_challenge_method != "S256":
        raise _malformed("the challenge method must be S256", "code_challenge_method")
    if not _CHALLENGE.fullmatch(request.code_challenge):
        raise _malformed("the challenge is missing, or no SHA-256 in base64url", "code_challenge")
    # 5. What travels on is text without line ends.
    for name in ("state", "acr_values", "ui_locales"):
        if not _PRINTABLE.fullmatch(getattr(request, name)):
            raise _malformed(f"{name} has other characters than printable ASCII", name)
    if request.prompt not in ("", LOG_IN_AGAIN):
        raise _malformed("prompt can only be login", "prompt")
    # 6. The provider is there.
    provider = request.identity_provider or next(iter(providers), "")
    if provider not in providers:
        raise _malformed("there is no such identity provider", "identity_provider")
    # 7. RFC 6749, 3.3: no more scopes than the client may have.
    asked = Asked(grant_type=AUTHORIZATION_CODE, scope=request.scope, resource="", authorization_details=False)
    grants.scopes(asked, Basis(scopes=frozenset(client.scopes), claims={}))
    return LogIn(
        log_in=log_in,
        client_id=client.client_id,
        provider=provider,
        redirect_uri=request.redirect_uri,
        scope=request.scope,
        client_state=request.state,
        code_challenge=request.code_challenge,
        acr_values=request.acr_values,
        ui_locales=request.ui_locales,
        prompt=request.prompt,
        expire_time=now + REQUEST_LIFETIME,
    )


def redeemed(log_in: LogIn, client: Client, *, redirect_uri: str, code_verifier: str, now: datetime) -> Basis:
    """What the code of a log-in is worth to a client, which is proven. Raises InvalidArgument, OAUTH_INVALID_GRANT.

    Does not look at whether the code has been used: whoever keeps log-ins does.
    """
    # 1. RFC 6749, 4.1.3: it was issued to this client, and for this redirect URI.
    if log_in.client_id != client.client_id or log_in.redirect_uri != redirect_uri:
        raise refused()
    # 2. It is still good, and somebody has logged in.
    if log_in.expire_time <= now or not log_in.party:
        raise refused()
    # 3. RFC 7636, 4.6: who shows it is who began.
    if not _VERIFIER.fullmatch(code_verifier) or not hmac.compare_digest(s256(code_verifier), log_in.code_challenge):
        raise refused()
    claims: dict[str, object] = {"sub": log_in.party}
    if log_in.acr:
        claims["acr"] = log_in.acr
    if log_in.auth_time is not None:
        claims["auth_time"] = log_in.auth_time
    # 4. RFC 6749, 3.3: the scopes that were asked for, as far as the client still has them.
    scopes = frozenset(client.scopes)
    if log_in.scope:
        scopes &= frozenset(log_in.scope.split())
    return Basis(scopes=scopes, claims=claims, expires=log_in.provider_until)


def back(log_in: LogIn, *, issuer: str, **answer: str) -> str:
    """Where the browser goes: the client's redirect URI, with `code` or `error` (RFC 6749, 4.1.2; RFC 9207)."""
    parameters = answer | ({"state": log_in.client_state} if log_in.client_state else {}) | {"iss": issuer}
    joint = "&" if "?" in log_in.redirect_uri else "?"
    return f"{log_in.redirect_uri}{joint}{urlencode(parameters)}"


def s256(verifier: str) -> str:
    """The challenge of a PKCE verifier (RFC 7636, section 4.2)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def unknown() -> InvalidArgument:
    """The one answer where a log-in cannot go on."""
    return InvalidArgument(
        "LOG_IN_UNKNOWN", "the log-in is unknown, has lapsed, was finished, or was begun in another browser"
    )


def refused() -> InvalidArgument:
    """The one answer to a code that is worth nothing."""
    return InvalidArgument("OAUTH_INVALID_GRANT", "the code is not one that this client can use now")


def _malformed(message: str, parameter: str) -> InvalidArgument:
    return InvalidArgument("OAUTH_INVALID_REQUEST", message, parameter=parameter)
