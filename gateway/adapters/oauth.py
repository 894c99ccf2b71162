"""OAuth 2.0 endpoints: translations to the authorisations service.

    POST /oauth2/par                                RFC 9126
    POST /oauth2/token                              RFC 6749, section 3.2, with RFC 8705 and RFC 7523
    POST /oauth2/introspect                         RFC 7662
    POST /oauth2/revoke                             RFC 7009
    GET  /oauth2/jwks                               RFC 7517
    GET  /.well-known/oauth-authorization-server    RFC 8414

A client proves itself by the certificate of its connection, which the edge has
verified and names in x-forwarded-client-cert, and where it is registered for it
also by an assertion (RFC 7523). Who it is and what it may have
is decided in the service; here only the form is checked. Where people's browsers
come is in `log_in.py`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from aiohttp import hdrs, web
from google.protobuf.message import Message
from solmu.authorisations.v1 import log_in_pb2, tokens_pb2

from gateway.adapters.log_in import AUTHORIZATION_PATH
from gateway.routes import Door, Endpoint
from services.runtime import xfcc
from services.runtime.errors import Fault

PUSHED_REQUEST_PATH = "/oauth2/par"
TOKEN_PATH = "/oauth2/token"  # noqa: S105 - a path
INTROSPECTION_PATH = "/oauth2/introspect"
REVOCATION_PATH = "/oauth2/revoke"
KEYS_PATH = "/oauth2/jwks"
METADATA_PATH = "/.well-known/oauth-authorization-server"

MAX_REQUEST_BYTES = 64 << 10
"""A token request with two assertions and two tokens in it has some 40 kB."""

MAX_PARAMETERS = 64
"""More than any grant has."""

KEYS_SECONDS = 60
"""How long others may keep the key set. A new key is published longer than that before it signs."""

ENDPOINTS = (
    Endpoint(PUSHED_REQUEST_PATH, MAX_REQUEST_BYTES),
    Endpoint(TOKEN_PATH, MAX_REQUEST_BYTES),
    Endpoint(INTROSPECTION_PATH, MAX_REQUEST_BYTES),
    Endpoint(REVOCATION_PATH, MAX_REQUEST_BYTES),
    Endpoint(KEYS_PATH, MAX_REQUEST_BYTES, frozenset(Door)),
    Endpoint(METADATA_PATH, MAX_REQUEST_BYTES, frozenset(Door)),
)

METHODS = ["tls_client_auth", "private_key_jwt"]
"""How clients prove themselves, at every endpoint."""

GRANT_TYPES = ["client_credentials", "urn:ietf:params:oauth:grant-type:token-exchange"]
"""Of every node; where people log in there is one more."""

ASSERTION_ALGORITHMS = ["PS256", "ES256", "EdDSA"]
"""FAPI 2.0 Security Profile, section 5.4.1."""

Call = Callable[[str, Message], Awaitable[Any]]
"""Calls the method of `TokenService`, or of `LogInService`, that has this name; raises Fault."""

Handler = Callable[["OAuth", web.Request], Awaitable[web.Response]]
R = TypeVar(
    "R",
    log_in_pb2.PushLogInRequest,
    tokens_pb2.IssueTokenRequest,
    tokens_pb2.IntrospectTokenRequest,
    tokens_pb2.RevokeTokenRequest,
)

_FORM = "application/x-www-form-urlencoded"
_NOT_STORED = {hdrs.CACHE_CONTROL: "no-store", hdrs.PRAGMA: "no-cache"}
_NOT_IN_DESCRIPTION = re.compile(r"[^\x20-\x21\x23-\x5b\x5d-\x7e]")
_REASON_PREFIX = "OAUTH_"
_METHODS = "clients authenticate by tls_client_auth or private_key_jwt"


class OAuthError(Exception):
    """A refusal in the form of RFC 6749, section 5.2."""

    def __init__(self, error: str, description: str, *, status: int = 400) -> None:
        super().__init__(error, description)
        self.error = error
        self.description = description
        self.status = status


def _as_oauth(handler: Handler) -> Handler:
    """Gives the refusals of a handler the form of RFC 6749."""

    @functools.wraps(handler)
    async def answer(self: OAuth, request: web.Request) -> web.Response:
        try:
            return await handler(self, request)
        except OAuthError as refusal:
            return _refused(refusal)
        except Fault as fault:
            return _refused(_oauth_error(fault))

    return answer


class OAuth:
    """The handlers.

    `call` reaches the token service and `log_in` the log-in service, `keys`
    returns the key set in force, `scopes` are all that the contracts declare;
    `browser_origin` is empty where people do not log in.
    """

    def __init__(
        self,
        *,
        issuer: str,
        browser_origin: str,
        scopes: Sequence[str],
        call: Call,
        log_in: Call,
        keys: Callable[[], str],
    ) -> None:
        self._call = call
        self._log_in = log_in
        self._keys = keys
        endpoints = {"token": TOKEN_PATH, "introspection": INTROSPECTION_PATH, "revocation": REVOCATION_PATH}
        self._metadata: dict[str, object] = {
            "issuer": issuer,
            "jwks_uri": issuer + KEYS_PATH,
            "scopes_supported": list(scopes),
            "response_types_supported": [],
            "grant_types_supported": GRANT_TYPES,
            "tls_client_certificate_bound_access_tokens": True,
        }
        for name, path in endpoints.items():
            self._metadata[f"{name}_endpoint"] = issuer + path
            self._metadata[f"{name}_endpoint_auth_methods_supported"] = METHODS
            self._metadata[f"{name}_endpoint_auth_signing_alg_values_supported"] = ASSERTION_ALGORITHMS
        if browser_origin:
            self._metadata |= {
                "authorization_endpoint": browser_origin + AUTHORIZATION_PATH,
                "authorization_response_iss_parameter_supported": True,
                "code_challenge_methods_supported": ["S256"],
                "grant_types_supported": ["authorization_code", *GRANT_TYPES],
                "pushed_authorization_request_endpoint": issuer + PUSHED_REQUEST_PATH,
                "require_pushed_authorization_requests": True,
                "response_modes_supported": ["query"],
                "response_types_supported": ["code"],
            }

    def routes(self) -> list[web.RouteDef]:
        """For the application of the gateway."""
        return [
            web.post(PUSHED_REQUEST_PATH, self.push),
            web.post(TOKEN_PATH, self.token),
            web.post(INTROSPECTION_PATH, self.introspect),
            web.post(REVOCATION_PATH, self.revoke),
            web.get(KEYS_PATH, self.keys),
            web.get(METADATA_PATH, self.metadata),
        ]

    @_as_oauth
    async def push(self, request: web.Request) -> web.Response:
        """Takes the parameters of a log-in."""
        asked = await _request(
            request, log_in_pb2.PushLogInRequest, "response_type", refused=("request", "request_uri")
        )
        pushed = await self._log_in("PushLogIn", asked)
        members = {"request_uri": pushed.request_uri, "expires_in": pushed.expires_in}
        return web.json_response(members, status=201, headers=_NOT_STORED)

    @_as_oauth
    async def token(self, request: web.Request) -> web.Response:
        """Issues an access token."""
        issued = await self._call("IssueToken", await _request(request, tokens_pb2.IssueTokenRequest, "grant_type"))
        members = {field.name: value for field, value in issued.ListFields()}
        if issued.authorization_details:
            members["authorization_details"] = json.loads(issued.authorization_details)
        return web.json_response(members, headers=_NOT_STORED)

    @_as_oauth
    async def introspect(self, request: web.Request) -> web.Response:
        """Says what is known of a token."""
        asked = await _request(request, tokens_pb2.IntrospectTokenRequest, "token")
        known = await self._call("IntrospectToken", asked)
        claims = json.loads(known.claims) if known.active else {}
        return web.json_response({**claims, "active": known.active}, headers=_NOT_STORED)

    @_as_oauth
    async def revoke(self, request: web.Request) -> web.Response:
        """Takes a token back."""
        await self._call("RevokeToken", await _request(request, tokens_pb2.RevokeTokenRequest, "token"))
        return web.Response(headers=_NOT_STORED)

    async def keys(self, request: web.Request) -> web.Response:
        """The public keys that verify this node's tokens."""
        document = self._keys().encode()
        etag = hashlib.sha256(document).hexdigest()[:32]
        headers = {hdrs.CACHE_CONTROL: f"max-age={KEYS_SECONDS}", hdrs.ETAG: f'"{etag}"'}
        known = request.if_none_match or ()
        if any(tag.value in (etag, "*") for tag in known):
            return web.Response(status=304, headers=headers)
        return web.Response(body=document, content_type="application/jwk-set+json", headers=headers)

    async def metadata(self, _: web.Request) -> web.Response:
        """What this authorisation server is and can do."""
        headers = {hdrs.CACHE_CONTROL: f"max-age={KEYS_SECONDS}"}
        return web.json_response(self._metadata, headers=headers)


