"""Where a person's browser comes: what it is sent, and what stays in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer
from multidict import CIMultiDict
from solmu.authorisations.v1 import log_in_pb2

from gateway.adapters import log_in
from gateway.adapters.log_in import AUTHORIZATION_PATH, CALLBACK_PATH, COOKIE, PROVIDERS_PATH
from services.runtime import errors

NOW = datetime(2026, 11, 21, 6, 30, tzinfo=UTC)
STATE = "s" * 43
Browser = TestClient[web.Request, web.Application]


class Service:
    """Stands for LogInService: remembers requests, answers or refuses as told."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.fault: errors.Fault | None = None

    async def call(self, method: str, request: Any) -> Any:
        self.requests.append(request)
        if self.fault:
            raise self.fault
        if method == "StartLogIn":
            started = log_in_pb2.StartLogInResponse(
                location="https://provider.example/authorize?request_uri=r", browser_secret="secret", state=STATE
            )
            started.expire_time.FromSeconds(int(NOW.timestamp()) + 600)
            return started
        if method == "ListIdentityProviders":
            bank = log_in_pb2.IdentityProvider(name="identityProviders/bank", display_name="Bank", issuer="https://b")
            return log_in_pb2.ListIdentityProvidersResponse(identity_providers=[bank])
        return log_in_pb2.FinishLogInResponse(location="https://city.example/?code=c&state=x")


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def browser(service: Service) -> AsyncIterator[Browser]:
    application = web.Application()
    application.add_routes(log_in.LogIn(call=service.call, clock=lambda: NOW).routes())
    async with TestClient(TestServer(application)) as started:
        yield started


async def get(browser: Browser, path: str, **headers: str) -> ClientResponse:
    return await browser.get(path, headers=headers, allow_redirects=False)


def hardened(headers: CIMultiDict[str] | Any) -> bool:
    """Whether an answer is kept by nobody, told to nobody and framed by nobody."""
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    return "Access-Control-Allow-Origin" not in headers


async def test_the_browser_is_sent_on_with_a_cookie_that_only_this_origin_gets_back(
    service: Service, browser: Browser
) -> None:
    answer = await get(browser, f"{AUTHORIZATION_PATH}?client_id=portal&request_uri=urn%3Ar")
    assert (answer.status, answer.headers["Location"]) == (303, "https://provider.example/authorize?request_uri=r")
    assert hardened(answer.headers)
    [cookie] = answer.headers.getall("Set-Cookie")
    name, *attributes = cookie.split("; ")
    assert name == f"{COOKIE}{STATE}=secret"
    assert COOKIE.startswith("__Host-")
    assert set(attributes) == {"HttpOnly", "Secure", "SameSite=Lax", "Path=/", "Max-Age=600"}
    assert service.requests == [log_in_pb2.StartLogInRequest(client_id="portal", request_uri="urn:r")]


async def test_the_browser_that_comes_back_shows_the_cookie_of_its_log_in_and_loses_it(
    service: Service, browser: Browser
) -> None:
    cookies = f"{COOKIE}{STATE}=secret; {COOKIE}{'o' * 43}=another"
    path = f"{CALLBACK_PATH}?state={STATE}&code=c&iss=https%3A%2F%2Fprovider.example"
    answer = await get(browser, path, cookie=cookies)
    assert (answer.status, answer.headers["Location"]) == (303, "https://city.example/?code=c&state=x")
    assert hardened(answer.headers)
    [cookie] = answer.headers.getall("Set-Cookie")
    assert cookie.startswith(f"{COOKIE}{STATE}=")
    assert "Max-Age=0" in cookie
    assert "Secure" in cookie
    [request] = service.requests
    assert (request.state, request.code, request.browser_secret) == (STATE, "c", "secret")
    assert request.iss == "https://provider.example"


@pytest.mark.parametrize("cookie", ["", f"{COOKIE}{'o' * 43}=another", f"log-in-{STATE}=secret"])
async def test_without_the_cookie_of_this_log_in_there_is_no_proof(
    service: Service, browser: Browser, cookie: str
) -> None:
    await get(browser, f"{CALLBACK_PATH}?state={STATE}&code=c", cookie=cookie)
    assert service.requests[0].browser_secret == ""


@pytest.mark.parametrize("query", [f"state={STATE}&state={STATE}", "state=a%3Bb", ""])
async def test_a_state_that_is_none_or_there_twice_finds_no_cookie(
    service: Service, browser: Browser, query: str
) -> None:
    await get(browser, f"{CALLBACK_PATH}?{query}", cookie=f"{COOKIE}{STATE}=secret")
    assert service.requests[0].browser_secret == ""


@pytest.mark.parametrize(
    ("fault", "status", "text"),
    [
        (errors.InvalidArgument("LOG_IN_UNKNOWN", "x"), 400, "begun in another browser"),
        (errors.Unavailable("IDENTITY_PROVIDER_AWAY", "x"), 503, "does not answer right now"),
        (errors.Internal("INTERNAL", "x"), 500, "begin again"),
    ],
)
@pytest.mark.parametrize("path", [AUTHORIZATION_PATH, CALLBACK_PATH])
async def test_who_cannot_go_on_is_told_on_a_page(  # and never sent anywhere
    service: Service, browser: Browser, path: str, fault: errors.Fault, status: int, text: str
) -> None:
    service.fault = fault
    answer = await get(browser, f"{path}?client_id=portal&request_uri=urn%3Ar&state={STATE}")
    assert (answer.status, answer.content_type) == (status, "text/html")
    assert text in await answer.text()
    assert hardened(answer.headers)
    assert "Location" not in answer.headers
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize(
    ("wanted", "language", "title"),
    [
        ("fi-FI,fi;q=0.9,en;q=0.8", "fi", "Kirjautumista ei voi jatkaa"),
        ("sv", "sv", "Inloggningen kan inte fortsätta"),
        ("de-DE,de", "en", "The log-in cannot go on"),
        ("", "en", "The log-in cannot go on"),
    ],
)
async def test_the_page_is_in_the_languages_of_the_country(
    service: Service, browser: Browser, wanted: str, language: str, title: str
) -> None:
    service.fault = errors.InvalidArgument("LOG_IN_UNKNOWN", "x")
    text = await (await get(browser, CALLBACK_PATH, **{"accept-language": wanted})).text()
    assert f'<html lang="{language}">' in text
    assert f"<h1>{title}</h1>" in text


@pytest.mark.parametrize("path", [AUTHORIZATION_PATH, CALLBACK_PATH])
async def test_looking_ahead_uses_nothing_up(service: Service, browser: Browser, path: str) -> None:
    for method in ("HEAD", "POST", "OPTIONS"):
        answer = await browser.request(method, f"{path}?state={STATE}", allow_redirects=False)
        assert answer.status == 405
    assert service.requests == []


async def test_a_client_can_let_people_choose_where_to_log_in(service: Service, browser: Browser) -> None:
    answer = await get(browser, PROVIDERS_PATH)
    assert await answer.json() == {
        "identity_providers": [
            {"name": "identityProviders/bank", "display_name": "Bank", "issuer": "https://b", "test": False}
        ]
    }
    service.fault = errors.Unavailable("UNAVAILABLE", "x")
    answer = await get(browser, PROVIDERS_PATH)
    assert (answer.status, (await answer.json())["reason"]) == (503, "UNAVAILABLE")
