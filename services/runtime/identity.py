"""Who calls: the peer's certificate, and the token that it carries.

A call comes from the edge with a client's access token, or from another
service of the node. The edge has checked the token already; it is checked
again here, so that an edge that is taken over cannot speak for clients:
signature, type, issuer, audience, times, and the binding to the certificate
that the client showed to the edge (RFC 9068, section 4; RFC 8705, section 3).
Verified tokens are remembered by their hash until they expire.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jwt

from services.runtime import jws, xfcc
from services.runtime.errors import Fault, Unauthenticated

ALGORITHM = jws.ES256
"""The one algorithm of access tokens; never taken from the token."""

CLOCK_SKEW = 5
"""Seconds by which clocks of the node's machines may differ; the edge allows the same."""

REMEMBERED_TOKENS = 10_000
"""Verified tokens kept in memory, about 1 KiB each; beyond that the oldest is verified again."""

REFRESH_INTERVAL = 5.0
"""Seconds between two look-ups of the key set on unknown keys, so that forged key ids cannot flood the issuer."""


CERTIFICATES = "certificates/"
"""Begins the names of client certificates; neither a client's id nor a token's has a slash in it."""

SERIAL_HEADER = "x-edge-certificate-serial"
"""In which the edge says the serial number of the client's certificate; it strips what comes from outside."""


@dataclass(frozen=True)
class Right:
    """What allows somebody to act in another's name, as it was found to be at one moment."""

    mandates: tuple[str, ...] = ()
    """`mandates/{mandate}`, that of the one who acts first; none where a register gives the right."""
    through: str = ""
    """The organisation in between, a party name; empty for none."""
    specifier: str = ""
    """On which one thing it is to act; empty for all."""


ASSURANCE_LEVELS = {
    "http://eidas.europa.eu/LoA/low": 1,
    "http://eidas.europa.eu/LoA/substantial": 2,
    "http://eidas.europa.eu/LoA/high": 3,
}
"""The levels of eIDAS by their names in `acr`; numbered as in the contract's AssuranceLevel, where 0 is unknown."""


@dataclass(frozen=True)
class Caller:
    """Who calls a method."""

    service: str
    """The service whose certificate was shown: "edge" for clients."""
    client_id: str = ""
    """The client (information system) that the token was issued to; empty for services."""
    party: str = ""
    """In whose name it calls: `organisations/...` or `persons/...`; empty for services."""
    actor: str = ""
    """Who acts in that name by a mandate (RFC 8693, section 4.1), a party name; empty where the party itself calls."""
    acr: str = ""
    """How surely the person is known: "http://eidas.europa.eu/LoA/" and low, substantial or high; empty for unknown."""
    authorization_details: tuple[Mapping[str, Any], ...] = ()
    """The mandates that the token rests on (RFC 9396), each with `type` "mandate", `theme` and `mandates`."""
    right: Right | None = None
    """What allows the actor to act, found anew for this call; None where the party itself calls."""
    scopes: frozenset[str] = frozenset()
    """What the token allows."""
    token_id: str = ""
    """The token's `jti`."""
    certificate: str = ""
    """The client's certificate: `certificates/` and its serial number in hexadecimal. Empty where an adapter calls for
    the client; adapters serve no streams."""
    expires: float = 0.0
    """When the token expires, in seconds since 1970; 0 for services."""
    node: str = ""
    """The other node that calls, by its identifier; empty for all others."""

    @property
    def assurance_level(self) -> int:
        """How surely the person is known, as in `ASSURANCE_LEVELS`; 0 for unknown."""
        return ASSURANCE_LEVELS.get(self.acr, 0)

    @property
    def client(self) -> str:
        """The client's resource name."""
        return f"clients/{self.client_id}" if self.client_id else ""


_caller: ContextVar[Caller] = ContextVar("caller")


def caller() -> Caller:
    """Who calls the method that is being served. Raises LookupError outside of one."""
    return _caller.get()


def set_caller(value: Caller) -> None:
    """For the chain, and for tests that call a servicer without it."""
    _caller.set(value)


