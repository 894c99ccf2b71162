"""People log in to a program on their own machine, which then calls the edge in their name.

    async with Client(profile) as client, log_in.begin(client) as begun:
        print("Open", begun.address)
        token = await begun.token()
    async with Person(profile, token) as person:
        await person.rest("GET", "/v1/mailboxes")

Authorisation code with PKCE after a pushed request (RFC 6749, 7636, 9126), for
a native program: the browser comes back to a loopback address (RFC 8252,
section 7.3), which is one of the client's redirect URIs.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import jwt
from aiohttp import web

from gateway.client.client import Client
from gateway.client.profile import Profile, ProfileError
from services.runtime.errors import PermissionDenied, Unauthenticated

METADATA_PATH = "/.well-known/oauth-authorization-server"

PATIENCE = 600.0
"""Seconds for the person at the identity provider; the node gives no more."""

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True)
class Token:
    """An access token in a person's name. There is no other after it but by logging in again."""

    value: str
    expires: float
    """In seconds since 1970."""

    @property
    def party(self) -> str:
        """Whose name it is: `persons/{person}`. Read, not verified: that is the node's to do."""
        claims = jwt.decode(self.value, options={"verify_signature": False})
        return str(claims["sub"])


class Person(Client):
    """Calls in the name of a person who has logged in, and in nobody's when that is over."""

    def __init__(self, profile: Profile, token: Token) -> None:
        super().__init__(profile)
        self._of_person = token

    async def _own_token(self) -> Mapping[str, Any]:
        """The person's token. Raises Unauthenticated where it has expired: the client's own would be another's name."""
        left = self._of_person.expires - time.time()
        if left <= 0:
            raise Unauthenticated("TOKEN_EXPIRED", "the log-in is over: log in again")
        return {"access_token": self._of_person.value, "expires_in": left}


class LogIn:
    """A log-in that waits for its person. `address` is where the browser goes."""

    def __init__(self, client: Client, *, address: str, redirect_uri: str, verifier: str, state: str) -> None:
        self.address = address
        self._client = client
        self._redirect_uri = redirect_uri
        self._verifier = verifier
        self._state = state
        self._code: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def token(self) -> Token:
        """The person's token. Raises Fault where the person, the provider or the node says no; TimeoutError."""
        code = await asyncio.wait_for(self._code, PATIENCE)
        form = {
            "grant_type": "authorization_code",
            "client_id": self._client.profile.client_id,
            "code": code,
            "redirect_uri": self._redirect_uri,
            "code_verifier": self._verifier,
        }
        issued = await self._client.form("/oauth2/token", form)
        return Token(issued["access_token"], time.time() + issued["expires_in"])

    async def back(self, request: web.Request) -> web.Response:
        """The browser has come back. What is not the answer to this log-in is not looked at."""
        answer = request.query
        mine = hmac.compare_digest(answer.get("state", "").encode(), self._state.encode())
        # RFC 9207, section 2.4: from the node, and nobody else.
        if not mine or answer.get("iss") != self._client.profile.edge or self._code.done():
            return web.Response(status=400, text="This is not the answer to the log-in.", headers=_HEADERS)
        if "code" in answer:
            self._code.set_result(answer["code"])
            return web.Response(text="You are logged in. You can close this window.", headers=_HEADERS)
        error = answer.get("error", "server_error")
        self._code.set_exception(PermissionDenied(f"OAUTH_{error}".upper(), "nobody has logged in"))
        return web.Response(text="You are not logged in. You can close this window.", headers=_HEADERS)


@asynccontextmanager
async def begin(client: Client, *, redirect_uri: str = "", scope: str = "") -> AsyncIterator[LogIn]:
    """Begins a log-in, and listens for the browser that comes back until the end of the block.

    `redirect_uri` is one of the client's on a loopback address; without it that
    of the profile. `scope` empty: all that the client may have. Raises Fault;
    OSError where the port is taken; ProfileError where there is no redirect URI.
    """
    redirect_uri = redirect_uri or client.profile.redirect_uri
    parts = urlsplit(redirect_uri)
    if parts.scheme != "http" or not parts.port or not parts.hostname:
        raise ProfileError("the profile names no redirect_uri on a loopback address, such as http://127.0.0.1:8445/")
    verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(32)
    metadata = await client.document(METADATA_PATH)
    form = {
        "client_id": client.profile.client_id,
        "response_type": "code",
        "redirect_uri": redirect_uri,
        "state": state,
        "code_challenge": base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode(),
        "code_challenge_method": "S256",
        **({"scope": scope} if scope else {}),
    }
    pushed = await client.form(urlsplit(metadata["pushed_authorization_request_endpoint"]).path, form)
    query = urlencode({"client_id": client.profile.client_id, "request_uri": pushed["request_uri"]})
    address = f"{metadata['authorization_endpoint']}?{query}"
    log_in = LogIn(client, address=address, redirect_uri=redirect_uri, verifier=verifier, state=state)
    application = web.Application()
    application.add_routes([web.get(parts.path, log_in.back, allow_head=False)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, parts.hostname, parts.port).start()
        yield log_in
    finally:
        await runner.cleanup()