def _no_other_authentication(request: web.Request) -> None:
    """RFC 6749, section 2.3: one way of authentication per request, and ours are not in this header."""
    if hdrs.AUTHORIZATION in request.headers:
        raise OAuthError("invalid_client", _METHODS, status=401)


async def _request(request: web.Request, kind: type[R], needed: str, *, refused: Sequence[str] = ()) -> R:
    """The request of the contract that a form stands for. `refused` are parameters that cannot be left aside."""
    _no_other_authentication(request)
    parameters = await _parameters(request)
    for name in refused:  # RFC 9126, section 2.1
        if name in parameters:
            raise OAuthError("invalid_request", f"{name} is not taken here")
    for name in (needed, "client_id"):
        if name not in parameters and not (name == "client_id" and "client_assertion" in parameters):
            raise OAuthError("invalid_request", f"{name} is missing")
    known = {field.name for field in kind.DESCRIPTOR.fields} - {"certificate"}
    return kind(
        certificate=_certificate(request), **{name: value for name, value in parameters.items() if name in known}
    )


async def _parameters(request: web.Request) -> dict[str, str]:
    """The form's parameters; empty ones count as not sent, unknown ones are ignored (RFC 6749, section 3.2)."""
    if request.content_type != _FORM:
        raise OAuthError("invalid_request", f"the content type must be {_FORM}")
    body = await request.read()
    try:
        pairs = parse_qsl(
            body.decode("ascii"), strict_parsing=bool(body), errors="strict", max_num_fields=MAX_PARAMETERS
        )
    except ValueError:
        raise OAuthError("invalid_request", "the body is not a form") from None
    names = [name for name, _ in pairs]
    if names.count("resource") > 1:
        raise OAuthError("invalid_target", "one resource at a time")
    if len(set(names)) < len(names):
        raise OAuthError("invalid_request", "a parameter is there twice")
    parameters = dict(pairs)
    if "client_secret" in parameters:
        raise OAuthError("invalid_client", _METHODS, status=401)
    return parameters


