"""People log in to a program on their own machine: the library, and the command as typed."""

from __future__ import annotations

import asyncio
import json
import stat
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from deploy.local import ports
from deploy.local.node import Node
from gateway.client import Client, Fault, Person, ProfileError, Unauthenticated, log_in
from tests.integration.client.test_command import solmu
from tests.integration.node import portal
from tests.integration.node.people import client_of, organisation
from tests.integration.node.portal import Portal

MAIL = ("mailbox.read", "mailbox.write")


@asynccontextmanager
async def program(node: Node) -> AsyncIterator[Client]:
    """A client to which people log in, on a port of its own."""
    back = f"http://127.0.0.1:{ports.free()}/back"
    async with client_of(node, organisation(5_000_000), *MAIL, redirect_uris=[back]) as client:
        yield client


@pytest.fixture(name="browser")
async def browser_fixture(node: Node) -> AsyncIterator[Portal]:
    async with portal.opened(node) as opened:
        yield opened


async def come(browser: Portal, address: str, person: int = 0) -> str:
    """Follows an address as a person's browser does, to what the program shows at the end."""
    home = await browser.choose(await browser.follow(address), person)
    async with browser.browser.get(await browser.follow(home), allow_redirects=False) as answer:
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        return await answer.text()


async def test_a_program_calls_in_the_name_of_who_logged_in(node: Node, browser: Portal):
    async with program(node) as client:
        async with log_in.begin(client, scope="mailbox.read mailbox.write") as begun:
            assert "You are logged in" in await come(browser, begun.address, person=1)
            token = await begun.token()
        async with Person(client.profile, token) as person:
            mailbox = await person.rest("POST", "/v1/mailboxes:open", {})
        assert mailbox["party"] == token.party
        own = await client.rest("GET", "/v1/mailboxes")
        assert mailbox["name"] not in [one["name"] for one in own.get("mailboxes", [])], (
            "the client's own name is another"
        )


async def test_when_the_log_in_is_over_nobody_is_called_for(node: Node):
    async with program(node) as client, Person(client.profile, log_in.Token("a.b.c", time.time())) as person:
        with pytest.raises(Unauthenticated) as refusal:
            await person.rest("GET", "/v1/mailboxes")
        assert refusal.value.reason == "TOKEN_EXPIRED"


async def test_an_answer_to_another_log_in_is_not_looked_at(node: Node, browser: Portal):
    async with program(node) as client, log_in.begin(client) as begun:
        for query in ("", "?code=stolen", f"?code=stolen&state=x&iss={node.edge}"):
            async with browser.browser.get(client.profile.redirect_uri + query) as answer:
                assert answer.status == 400
        assert "You are logged in" in await come(browser, begun.address)
        assert (await begun.token()).party.startswith("persons/")


async def test_who_does_not_log_in_is_told_and_so_is_the_program(node: Node, browser: Portal):
    async with program(node) as client, log_in.begin(client) as begun:
        address = await browser.follow(begun.address)
        form = portal.query_of(address) | {"cancel": "yes"}
        async with browser.browser.post(address.partition("?")[0], data=form, allow_redirects=False) as answer:
            home = await browser.follow(answer.headers["location"])
        async with browser.browser.get(home) as answer:
            assert "You are not logged in" in await answer.text()
        with pytest.raises(Fault) as refusal:
            await begun.token()
        assert refusal.value.reason == "OAUTH_ACCESS_DENIED"


async def test_a_client_to_which_nobody_logs_in_says_so(node: Node):
    async with client_of(node, organisation(5_000_000), *MAIL) as client:
        with pytest.raises(ProfileError, match="redirect_uri"):
            async with log_in.begin(client):
                pass


async def test_the_command_logs_in_and_then_calls_as_the_person(node: Node, browser: Portal):
    async with program(node) as client:
        folder = client.profile.files.certificate.parent
        refused = await solmu("--profile", folder, "--person", "call", "GET", "/v1/mailboxes")
        assert (refused.status, "nobody has logged in" in refused.error) == (2, True)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway.client.command", "--profile", str(folder), "--json", "log-in"),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        await come(browser, json.loads(await process.stdout.readline())["address"], person=6)
        told = json.loads(await asyncio.wait_for(process.stdout.readline(), 20))
        assert await process.wait() == 0
        assert told["party"].startswith("persons/")
        kept = folder / "person.json"
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        done = await solmu("--profile", folder, "--person", "--json", "call", "POST", "/v1/mailboxes:open", "{}")
        assert json.loads(done.out)["party"] == told["party"]
        kept.write_text(json.dumps(json.loads(kept.read_text()) | {"expires": time.time()}))
        over = await solmu("--profile", folder, "--person", "call", "GET", "/v1/mailboxes")
        assert (over.status, "log in again" in over.error) == (1, True)
