"""The node as relying party of an identity provider: OpenID Connect Core 1.0 by code, as FAPI 2.0 has it.

The request is pushed (RFC 9126), with PKCE (RFC 7636) and a nonce; the answer
must say whose it is (RFC 9207). The node proves itself by `private_key_jwt`
(RFC 7523), signed with the key that signs its tokens, so that the provider finds
it in the node's key set and follows its rotation.

Nonce and PKCE verifier are made of the secret that lies in the person's browser:
the node keeps nothing with which anybody else could go on.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Protocol
from urllib.parse import urlencode

import aiohttp

from services.authorisations.assertions import ASSERTION_TYPE
from services.authorisations.identity_providers import Refused
from services.authorisations.log_ins import LOG_IN_AGAIN, LogIn, s256
from services.authorisations.provider_file import LogIn as Terms
from services.authorisations.provider_file import Provider
from services.authorisations.provider_metadata import ProviderMetadata, away, content
from services.runtime import jws
from services.runtime.errors import Unavailable

logger = logging.getLogger(__name__)

REDIRECT_PATH = "/oauth2/callback"
"""Where providers send browsers back to, at the edge's port for browsers."""

SCOPE = "openid"

CALL_SECONDS = 5.0
"""For one call to a provider, while a person waits before an empty page."""

ASSERTION_SECONDS = 60
"""Life of an assertion, which is used at once."""

PASSED_ON = frozenset(
    {
        "access_denied",
        "account_selection_required",
        "consent_required",
        "interaction_required",
        "login_required",
        "temporarily_unavailable",
        "unmet_authentication_requirements",
    }
)
"""Errors of a provider that mean the same to the client; any other is the node's affair."""


class Sign(Protocol):
    """Signs claims as a JWT whose header says `typ`."""

    def __call__(self, claims: Mapping[str, Any], *, typ: str) -> str:
        """The JWT."""


class RelyingParty:
    """Speaks to providers. `redirect_uri` is where they send browsers back to: the node's own."""

    def __init__(
        self, *, http: aiohttp.ClientSession, sign: Sign, redirect_uri: str, clock: Callable[[], datetime]
    ) -> None:
        self._http = http
        self._sign = sign
        self._redirect_uri = redirect_uri
        self._clock = clock
        self._metadata = ProviderMetadata(http=http)

    async def begin(self, provider: Provider, log_in: LogIn, *, state: str, secret: str) -> str:
        """Pushes a request to the provider; where the browser goes. Raises Unavailable, IDENTITY_PROVIDER_AWAY."""
        terms = _terms(provider)
        endpoints = await self._metadata.endpoints(provider, terms)
        asked = {
            "response_type": "code",
            "redirect_uri": self._redirect_uri,
            "scope": SCOPE,
            "state": state,
            "nonce": _derived(secret, "nonce"),
            "code_challenge": s256(_derived(secret, "code_verifier")),
            "code_challenge_method": "S256",
            "acr_values": log_in.acr_values,
            "ui_locales": log_in.ui_locales,
            "prompt": log_in.prompt,
        }
        endpoint = endpoints.pushed_authorization_request_endpoint
        status, answer = await self._post(provider, endpoint, {name: value for name, value in asked.items() if value})
        reference = answer.get("request_uri")
        if status != 201 or not isinstance(reference, str):
            logger.error("a provider takes no request", extra={"issuer": provider.issuer, "status": status})
            raise away()
        joint = "&" if "?" in endpoints.authorization_endpoint else "?"
        query = urlencode({"client_id": terms.client_id, "request_uri": reference})
        return f"{endpoints.authorization_endpoint}{joint}{query}"

    async def id_token(self, provider: Provider, *, iss: str, code: str, error: str, secret: str) -> str:
        """The id_token for a provider's answer. Raises Refused.

        The caller must still verify it: `IdentityProviders.logged_in`.
        """
        # 1. RFC 9207, 2.4: the answer is this provider's, or nothing of it is looked at.
        if iss != provider.issuer:
            raise Refused("server_error")
        # 2. RFC 6749, 4.1.2.1: the provider, or the person, said no.
        if error or not code:
            raise Refused(error if error in PASSED_ON else "server_error")
        # 3. OpenID Connect Core 1.0, 3.1.3: the code for an id_token.
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "code_verifier": _derived(secret, "code_verifier"),
        }
        try:
            endpoints = await self._metadata.endpoints(provider, _terms(provider))
            status, answer = await self._post(provider, endpoints.token_endpoint, form)
        except Unavailable:
            raise Refused("temporarily_unavailable") from None
        found = answer.get("id_token")
        if status != 200 or not isinstance(found, str):
            logger.error("a provider gives no id_token", extra={"issuer": provider.issuer, "status": status})
            raise Refused("server_error")
        return found

    def nonce(self, secret: str) -> str:
        """What the id_token of a log-in must repeat."""
        return _derived(secret, "nonce")

    def since(self, log_in: LogIn) -> float | None:
        """From when on the person must have been asked; None for any time."""
        again = log_in.prompt == LOG_IN_AGAIN and log_in.start_time is not None
        return log_in.start_time.timestamp() if again and log_in.start_time else None

    async def _post(self, provider: Provider, endpoint: str, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """Status and JSON object of a call, with the proof of who calls. Raises Unavailable where there is none."""
        terms = _terms(provider)
        proof = {"client_id": terms.client_id, "client_assertion_type": ASSERTION_TYPE}
        proof["client_assertion"] = self._assertion(terms.client_id, provider.issuer)
        try:
            async with self._http.post(endpoint, data=form | proof, ssl=terms.context, allow_redirects=False) as answer:
                return answer.status, jws.strict_object(await content(answer))
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            logger.warning(
                "a provider does not answer", extra={"issuer": provider.issuer, "error": type(error).__qualname__}
            )
            raise away() from None

    def _assertion(self, client_id: str, audience: str) -> str:
        """RFC 7523, section 3; FAPI 2.0, section 5.3.3.1: the issuer as the only audience."""
        now = int(self._clock().timestamp())
        claims = {
            "iss": client_id,
            "sub": client_id,
            "aud": audience,
            "jti": str(uuid.uuid4()),
            "iat": now,
            "exp": now + ASSERTION_SECONDS,
        }
        return self._sign(claims, typ="JWT")


def session() -> aiohttp.ClientSession:
    """HTTP to providers: their addresses come from the operator; no cookies, no proxies of the environment."""
    timeout = aiohttp.ClientTimeout(total=CALL_SECONDS)
    return aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)


def _derived(secret: str, purpose: str) -> str:
    """43 characters of base64url that only who has the secret can make."""
    digest = hmac.digest(secret.encode(), purpose.encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _terms(provider: Provider) -> Terms:
    assert provider.log_in is not None
    return provider.log_in