def _certificate(request: web.Request) -> tokens_pb2.ClientCertificate:
    try:
        certificate = xfcc.parse(*request.headers.getall(xfcc.HEADER, []))
    except xfcc.XfccError:
        raise OAuthError("invalid_client", "the client certificate cannot be read", status=401) from None
    return tokens_pb2.ClientCertificate(
        sha256=certificate.sha256, uri_sans=certificate.uris, subject=certificate.subject
    )


def _oauth_error(fault: Fault) -> OAuthError:
    if fault.reason.startswith(_REASON_PREFIX):
        error = fault.reason.removeprefix(_REASON_PREFIX).lower()
        return OAuthError(error, fault.message, status=401 if error == "invalid_client" else 400)
    if fault.code == "INVALID_ARGUMENT":
        return OAuthError("invalid_request", fault.message)
    if fault.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"):
        return OAuthError("temporarily_unavailable", "try again", status=503)
    return OAuthError("server_error", "a fault of the node", status=500)


def _refused(refusal: OAuthError) -> web.Response:
    description = _NOT_IN_DESCRIPTION.sub("?", refusal.description.replace('"', "'"))
    document = json.dumps({"error": refusal.error, "error_description": description})
    return web.Response(status=refusal.status, text=document, content_type="application/json", headers=_NOT_STORED)
