"""OpenID Connect by code (Core 1.0, section 3.1), as FAPI 2.0 Security Profile has it.

    POST /par                                  RFC 9126
    GET  /authorize                            the page of people
    POST /authorize                            who was chosen
    POST /token                                RFC 6749, section 4.1.3; RFC 7636
    GET  /jwks                                 RFC 7517
    GET  /.well-known/openid-configuration     OpenID Connect Discovery 1.0

Everything is kept in memory, for minutes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import jwt
from aiohttp import hdrs, web
from cryptography.hazmat.primitives.asymmetric import ec

from deploy.local.identity_provider import pages
from deploy.local.identity_provider.people import PEOPLE
from services.runtime import jws

ALGORITHM = jws.ES256
CODE_CLAIM = "urn:oid:1.2.246.21"
"""Where the personal identity code stands, as Finnish identity providers have it."""

ASSURANCE = {
    "http://eidas.europa.eu/LoA/high": "high",
    "http://eidas.europa.eu/LoA/substantial": "substantial",
    "http://eidas.europa.eu/LoA/low": "low",
}
"""The levels of eIDAS that can be chosen, by the `acr` that says them."""

REQUEST_SECONDS = 600
"""Somebody may look at the page for a while."""
CODE_SECONDS = 60
TOKEN_SECONDS = 300

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
REFERENCE = "urn:ietf:params:oauth:request_uri:"

_NOT_STORED = {hdrs.CACHE_CONTROL: "no-store"}

FetchKeys = Callable[[], Awaitable[str]]
"""Returns a client's key set (RFC 7517)."""


@dataclass(frozen=True)
class Registered:
    """A client."""

    redirect_uris: tuple[str, ...]
    keys: FetchKeys | None
    """With which it proves itself by `private_key_jwt`; None for a public client."""


@dataclass(frozen=True)
class Pending:
    """What waits for its next step, and until when."""

    parameters: Mapping[str, str]
    until: float
    claims: Mapping[str, Any] = field(default_factory=dict)
    """Of whoever was chosen."""


