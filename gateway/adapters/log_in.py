"""Where a person's browser comes when logging in: translations to LogInService.

    GET /oauth2/authorize    RFC 6749, section 3.1, after a pushed request (RFC 9126); on to the identity provider
    GET /oauth2/callback     back from the identity provider; on to the client
    GET /oauth2/identity-providers    where people can log in, for a client that lets them choose

Between the first two a cookie lies in the browser, one for each log-in, so that
nobody finishes what another began. It is the browser's proof and holds no
session: when the log-in is over it is gone.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from html import escape
from typing import Any

from aiohttp import hdrs, web
from google.protobuf.message import Message
from solmu.authorisations.v1 import log_in_pb2

from gateway.adapters.page import SECURITY_HEADERS, page
from gateway.problems import MEDIA_TYPE, problem
from gateway.routes import Door, Endpoint
from services.runtime.errors import Fault

AUTHORIZATION_PATH = "/oauth2/authorize"
CALLBACK_PATH = "/oauth2/callback"
PROVIDERS_PATH = "/oauth2/identity-providers"

MAX_REQUEST_BYTES = 1024
"""A GET has no body."""

KEPT_SECONDS = 60
"""How long a client may show the list that it has."""

MAX_PROVIDERS = 1000
"""One page of the service's: no node has as many."""

ENDPOINTS = (
    Endpoint(AUTHORIZATION_PATH, MAX_REQUEST_BYTES, frozenset({Door.BROWSERS})),
    Endpoint(CALLBACK_PATH, MAX_REQUEST_BYTES, frozenset({Door.BROWSERS})),
    Endpoint(PROVIDERS_PATH, MAX_REQUEST_BYTES),
)

COOKIE = "__Host-log-in-"
"""Prefix of the cookies' names; what follows is the log-in's state. `__Host-` binds them to this origin by https."""

_STATE = re.compile(r"[A-Za-z0-9_-]{20,128}")
_LANGUAGE = re.compile(r"\b(fi|sv|en)\b", re.IGNORECASE)

_TEXTS = {
    "fi": {
        "title": "Kirjautumista ei voi jatkaa",
        "LOG_IN_UNKNOWN": "Se on vanhentunut, jo käytetty tai aloitettu toisessa selaimessa.",
        "away": "Tunnistuspalvelu ei vastaa juuri nyt. Yritä hetken päästä uudelleen.",
        "again": "Palaa palveluun, johon olit kirjautumassa, ja aloita alusta.",
    },
    "sv": {
        "title": "Inloggningen kan inte fortsätta",
        "LOG_IN_UNKNOWN": "Den har gått ut, redan använts eller påbörjats i en annan webbläsare.",
        "away": "Identifieringstjänsten svarar inte just nu. Försök igen om en stund.",
        "again": "Gå tillbaka till tjänsten som du höll på att logga in i och börja om.",
    },
    "en": {
        "title": "The log-in cannot go on",
        "LOG_IN_UNKNOWN": "It has expired, was used already, or was begun in another browser.",
        "away": "The identity provider does not answer right now. Try again in a moment.",
        "again": "Go back to the service that you were logging in to, and begin again.",
    },
}

_AWAY = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")
"""Refusals after which the same call may succeed soon."""

Call = Callable[[str, Message], Awaitable[Any]]
"""Calls the method of `LogInService` that has this name; raises Fault."""


class LogIn:
    """The handlers. `clock` gives the time, with its zone."""

    def __init__(self, *, call: Call, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._call = call
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        """For the application of the gateway. No HEAD: whoever looks ahead must not use up what works once."""
        return [
            web.get(AUTHORIZATION_PATH, self.authorize, allow_head=False),
            web.get(CALLBACK_PATH, self.call_back, allow_head=False),
            web.get(PROVIDERS_PATH, self.providers),
        ]

    async def authorize(self, request: web.Request) -> web.Response:
        """Sends the browser on to the identity provider."""
        asked = log_in_pb2.StartLogInRequest(
            client_id=_one(request, "client_id"), request_uri=_one(request, "request_uri")
        )
        try:
            started = await self._call("StartLogIn", asked)
        except Fault as fault:
            return _refused(request, fault)
        response = _redirect(started.location)
        seconds = started.expire_time.ToDatetime(UTC) - self._clock()
        _set_cookie(response, started.state, started.browser_secret, max_age=int(seconds.total_seconds()))
        return response

    async def call_back(self, request: web.Request) -> web.Response:
        """Takes the browser back and sends it on to the client."""
        state = _one(request, "state")
        secret = request.cookies.get(COOKIE + state, "") if _STATE.fullmatch(state) else ""
        answered = log_in_pb2.FinishLogInRequest(
            state=state,
            browser_secret=secret,
            **{name: _one(request, name) for name in ("code", "iss", "error", "error_description")},
        )
        try:
            response = _redirect((await self._call("FinishLogIn", answered)).location)
        except Fault as fault:
            return _refused(request, fault)
        _set_cookie(response, state, "", max_age=0)
        return response

    async def providers(self, _: web.Request) -> web.Response:
        """Lists where people can log in; `name` is what a pushed request's `identity_provider` takes."""
        asked = log_in_pb2.ListIdentityProvidersRequest(page_size=MAX_PROVIDERS)
        try:
            listed = (await self._call("ListIdentityProviders", asked)).identity_providers
        except Fault as fault:
            status = 503 if fault.code in _AWAY else 500
            document = problem(fault.reason, status=status, detail="the list cannot be had now: try again")
            return web.json_response(document, status=status, content_type=MEDIA_TYPE)
        members = ("name", "display_name", "issuer", "test")
        providers = [{name: getattr(provider, name) for name in members} for provider in listed]
        headers = {hdrs.CACHE_CONTROL: f"max-age={KEPT_SECONDS}"}
        return web.json_response({"identity_providers": providers}, headers=headers)


def _one(request: web.Request, name: str) -> str:
    """A parameter, which counts only where it is there once (RFC 6749, section 3.1)."""
    values = request.query.getall(name, [])
    return values[0] if len(values) == 1 else ""


def _redirect(location: str) -> web.Response:
    """303, so that no browser repeats a method or a body (FAPI 2.0 Security Profile, section 5.3.2.2)."""
    return web.Response(status=303, headers={hdrs.LOCATION: location, **SECURITY_HEADERS})


def _set_cookie(response: web.Response, state: str, secret: str, *, max_age: int) -> None:
    """Lax: the identity provider, another site, sends the browser back here."""
    response.set_cookie(COOKIE + state, secret, max_age=max_age, path="/", secure=True, httponly=True, samesite="Lax")


def _refused(request: web.Request, fault: Fault) -> web.Response:
    """The page for a person who cannot go on, in the language of the browser where it is one of ours."""
    known = _LANGUAGE.search(request.headers.get(hdrs.ACCEPT_LANGUAGE, ""))
    language = known[1].lower() if known else "en"
    texts, away = _TEXTS[language], fault.code in _AWAY
    why = texts["away"] if away else texts["LOG_IN_UNKNOWN"] if fault.code == "INVALID_ARGUMENT" else ""
    status = 503 if away else 400 if why else 500
    content = "".join(f"<p>{escape(text)}</p>" for text in (why, texts["again"]) if text)
    return page(texts["title"], content, language=language, status=status)
