"""`solmu exchange` as typed: a city calls a company's service, each through its own node."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from tests.integration.client.test_command import solmu
from tests.integration.exchange import backend as backends
from tests.integration.exchange import calls
from tests.integration.exchange.backend import plain
from tests.journeys import pair
from tests.journeys.pair import CONSUMER, PROVIDER


async def test_services_are_listed_called_and_their_rights_shown(tmp_path: Path) -> None:
    async with pair.joined(tmp_path) as (city_node, city, company_node, company), backends.running() as backend:
        service = await calls.service(company, backend.uri, subsystem=PROVIDER, code="persons")
        await calls.allow(company, service, ("*", "/persons/**"), consumer=CONSUMER)
        await pair.consumer(city_node, city)
        cases = city_node.state.clients / pair.CASES.client_id
        owner = company_node.state.clients / pair.ADMINISTRATION.client_id

        listed = await solmu("--profile", owner, "exchange", "services", PROVIDER)
        assert listed.status == 0, listed.error
        head, row = (line.split() for line in listed.out.splitlines())
        assert (head, row[:3]) == (["service", "state", "protocol", "name"], ["persons", "enabled", "http"])
        rights = (await solmu("--profile", owner, "exchange", "rights", service)).out.splitlines()
        assert rights[1].split()[:3] == [f"subsystems/{CONSUMER.replace('/', '~')}", "*", "/persons/**"]

        backend.answer = plain(b'{"name":"somebody"}')
        called = await solmu("--profile", cases, "exchange", "call", service, "GET", "/persons/7?full=1")
        assert (called.status, called.out) == (0, '{"name":"somebody"}'), called.error
        assert backend.requests[-1].line == b"GET /base/persons/7?full=1 HTTP/1.1"
        path = tmp_path / "path"
        path.write_text("/persons/9?a=b\n")
        called = await solmu("--profile", cases, "exchange", "call", service, "GET", f"@{path}")
        assert (called.status, backend.requests[-1].line) == (0, b"GET /base/persons/9?a=b HTTP/1.1"), called.error
        small = json.loads(
            (await solmu("--profile", cases, "--json", "exchange", "call", service, "GET", f"@{path}")).out
        )
        assert (base64.b64decode(small["body"]), small["status"]) == (b'{"name":"somebody"}', 200)
        assert small["end"]["responseStatement"]
        content = bytes(range(256)) * 8_000
        backend.answer = plain(content)
        large = json.loads(
            (await solmu("--profile", cases, "--json", "exchange", "call", service, "GET", f"@{path}")).out
        )
        assert (base64.b64decode(large["body"]), large["bodyBytes"]) == (content, str(len(content)))
        backend.answer = plain(b'{"name":"somebody"}')
        body = tmp_path / "body"
        body.write_bytes(b'{"of":8}')
        post = ("exchange", "call", service, "POST", "/persons/8", "--body", body)
        sent = await solmu("--profile", cases, "--json", *post)
        answer = json.loads(sent.out)
        assert (answer["status"], base64.b64decode(answer["body"])) == (200, b'{"name":"somebody"}')
        assert answer["end"]["requestStatement"]
        assert backend.requests[-1].header(b"content-type") == b"application/json"

        async def administered(*arguments: str) -> tuple[int, Any]:
            done = await solmu("--profile", owner, "--json", "exchange", *arguments)
            return done.status, json.loads(done.out) if done.out else done.error

        asked = ("check", service, CONSUMER, "GET", "/others")
        assert await administered(*asked) == (1, {"reason": "ACCESS_DENIED"})
        status, right = await administered("allow", service, CONSUMER, "GET:/others")
        assert (status, right["patterns"]) == (0, [{"method": "GET", "path": "/others"}])
        assert await administered(*asked) == (0, {"allowed": True, "accessRight": right["name"]})
        assert (await administered("forbid", right["name"]))[0] == 0
        assert (await administered("forbid", right["name"]))[0] == 1
        assert await administered(*asked) == (1, {"reason": "ACCESS_DENIED"})
        status, inbox = await administered("allow", PROVIDER, CONSUMER)
        assert (status, inbox["name"].split("/")[2]) == (0, "inbox")
        assert (await solmu("--profile", owner, "exchange", "allow", service, CONSUMER, "GET")).status == 2
        peers = (await solmu("--profile", owner, "exchange", "peers")).out.splitlines()
        assert peers[1].split()[:2] == [pair.CITY, "reachable"]

        denied = await solmu("--profile", cases, "exchange", "call", service, "GET", "/others")
        assert (denied.status, denied.out) == (1, "")
        wrong = await solmu("--profile", cases, "exchange", "call", "FI/COM/2", "GET", "/")
        assert wrong.status == 2