class RefusedError(Exception):
    """A refusal in the form of RFC 6749, section 5.2."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(error, description)
        self.error, self.description, self.status = error, description, status


class IdentityProvider:
    """The endpoints. `issuer` is its origin, `key` signs its id_tokens."""

    def __init__(
        self,
        *,
        issuer: str,
        key: ec.EllipticCurvePrivateKey,
        clients: Mapping[str, Registered],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._issuer = issuer
        self._key = key
        self._clients = clients
        self._clock = clock
        self._requests: dict[str, Pending] = {}
        self._codes: dict[str, Pending] = {}
        self._used: dict[str, Pending] = {}

    def application(self) -> web.Application:
        """What serves it."""
        application = web.Application(middlewares=[_answered], client_max_size=64 << 10)
        application.add_routes(
            [
                web.post("/par", self.push),
                web.get("/authorize", self.show),
                web.post("/authorize", self.choose),
                web.post("/token", self.token),
                web.get("/jwks", self.keys),
                web.get("/.well-known/openid-configuration", self.metadata),
            ]
        )
        return application

    async def push(self, request: web.Request) -> web.Response:
        """Takes a request from a client itself."""
        parameters = await _form(request)
        client = await self._client(parameters)
        if parameters.get("response_type") != "code" or "request_uri" in parameters:
            raise RefusedError("invalid_request", "only response_type code, and no request_uri")
        if parameters.get("redirect_uri") not in client.redirect_uris:
            raise RefusedError("invalid_request", "the redirect URI is not registered")
        if parameters.get("code_challenge_method") != "S256" or not parameters.get("code_challenge"):
            raise RefusedError("invalid_request", "PKCE with S256 is needed")
        if "openid" not in parameters.get("scope", "").split():
            raise RefusedError("invalid_scope", "the scope must contain openid")
        reference = REFERENCE + self._keep(self._requests, parameters, REQUEST_SECONDS)
        return web.json_response({"request_uri": reference, "expires_in": REQUEST_SECONDS}, status=201)

    async def show(self, request: web.Request) -> web.Response:
        """The page on which somebody chooses who to be."""
        reference = request.query.get("request_uri", "")
        pending = self._asked(request.query.get("client_id", ""), reference)
        wanted = pending.parameters.get("acr_values", "").split()
        chosen = next((acr for acr in wanted if acr in ASSURANCE), next(iter(ASSURANCE)))
        return pages.people(reference, pending.parameters["client_id"], PEOPLE, ASSURANCE, chosen=chosen)

    async def choose(self, request: web.Request) -> web.Response:
        """Sends the browser back with a code for the chosen person, or with the refusal."""
        form = await _form(request)
        reference = form.get("request_uri", "")
        parameters = self._asked(form.get("client_id", ""), reference).parameters
        answer = self._answer(form, parameters)
        del self._requests[reference.removeprefix(REFERENCE)]
        state = {"state": parameters["state"]} if "state" in parameters else {}
        uri = parameters["redirect_uri"]
        joint = "&" if "?" in uri else "?"
        location = f"{uri}{joint}{urlencode(answer | state | {'iss': self._issuer})}"
        return web.Response(status=303, headers={hdrs.LOCATION: location, **_NOT_STORED})

    async def token(self, request: web.Request) -> web.Response:
        """An id_token for a code."""
        parameters = await _form(request)
        await self._client(parameters)
        pending = self._codes.pop(parameters.get("code", ""), None)
        if parameters.get("grant_type") != "authorization_code":
            raise RefusedError("unsupported_grant_type", "only authorization_code")
        if pending is None or pending.until < self._clock():
            raise RefusedError("invalid_grant", "the code is unknown, used, or too old")
        begun = pending.parameters
        if any(parameters.get(name) != begun[name] for name in ("client_id", "redirect_uri")):
            raise RefusedError("invalid_grant", "the code was issued to another")
        if _digest(parameters.get("code_verifier", "")) != begun["code_challenge"]:
            raise RefusedError("invalid_grant", "the verifier does not fit")
        now = int(self._clock())
        claims = {
            "iss": self._issuer,
            "aud": begun["client_id"],
            "iat": now,
            "exp": now + TOKEN_SECONDS,
            **({"nonce": begun["nonce"]} if "nonce" in begun else {}),
            **pending.claims,
        }
        id_token = jwt.encode(claims, self._key, ALGORITHM, headers={"kid": key_set(self._key)["keys"][0]["kid"]})
        # OpenID Connect Core 1.0, 3.1.3.3, has an access token beside it; this one opens nothing.
        members = {"id_token": id_token, "access_token": secrets.token_urlsafe(32), "token_type": "Bearer"}
        return web.json_response(members | {"expires_in": TOKEN_SECONDS}, headers=_NOT_STORED)

    async def keys(self, _: web.Request) -> web.Response:
        """The key that verifies its id_tokens."""
        return web.json_response(key_set(self._key))

    async def metadata(self, _: web.Request) -> web.Response:
        """What it is and can do."""
        return web.json_response(
            {
                "issuer": self._issuer,
                "authorization_endpoint": f"{self._issuer}/authorize",
                "pushed_authorization_request_endpoint": f"{self._issuer}/par",
                "token_endpoint": f"{self._issuer}/token",
                "jwks_uri": f"{self._issuer}/jwks",
                "require_pushed_authorization_requests": True,
                "authorization_response_iss_parameter_supported": True,
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "code_challenge_methods_supported": ["S256"],
                "id_token_signing_alg_values_supported": [ALGORITHM],
                "acr_values_supported": list(ASSURANCE),
                "token_endpoint_auth_methods_supported": ["private_key_jwt", "none"],
            }
        )

    def _answer(self, form: Mapping[str, str], parameters: Mapping[str, str]) -> dict[str, str]:
        if "person" not in form:
            return {"error": "access_denied"}
        chosen, acr = form["person"], form.get("acr", "")
        if not chosen.isdigit() or int(chosen) >= len(PEOPLE) or acr not in ASSURANCE:
            raise RefusedError("invalid_request", "there is no such person")
        person = PEOPLE[int(chosen)]
        claims = {
            "sub": _digest(person.code),
            "name": person.name,
            CODE_CLAIM: person.code,
            "acr": acr,
            "auth_time": int(self._clock()),
        }
        return {"code": self._keep(self._codes, parameters, CODE_SECONDS, claims)}

    def _asked(self, client_id: str, reference: str) -> Pending:
        """The request that a browser came with."""
        pending = self._requests.get(reference.removeprefix(REFERENCE))
        if pending is None or pending.until < self._clock() or pending.parameters["client_id"] != client_id:
            raise RefusedError("invalid_request", "the request is unknown, was answered, or is too old: begin again")
        return pending

    async def _client(self, parameters: Mapping[str, str]) -> Registered:
        """The client that calls, proven (RFC 7523, section 3)."""
        client = self._clients.get(parameters.get("client_id", ""))
        if client is None:
            raise RefusedError("invalid_client", "there is no such client", 401)
        if client.keys is not None:
            await self._prove(client.keys, parameters)
        return client

    async def _prove(self, fetch: FetchKeys, parameters: Mapping[str, str]) -> None:
        refusal = RefusedError("invalid_client", "the client does not prove itself", 401)
        if parameters.get("client_assertion_type") != ASSERTION_TYPE:
            raise refusal
        try:
            keys = jws.keys_of(await fetch(), {ALGORITHM})
            claims = jws.claims(parameters.get("client_assertion", ""), keys)
        except ValueError:
            raise refusal from None
        now, client_id, expires = self._clock(), parameters["client_id"], claims.get("exp")
        named = claims.get("iss") == claims.get("sub") == client_id and claims.get("aud") == self._issuer
        in_time = isinstance(expires, int) and now < expires <= now + TOKEN_SECONDS
        token_id = claims.get("jti")
        if not named or not in_time or not isinstance(token_id, str) or token_id in self._used:
            raise refusal
        self._used[token_id] = Pending({}, now + TOKEN_SECONDS)

    def _keep(
        self,
        where: dict[str, Pending],
        parameters: Mapping[str, str],
        seconds: float,
        claims: Mapping[str, Any] | None = None,
    ) -> str:
        now = self._clock()
        for pending in (self._requests, self._codes, self._used):
            for name in [name for name, each in pending.items() if each.until < now]:
                del pending[name]
        name = secrets.token_urlsafe(32)
        where[name] = Pending(parameters, now + seconds, claims or {})
        return name


def key_set(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    """What verifies signatures of this key (RFC 7517)."""
    public: dict[str, Any] = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    thumbprint = _digest(json.dumps(public, sort_keys=True, separators=(",", ":")))  # RFC 7638
    return {"keys": [public | {"kid": thumbprint, "use": "sig", "alg": ALGORITHM}]}


@web.middleware
async def _answered(request: web.Request, handler: Any) -> web.StreamResponse:
    """Refusals: for a browser as a page, for a client as RFC 6749 has it."""
    try:
        response: web.StreamResponse = await handler(request)
    except RefusedError as refusal:
        if request.path == "/authorize":
            return pages.refusal(refusal.description)
        document = {"error": refusal.error, "error_description": refusal.description}
        return web.json_response(document, status=refusal.status, headers=_NOT_STORED)
    return response


async def _form(request: web.Request) -> dict[str, str]:
    return {name: value for name, value in (await request.post()).items() if isinstance(value, str)}


def _digest(text: str) -> str:
    """SHA-256 in base64url: the challenge of a PKCE verifier, the thumbprint of a key."""
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