@lru_cache(maxsize=REMEMBERED_TOKENS)
def fingerprint(forwarded: str) -> str:
    """The SHA-256 of the client's certificate as the edge saw it, hexadecimal; "" where the header proves nothing.

    `forwarded` is x-forwarded-client-cert: the edge strips what comes from
    outside and sets it anew.
    """
    try:
        return xfcc.parse(forwarded).sha256
    except xfcc.XfccError:
        return ""


def keys_of(jwks: str) -> dict[str, jwt.PyJWK]:
    """The keys of a JSON Web Key Set that may verify access tokens. Raises ValueError where it is none."""
    return jws.keys_of(jwks, {ALGORITHM})


class TokenVerifier:
    """Verifies access tokens against the issuer's keys.

    `fetch` returns the issuer's JSON Web Key Set; it is called when a token
    names a key that is not known yet. What remains to be checked by the caller:
    scopes, and whether the client or the token has been revoked.
    """

    def __init__(
        self,
        *,
        issuer: str,
        fetch: Callable[[], Awaitable[str]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._issuer = issuer
        self._fetch = fetch
        self._clock = clock
        self._keys: jws.Keys = {}
        self._fetched = float("-inf")
        self._fetching: asyncio.Task[None] | None = None
        self._verified: dict[bytes, dict[str, Any]] = {}

    async def verify(self, token: str, certificate: str) -> dict[str, Any]:
        """The claims of a token that the holder of the certificate (SHA-256, hexadecimal) may use.

        Raises as `claims` does, and TOKEN_BINDING_MISMATCH.
        """
        claims = await self.claims(token)
        if not certificate or not hmac.compare_digest(_bound_to(claims), certificate):
            raise Unauthenticated(
                "TOKEN_BINDING_MISMATCH", "the access token is bound to another client certificate, or to none"
            )
        return claims

    async def claims(self, token: str) -> dict[str, Any]:
        """The claims of a good token, whoever holds it.

        Raises Unauthenticated with TOKEN_INVALID, TOKEN_EXPIRED or
        TOKEN_AUDIENCE_MISMATCH, and Unavailable where the key set cannot be had.
        """
        digest = hashlib.sha256(token.encode()).digest()
        claims = self._verified.get(digest)
        if claims is None:
            claims = self._check(token, await self._keys_for(token))
            if len(self._verified) >= REMEMBERED_TOKENS:
                del self._verified[next(iter(self._verified))]
            self._verified[digest] = claims
        elif claims["exp"] + CLOCK_SKEW <= self._clock():
            del self._verified[digest]
            raise Unauthenticated("TOKEN_EXPIRED", "the access token has expired")
        return claims

    async def _keys_for(self, token: str) -> jws.Keys:
        try:
            header = jws.header(token)
        except jws.JwsError:
            raise Unauthenticated("TOKEN_INVALID", "the access token is malformed") from None
        kind, key_id = header.get("typ"), header.get("kid")
        if not isinstance(kind, str) or kind.lower() not in ("at+jwt", "application/at+jwt"):
            raise Unauthenticated("TOKEN_INVALID", "the token is not an access token (RFC 9068)")
        if isinstance(key_id, str) and key_id not in self._keys:
            await self._renewed()
        return self._keys

    async def _renewed(self) -> None:
        """Waits until the keys are new enough; all who wait share one fetch, and its failure."""
        if self._fetching is None:
            if self._clock() - self._fetched < REFRESH_INTERVAL:
                return
            self._fetching = asyncio.create_task(self._renew())
        await asyncio.shield(self._fetching)

    async def _renew(self) -> None:
        try:
            self._keys = keys_of(await self._fetch())
            self._fetched = self._clock()
        finally:
            self._fetching = None

    def _check(self, token: str, keys: jws.Keys) -> dict[str, Any]:
        now = self._clock()
        try:
            claims = jws.claims(token, keys)
        except jws.JwsError:
            raise Unauthenticated("TOKEN_INVALID", "the access token does not verify") from None
        if claims.get("iss") != self._issuer or "aud" not in claims:
            raise Unauthenticated("TOKEN_INVALID", "the access token is not of this issuer, or names no audience")
        if claims["aud"] != self._issuer:
            raise Unauthenticated("TOKEN_AUDIENCE_MISMATCH", "the access token is for another audience")
        if not all(type(claims.get(name)) is int for name in ("exp", "iat")):
            raise Unauthenticated("TOKEN_INVALID", "the access token has times that are no whole numbers")
        if not all(isinstance(claims.get(name), str) for name in ("sub", "client_id", "jti", "scope")):
            raise Unauthenticated("TOKEN_INVALID", "the access token lacks claims, or has them of the wrong type")
        not_before = claims.get("nbf", claims["iat"])
        if type(not_before) is not int:
            raise Unauthenticated("TOKEN_INVALID", "the access token has times that are no whole numbers")
        _check_representation(claims)
        if claims["exp"] + CLOCK_SKEW <= now or not_before > now + CLOCK_SKEW:
            raise Unauthenticated("TOKEN_EXPIRED", "the access token has expired, or is not valid yet")
        return claims


def _check_representation(claims: Mapping[str, Any]) -> None:
    """Who acts and by what, where the token says so: of the types that a Caller has."""
    acting, details = claims.get("act", {"sub": "nobody"}), claims.get("authorization_details", [])
    named = isinstance(acting, dict) and isinstance(acting.get("sub"), str) and acting["sub"]
    listed = isinstance(details, list) and all(isinstance(detail, dict) for detail in details)
    if not named or not listed or not isinstance(claims.get("acr", ""), str):
        raise Unauthenticated("TOKEN_INVALID", "the access token has claims of the wrong type")


def _bound_to(claims: Mapping[str, Any]) -> str:
    confirmation = claims.get("cnf")
    thumbprint = confirmation.get("x5t#S256") if isinstance(confirmation, dict) else None
    if not isinstance(thumbprint, str):
        return ""
    try:
        return jwt.utils.base64url_decode(thumbprint).hex()
    except ValueError:
        return ""


class Authenticator:
    """Turns a peer's certificate name and a call's metadata into a Caller."""

    def __init__(self, *, verifier: TokenVerifier, revoked: Callable[[str], bool]) -> None:
        self._verifier = verifier
        self._revoked = revoked

    async def client(self, metadata: Mapping[str, str]) -> Caller:
        """The client behind a call of the edge. Raises Unauthenticated."""
        scheme, _, token = metadata.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("TOKEN_MISSING", "the call carries no access token")
        claims = await self._verifier.verify(token, fingerprint(metadata.get("x-forwarded-client-cert", "")))
        current = Caller(
            service="edge",
            client_id=claims["client_id"],
            party=claims["sub"],
            actor=claims["act"]["sub"] if "act" in claims else "",
            acr=claims.get("acr", ""),
            authorization_details=tuple(claims.get("authorization_details", ())),
            scopes=frozenset(claims["scope"].split()),
            token_id=claims["jti"],
            certificate=f"{CERTIFICATES}{serial}" if (serial := metadata.get(SERIAL_HEADER)) else "",
            expires=claims["exp"],
        )
        if (fault := _revoked(current, self._revoked)) is not None:
            raise fault
        return current


def still_valid(
    current: Caller, *, revoked: Callable[[str], bool], clock: Callable[[], float] = time.time
) -> Fault | None:
    """Why a stream of this caller must end now, or None. For streams that outlive the check at their start."""
    if current.expires and current.expires + CLOCK_SKEW <= clock():
        return Unauthenticated("TOKEN_EXPIRED", "the access token has expired")
    return _revoked(current, revoked)


def _revoked(current: Caller, revoked: Callable[[str], bool]) -> Fault | None:
    if current.client_id and revoked(current.client_id):
        return Unauthenticated("CLIENT_REVOKED", "the client has been revoked")
    if current.certificate and revoked(current.certificate):
        return Unauthenticated("CLIENT_REVOKED", "the client certificate of this connection has been revoked")
    if current.token_id and revoked(current.token_id):
        return Unauthenticated("TOKEN_REVOKED", "the access token has been taken back")
    return None
