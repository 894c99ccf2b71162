"""The documentation at the edge: the document, and the page in a real browser with a client certificate."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import ssl
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from playwright.async_api import Error, Page, Route, async_playwright, expect

from deploy.local.node import Node
from gateway import openapi
from gateway.client import Profile
from gateway.client.connector import Connector

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
expect.set_options(timeout=60_000)  # a slow machine draws late
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


def _profile(node: Node) -> Profile:
    return Profile.load(node.state.clients / "permits")


@asynccontextmanager
async def _http(node: Node) -> AsyncIterator[aiohttp.ClientSession]:
    files = _profile(node).files
    context = ssl.create_default_context(cafile=str(files.authorities))
    context.load_cert_chain(str(files.certificate), str(files.key))
    async with aiohttp.ClientSession(node.edge, connector=aiohttp.TCPConnector(ssl=context)) as session:
        yield session


async def test_the_document_is_served_with_an_etag(node: Node):
    async with _http(node) as http:
        async with http.get("/openapi.json") as answer:
            document = await answer.read()
            etag = answer.headers["etag"]
        assert document == openapi.committed()
        OpenAPIV31SpecValidator(json.loads(document)).validate()
        async with http.get("/openapi.json", headers={"if-none-match": etag}) as answer:
            assert (answer.status, await answer.read()) == (304, b"")


@pytest.mark.parametrize("path", ["/docs", "/docs/page.js", "/docs/page.css"])
async def test_the_page_needs_nothing_from_elsewhere(node: Node, path: str):
    async with _http(node) as http, http.get(path) as answer:
        text = await answer.text()
        assert answer.status == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "http://" not in text
    assert "https://" not in text


async def test_a_stranger_reads_it_at_the_port_for_browsers_and_there_alone(node: Node):
    context = ssl.create_default_context(cafile=str(_profile(node).files.authorities))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as http:
        for path in ("/docs", "/docs/page.js", "/docs/page.css", "/openapi.json"):
            with pytest.raises(aiohttp.ClientError):
                await http.get(node.edge + path)
            async with http.get(node.browsers + path) as answer:
                assert answer.status == 200
        async with http.get(node.browsers) as answer:
            assert (answer.status, answer.url.path) == (200, "/docs")


@asynccontextmanager
async def _browser(node: Node, monkeypatch: pytest.MonkeyPatch, *, certificate: bool = True) -> AsyncIterator[Page]:
    if CHROMIUM is None:
        warnings.warn("the documentation page was not looked at: Chromium is not installed", UserWarning, stacklevel=2)
        pytest.skip("Chromium is not installed; `apt-get install chromium`")
    files = _profile(node).files
    # Playwright presents the certificate from a process of its own, which trusts what this says.
    monkeypatch.setenv("NODE_EXTRA_CA_CERTS", str(files.authorities))
    paths = {"origin": node.edge, "certPath": str(files.certificate), "keyPath": str(files.key)}
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = await browser.new_context(
            client_certificates=[paths] if certificate else [],  # type: ignore[list-item]
            ignore_https_errors=not certificate,
            viewport={"width": 1280, "height": 900},
        )
        yield await context.new_page()
        await browser.close()


@pytest.mark.filterwarnings("default::UserWarning")
async def test_a_developer_reads_the_page_and_tries_a_call(node: Node, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    async with _browser(node, monkeypatch) as page:
        troubles: list[str] = []
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        elsewhere: list[str] = []
        page.on("request", lambda request: None if request.url.startswith(node.edge) else elsewhere.append(request.url))
        await page.goto(f"{node.edge}/docs")
        await expect(page.get_by_role("heading", name="Messages, mandates and signed data exchange")).to_be_visible()

        await page.get_by_label("Filter operations").fill("units get")
        await page.get_by_role("link", name="get Returns a unit").click()
        await expect(page.get_by_role("heading", name="Returns a unit", exact=True)).to_be_visible()
        await page.get_by_label("Client id").fill("permits")
        await page.get_by_label("unit").fill("permits")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#status")).to_contain_text("200")
        await expect(page.locator("#answer")).to_contain_text('"name": "units/permits"')
        screenshots = Path(os.environ.get("SOLMU_SCREENSHOTS", tmp_path))
        await page.screenshot(path=screenshots / "documentation-answer.png")

        await page.get_by_label("unit").fill("nobody")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#answer")).to_contain_text("RESOURCE_NOT_FOUND")

        await page.get_by_label("Filter operations").fill("SendMessage ")
        await page.get_by_role("link", name="Sends a message to one recipient").click()
        assert "Your building permit" in await page.get_by_label("JSON body").input_value()
        shot = await page.screenshot(path=screenshots / "documentation.png")
        assert len(shot) > 20_000, "an empty page is smaller"
        assert elsewhere == []
        # The refused call is reported by the browser itself.
        assert [trouble for trouble in troubles if "404" not in trouble] == []


@pytest.mark.filterwarnings("default::UserWarning")
async def test_what_is_typed_before_the_document_has_come_stays(node: Node, monkeypatch: pytest.MonkeyPatch):
    typed = asyncio.Event()

    async def come_late(route: Route) -> None:
        await typed.wait()
        await route.continue_()

    async with _browser(node, monkeypatch) as page:
        await page.route("**/openapi.json", come_late)
        await page.goto(f"{node.edge}/docs")
        await page.get_by_label("Client id").fill("permits")
        typed.set()
        await expect(page.get_by_role("heading", name="Messages, mandates and signed data exchange")).to_be_visible()
        assert await page.get_by_label("Client id").input_value() == "permits"


@pytest.mark.filterwarnings("default::UserWarning")
async def test_a_browser_without_a_certificate_sees_nothing_at_the_port_for_systems(
    node: Node, monkeypatch: pytest.MonkeyPatch
):
    async with _browser(node, monkeypatch, certificate=False) as page:
        with pytest.raises(Error, match="ERR_"):
            await page.goto(f"{node.edge}/docs")


@pytest.mark.filterwarnings("default::UserWarning")
async def test_a_browser_without_a_certificate_reads_the_page_and_is_told_what_trying_takes(
    node: Node, monkeypatch: pytest.MonkeyPatch
):
    async with _browser(node, monkeypatch, certificate=False) as page:
        await page.goto(f"{node.browsers}/docs#messages.GetUnit")
        await expect(page.get_by_role("heading", name="Returns a unit", exact=True)).to_be_visible()
        await page.get_by_label("Client id").fill("permits")
        await page.get_by_label("unit").fill("permits")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#status")).to_contain_text("solmu connect")


@pytest.mark.filterwarnings("default::UserWarning")
async def test_a_browser_without_a_certificate_reads_and_tries_through_the_connector(
    node: Node, monkeypatch: pytest.MonkeyPatch
):
    async with (
        _browser(node, monkeypatch, certificate=False) as page,
        Connector(_profile(node)) as connector,
    ):
        await page.goto(f"{connector.address}/docs#messages.GetUnit")
        await page.get_by_label("Client id").fill("permits")
        await page.get_by_label("unit").fill("permits")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#answer")).to_contain_text('"name": "units/permits"')
