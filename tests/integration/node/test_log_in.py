"""People log in on a whole node: from the portal's request to a token in their name, and on behalf of others."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import ssl
import sys
import time
import uuid
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import Page, async_playwright, expect

from deploy import pki
from deploy.local import plan
from deploy.local.identity_provider import terms
from deploy.local.identity_provider.people import PEOPLE
from deploy.local.identity_provider.provider import CODE_CLAIM, key_set
from deploy.local.node import Node
from gateway.adapters.log_in import COOKIE
from services.authorisations.exchange import ACCESS_TOKEN, ID_TOKEN
from services.runtime import xfcc
from tests import jws_cases
from tests.integration.client.test_documentation import CHROMIUM, FLAGS
from tests.integration.node import portal
from tests.integration.node.callers import Caller, files_in, profile
from tests.integration.node.people import client_of, organisation
from tests.integration.node.portal import BACK, HIGH, Portal, claims_of, query_of
from tests.journeys.mandates import MAIL, mail_theme


@pytest.fixture(name="portal")
async def portal_fixture(node: Node) -> AsyncIterator[Portal]:
    async with portal.opened(node) as opened:
        yield opened


async def test_a_person_logs_in_and_reads_their_own_mail_through_the_portal(portal: Portal):
    issued = await portal.log_in(0, scope="mailbox.read mailbox.write")
    claims = claims_of(issued["access_token"])
    assert (claims["client_id"], claims["acr"]) == ("portal", HIGH)
    assert issued["scope"] == "mailbox.read mailbox.write"
    status, mailbox = await portal.caller(issued["access_token"]).rest("POST", "/v1/mailboxes:open", {})
    assert status == 200, mailbox
    own = await portal.caller(issued["access_token"]).rest("GET", "/v1/mailboxes")
    assert own[0] == 200
    assert mailbox["name"] in [each["name"] for each in own[1]["mailboxes"]]
    other = await portal.log_in(1, scope="mailbox.read")
    assert claims_of(other["access_token"])["sub"] != claims["sub"]
    status, problem = await portal.caller(other["access_token"]).rest("GET", f"/v1/{mailbox['name']}/messages")
    assert (status, problem["reason"]) == (404, "RESOURCE_NOT_FOUND")


async def test_an_id_token_becomes_a_persons_token_and_that_one_on_behalf_of_another(portal: Portal):
    async with client_of(portal.node, organisation(4_000_000), "themes.manage") as office:
        await mail_theme(office)
    daughter_id = await portal.id_token(0)
    status, daughter = await portal.exchange(daughter_id, ID_TOKEN, scope="mailbox.read mailbox.write")
    assert (status, daughter["issued_token_type"]) == (200, ACCESS_TOKEN)
    mother = await portal.log_in(3)
    status, box = await portal.caller(mother["access_token"]).rest("POST", "/v1/mailboxes:open", {})
    assert status == 200
    own, person = claims_of(daughter["access_token"]), claims_of(mother["access_token"])["sub"]
    details = json.dumps([{"type": "mandate", "principal": person, "theme": MAIL}])
    status, refusal = await portal.exchange(daughter["access_token"], ACCESS_TOKEN, authorization_details=details)
    assert (status, refusal["error"]) == (400, "invalid_authorization_details")

    mandate = {
        "kind": "KIND_ACT",
        "theme": MAIL,
        "delegate": {"name": own["sub"]},
        "validity": {"lastDay": "2027-06-30"},
    }
    path = f"/v1/mandates?requestId={uuid.uuid4()}"
    status, given = await portal.caller(mother["access_token"]).rest("POST", path, mandate)
    assert (status, given["state"]) == (200, "STATE_ACTIVE")
    status, acting = await portal.exchange(daughter["access_token"], ACCESS_TOKEN, authorization_details=details)
    assert status == 200, acting
    claims = claims_of(acting["access_token"])
    assert (claims["sub"], claims["act"]) == (person, {"sub": own["sub"]})
    assert claims["authorization_details"][0]["mandates"] == [given["name"]]
    status, listed = await portal.caller(acting["access_token"]).rest("GET", f"/v1/{box['name']}/messages")
    assert status == 200, listed

    # No step gave more scope, another audience or a longer life than the one before.
    assert claims["exp"] <= own["exp"] <= claims_of(daughter_id)["exp"]
    assert claims["scope"] == own["scope"] == "mailbox.read mailbox.write"
    assert claims["aud"] == own["aud"] == portal.node.edge
    for wider, error in (
        ({"scope": "mailbox.read mandates.write"}, "invalid_scope"),
        ({"audience": "https://elsewhere.example"}, "invalid_target"),
        ({"resource": "https://elsewhere.example"}, "invalid_target"),
    ):
        form = {"authorization_details": details} | wider
        status, refusal = await portal.exchange(daughter["access_token"], ACCESS_TOKEN, **form)
        assert (status, refusal["error"]) == (400, error)
    status, refusal = await portal.exchange(acting["access_token"], ACCESS_TOKEN, authorization_details=details)
    assert (status, refusal["error"]) == (400, "invalid_grant"), "a token on another's behalf becomes nothing further"


async def test_tokens_of_people_stay_with_the_certificate_that_fetched_them(portal: Portal, tmp_path: Path):
    issued = await portal.log_in(0)
    authority = pki.Authority.load(portal.node.state.public)
    authority.issue(pki.Identity.information_system(portal.node.settings.node, "portal"), tmp_path)
    renewed = files_in(tmp_path, authority.certificate_path)
    stolen = Caller(portal.node.edge, renewed, issued["access_token"])
    status, problem = await stolen.rest("GET", "/v1/mailboxes")
    assert (status, problem["reason"]) == (401, "TOKEN_BINDING_MISMATCH")
    context = ssl.create_default_context(cafile=str(renewed.authorities))
    context.load_cert_chain(str(renewed.certificate), str(renewed.key))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as systems:
        successor = Portal(portal.node, systems, portal.browser, portal.metadata)
        details = json.dumps([{"type": "mandate", "principal": "persons/" + "a" * 26, "theme": "themes/mail"}])
        status, refusal = await successor.exchange(issued["access_token"], ACCESS_TOKEN, authorization_details=details)
        assert (status, refusal["error"]) == (400, "invalid_grant")
        fresh = await successor.log_in(0)
    assert (await Caller(portal.node.edge, renewed, fresh["access_token"]).rest("GET", "/v1/mailboxes"))[0] == 200


async def test_an_id_token_with_a_claim_twice_or_made_elsewhere_is_nobodys(portal: Portal):
    key = terms.signing_key(portal.node.state)
    [public] = key_set(key)["keys"]
    header = json.dumps({"alg": "ES256", "kid": public["kid"]}).encode()
    now = int(time.time())
    claims = {"iss": portal.provider, "aud": "portal", "iat": now, "exp": now + 300, CODE_CLAIM: PEOPLE[0].code}
    good = json.dumps(claims).encode()
    status, issued = await portal.exchange(jws_cases.signed(header, good, key), ID_TOKEN)
    assert status == 200, issued
    twice = good[:-1] + f', "{CODE_CLAIM}": "{PEOPLE[1].code}"}}'.encode()
    for defect in (
        jws_cases.signed(header, twice, key),
        jws_cases.signed(header, json.dumps(claims | {"aud": terms.NODE}).encode(), key),
        jws_cases.signed(header, json.dumps(claims | {"exp": now - 60}).encode(), key),
        issued["access_token"],
    ):
        status, refusal = await portal.exchange(defect, ID_TOKEN)
        assert (status, refusal["error"]) == (400, "invalid_grant")


async def test_a_code_shown_twice_closes_what_it_opened(portal: Portal):
    verifier = secrets.token_urlsafe(48)
    home = await portal.follow(await portal.choose(await portal.follow(await portal.begin(verifier)), 0))
    form = {"grant_type": "authorization_code", "code": query_of(home)["code"], "redirect_uri": BACK}
    status, issued = await portal.post("token", **form, code_verifier=verifier)
    caller = portal.caller(issued["access_token"])
    assert (status, (await caller.rest("GET", "/v1/mailboxes"))[0]) == (200, 200)
    status, refusal = await portal.post("token", **form, code_verifier=verifier)
    assert (status, refusal["error"]) == (400, "invalid_grant")
    async with asyncio.timeout(10):
        while (await caller.rest("GET", "/v1/mailboxes"))[0] == 200:
            await asyncio.sleep(0.05)
    assert (await caller.rest("GET", "/v1/mailboxes"))[1]["reason"] == "TOKEN_REVOKED"


async def test_the_metadata_says_how_people_log_in(portal: Portal):
    metadata = portal.metadata
    assert metadata["issuer"] == portal.node.edge
    assert metadata["authorization_endpoint"] == f"{portal.node.browsers}/oauth2/authorize"
    assert metadata["require_pushed_authorization_requests"] is True
    assert metadata["authorization_response_iss_parameter_supported"] is True
    assert metadata["code_challenge_methods_supported"] == ["S256"]
    status, listed = await portal.caller("").rest("GET", "/oauth2/identity-providers")
    [provider] = listed["identity_providers"]
    assert (status, provider["issuer"], provider["test"]) == (200, portal.provider, True)
    assert await portal.begin("v" * 43, identity_provider=provider["name"])
    status, refusal = await portal.post("pushed_authorization_request", response_type="token", redirect_uri=BACK)
    assert (status, refusal["error"]) == (400, "unsupported_response_type")
    status, refusal = await portal.post("pushed_authorization_request", response_type="code", client_id="permits")
    assert (status, refusal["error"]) == (401, "invalid_client")


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("POST", "/oauth2/token"),
        ("POST", "/oauth2/par"),
        ("POST", "/oauth2/introspect"),
        ("POST", "/oauth2/revoke"),
        ("GET", "/oauth2/identity-providers"),
        ("GET", "/healthz"),
        ("GET", "/v1/mailboxes"),
        ("GET", "/v1/units/permits"),
        ("POST", "/v1/mailboxes:open"),
        ("POST", "/solmu.messages.v1.UnitService/GetUnit"),
        ("POST", "/solmu.authorisations.v1.LogInService/FinishLogIn"),
        ("GET", "/.well-known/authzen-configuration"),
        ("POST", "/access/v1/evaluation"),
        ("GET", "/oauth2/authorize/"),
        ("GET", "/docs/../v1/units/permits"),
        ("GET", "/docs%2f..%2fv1%2funits%2fpermits"),
    ],
)
async def test_at_the_port_for_browsers_there_is_nothing_else(portal: Portal, verb: str, path: str):
    operator = profile(portal.node, "operator")
    fingerprint = Caller(portal.node.edge, operator.files, None).fingerprint
    forged = {
        "authorization": f"Bearer {(await portal.log_in(0))['access_token']}",
        xfcc.HEADER: f"Hash={fingerprint};URI=spiffe://solmu/client/operator",
        "content-type": "application/grpc" if "solmu." in path else "application/json",
    }
    reader, writer = await asyncio.open_connection(
        "localhost",
        portal.node.ports[plan.BROWSER_PORT],
        ssl=ssl.create_default_context(cafile=operator.files.authorities),
    )
    fields = "".join(f"{name}: {value}\r\n" for name, value in forged.items())
    writer.write(
        f"{verb} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n{fields}\r\n".encode()
    )
    answer = await reader.read()
    writer.close()
    status = answer.split()[1]
    assert status in (b"400", b"404") or b"grpc-status: 12\r\n" in answer


async def test_a_browser_that_cannot_go_on_is_told_so_and_sent_nowhere(portal: Portal):
    async with portal.browser.get(
        f"{portal.node.browsers}/oauth2/authorize?client_id=portal&request_uri=urn%3Ax", allow_redirects=False
    ) as answer:
        assert (answer.status, answer.content_type) == (400, "text/html")
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "begun in another browser" in await answer.text()


async def test_no_log_of_the_node_knows_who_logged_in_or_with_what(portal: Portal):
    verifier = secrets.token_urlsafe(48)
    begun = await portal.begin(verifier)
    chosen = await portal.choose(await portal.follow(begun), 4)
    home = await portal.follow(chosen)
    await portal.post(
        "token",
        grant_type="authorization_code",
        code=query_of(home)["code"],
        redirect_uri=BACK,
        code_verifier=verifier,
    )
    secret = [verifier, query_of(begun)["request_uri"].rpartition(":")[2], *query_of(chosen).values()]
    secret = [each for each in secret if not each.startswith("https://")] + [query_of(home)["code"]]
    written = "".join(path.read_text(errors="replace") for path in portal.node.state.log.iterdir())
    assert "edge.request" in written
    assert not [each for each in (*secret, PEOPLE[4].code, PEOPLE[4].code[:6], PEOPLE[4].name) if each in written]


async def test_the_test_provider_starts_under_the_supervisor_of_an_embedded_node_and_nowhere_else(node: Node):
    settings = {
        "SOLMU_STATE": str(node.state.root),
        "SOLMU_LISTEN": "0.0.0.0:0",
        "SOLMU_BROWSER_ORIGIN": node.browsers,
    }
    # A shell in between: the parent is not the supervisor, who here is the test's own process.
    command = f"{sys.executable} -m deploy.local.identity_provider; exit $?"
    process = await asyncio.create_subprocess_shell(
        command, env=os.environ | settings, cwd=plan.SOURCE, stderr=asyncio.subprocess.PIPE
    )
    _, said = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == os.EX_CONFIG
    assert b"started by the supervisor of an embedded node and by nobody else" in said
    assert b"on 127.0.0.1 only" in said


@asynccontextmanager
async def _chromium() -> AsyncIterator[Page]:
    if CHROMIUM is None:
        warnings.warn("the log-in was not looked at: Chromium is not installed", UserWarning, stacklevel=2)
        pytest.skip("Chromium is not installed; `apt-get install chromium`")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = await browser.new_context(ignore_https_errors=True, viewport={"width": 900, "height": 1000})
        yield await context.new_page()
        await browser.close()


@pytest.mark.filterwarnings("default::UserWarning")
async def test_a_person_logs_in_with_a_browser_and_a_keyboard(portal: Portal, tmp_path: Path):
    screenshots = Path(os.environ.get("SOLMU_SCREENSHOTS", tmp_path))
    async with _chromium() as page:
        troubles: list[str] = []
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        seen: list[str] = []
        page.on("request", lambda request: seen.append(request.url))
        # The portal itself, as far as the browser meets it.
        await page.route(f"{BACK}**", lambda route: route.fulfill(body="<h1>Welcome</h1>", content_type="text/html"))

        verifier = secrets.token_urlsafe(48)
        await page.goto(await portal.begin(verifier, acr_values="http://eidas.europa.eu/LoA/substantial"))
        await expect(page.get_by_role("heading", name="Log in as an invented person")).to_be_visible()
        await expect(page.get_by_role("radio", name="substantial")).to_be_checked()
        await expect(page.get_by_role("group", name="How surely you are known")).to_be_visible()
        await page.screenshot(path=screenshots / "log-in.png", full_page=True)
        [cookie] = await page.context.cookies(portal.node.browsers)
        assert cookie["name"].startswith(COOKIE)
        assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, True, "Lax", "/")

        await page.keyboard.press("Tab")
        for _ in range(1 + 1):
            await page.keyboard.press("Tab")
        await expect(page.get_by_role("button", name=PEOPLE[1].name)).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Welcome")).to_be_visible()
        answer = query_of(page.url)
        assert await page.context.cookies(portal.node.browsers) == []
        status, issued = await portal.post(
            "token", grant_type="authorization_code", code=answer["code"], redirect_uri=BACK, code_verifier=verifier
        )
        assert (status, claims_of(issued["access_token"])["acr"]) == (200, "http://eidas.europa.eu/LoA/substantial")
        assert troubles == []
        places = (portal.node.browsers, portal.provider, BACK)
        assert [url for url in seen if not url.startswith(places)] == []

        # Who comes back by the browser's history finds a page that says what to do.
        spent = next(url for url in seen if "/oauth2/callback" in url)
        await page.goto(spent)
        await expect(page.get_by_role("heading", name="The log-in cannot go on")).to_be_visible()
        shot = await page.screenshot(path=screenshots / "log-in-refused.png")
        assert len(shot) > 5_000, "an empty page is smaller"
