"""The city's portal on a whole node, and the browsers of those who log in to it."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import aiohttp
import jwt

from deploy import pki
from deploy.local import demo_clients, plan
from deploy.local.node import Node
from services.authorisations import log_ins
from services.authorisations.exchange import TOKEN_EXCHANGE
from tests.integration.node.callers import Caller, profile

[BACK] = demo_clients.PORTAL.redirect_uris
HIGH = "http://eidas.europa.eu/LoA/high"
METADATA = "/.well-known/oauth-authorization-server"


@dataclass
class Portal:
    """The city's portal, an application of people's, and a browser without cookies or certificates."""

    node: Node
    systems: aiohttp.ClientSession
    """With the portal's certificate."""
    browser: aiohttp.ClientSession
    metadata: dict[str, Any]

    @property
    def provider(self) -> str:
        """The identity provider's origin."""
        return f"https://localhost:{self.node.ports[plan.IDENTITY_PROVIDER]}"

    async def post(self, endpoint: str, **form: str) -> tuple[int, Any]:
        """A call to an OAuth endpoint, with the portal's certificate."""
        values = {"client_id": "portal"} | form
        async with self.systems.post(self.metadata[f"{endpoint}_endpoint"], data=values) as answer:
            return answer.status, await answer.json()

    async def begin(self, verifier: str, **changes: str) -> str:
        """The address to which the portal sends the browser."""
        form = {
            "response_type": "code",
            "redirect_uri": BACK,
            "state": "of the portal",
            "code_challenge": log_ins.s256(verifier),
            "code_challenge_method": "S256",
        }
        status, pushed = await self.post("pushed_authorization_request", **form | changes)
        assert status == 201, pushed
        query = urlencode({"client_id": "portal", "request_uri": pushed["request_uri"]})
        return f"{self.metadata['authorization_endpoint']}?{query}"

    async def follow(self, address: str) -> str:
        """Where an address sends the browser on to."""
        async with self.browser.get(address, allow_redirects=False) as answer:
            assert answer.status == 303, await answer.text()
            return answer.headers["location"]

    async def choose(self, address: str, person: int) -> str:
        """Where the provider sends the browser that has chosen somebody."""
        asked = query_of(address)
        form = asked | {"person": str(person), "acr": HIGH}
        async with self.browser.post(address.partition("?")[0], data=form, allow_redirects=False) as answer:
            assert answer.status == 303, await answer.text()
            return answer.headers["location"]

    async def log_in(self, person: int, **changes: str) -> dict[str, Any]:
        """The token response for somebody who logs in."""
        verifier = secrets.token_urlsafe(48)
        at_provider = await self.follow(await self.begin(verifier, **changes))
        home = await self.follow(await self.choose(at_provider, person))
        assert home.startswith(BACK)
        answer = query_of(home)
        assert (answer["state"], answer["iss"]) == ("of the portal", self.node.edge)
        status, issued = await self.post(
            "token", grant_type="authorization_code", code=answer["code"], redirect_uri=BACK, code_verifier=verifier
        )
        assert status == 200, issued
        assert isinstance(issued, dict)
        return issued

    async def id_token(self, person: int) -> str:
        """What the provider gives a portal that logs people in by itself."""
        verifier = secrets.token_urlsafe(48)
        form = {
            "client_id": "portal",
            "response_type": "code",
            "scope": "openid",
            "redirect_uri": BACK,
            "code_challenge": log_ins.s256(verifier),
            "code_challenge_method": "S256",
        }
        async with self.browser.post(f"{self.provider}/par", data=form) as answer:
            pushed = await answer.json()
        query = urlencode({"client_id": "portal", "request_uri": pushed["request_uri"]})
        code = query_of(await self.choose(f"{self.provider}/authorize?{query}", person))["code"]
        form = {"client_id": "portal", "grant_type": "authorization_code", "redirect_uri": BACK}
        form |= {"code": code, "code_verifier": verifier}
        async with self.browser.post(f"{self.provider}/token", data=form) as answer:
            return str((await answer.json())["id_token"])

    async def exchange(self, subject_token: str, kind: str, **form: str) -> tuple[int, Any]:
        """A token exchange."""
        values = {"grant_type": TOKEN_EXCHANGE, "subject_token": subject_token, "subject_token_type": kind}
        return await self.post("token", **values | form)

    def caller(self, token: str) -> Caller:
        """Calls the edge as the portal, with this token."""
        return Caller(self.node.edge, profile(self.node, "portal").files, token)


def query_of(address: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(address).query, strict_parsing=True))


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


@asynccontextmanager
async def _session(node: Node, *, certificate: bool) -> AsyncIterator[aiohttp.ClientSession]:
    context = ssl.create_default_context(cafile=str(node.state.public / pki.AUTHORITY))
    if certificate:
        files = profile(node, "portal").files
        context.load_cert_chain(str(files.certificate), str(files.key))
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context), cookie_jar=jar) as session:
        yield session


@asynccontextmanager
async def opened(node: Node) -> AsyncIterator[Portal]:
    """The demo's portal at a node."""
    async with _session(node, certificate=True) as systems, _session(node, certificate=False) as browser:
        async with browser.get(node.browsers + METADATA) as answer:
            metadata = await answer.json()
        yield Portal(node, systems, browser, metadata)
