"""Paths that mean one thing to the edge and might mean another to what is behind it."""

from __future__ import annotations

import pytest

from tests.attack.conftest import Target, told
from tests.attack.wire import CLOSED, Http2, Raw

NOT_FOUND = {"400", "404"}

PATHS = [
    "/v1/units%2Fpermits",
    "/v1/units%2fpermits",
    "/v1/units%5Cpermits",
    "/v1/units%252Fpermits",
    "/v1/units/permits/../../../oauth2/x",
    "/v1/units/%2e%2e/%2e%2e/etc",
    "/v1//units/permits",
    "//v1/units/permits",
    "/v1/units/permits;x=y/..;/x",
    "/v1/units/permits%00",
    "/solmu.messages.v1.UnitService/GetUnit",
    "/solmu.messages.v1.UnitService%2FGetUnit",
    "/SOLMU.messages.v1.UnitService/GetUnit",
    "/grpc.health.v1.Health/Check",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/solmu.authorisations.v1.KeyService/GetKeySet",
    "/stats",
    "/ready",
    "/config_dump",
    "/quitquitquit",
    "/metrics",
    "/../../bootstrap.json",
    "*",
]


@pytest.mark.parametrize("path", PATHS)
async def test_a_path_that_no_contract_declares_is_not_found(target: Target, path: str) -> None:
    async with Raw.open(target.port, target.http1) as attacker:
        await attacker.send(target.request(f"GET {path} HTTP/1.1"))
        first = await attacker.answers()
    async with Http2.open(target.port, target.http2) as attacker:
        second = await attacker.outcome(await attacker.begin(target.headers("GET", path)))
    told(f"GET {path}, by HTTP/1.1 and HTTP/2", (first, second))
    assert set(first) <= NOT_FOUND | {CLOSED}
    assert second in NOT_FOUND or second.startswith("reset")


async def test_dot_segments_are_resolved_before_routes_and_scopes_are_looked_up(target: Target) -> None:
    async with Raw.open(target.port, target.http1) as attacker:
        await attacker.send(target.request("GET /.well-known/../v1/units/permits HTTP/1.1").replace(b"Bearer", b"None"))
        answers = await attacker.answers()
    told("a protected path behind the prefix of an open one, without a token", answers)
    assert answers[0] == "401"


async def test_a_backslash_is_read_as_a_slash_before_the_route_is_looked_up(target: Target) -> None:
    async with Http2.open(target.port, target.http2) as attacker:
        authorised = await attacker.outcome(await attacker.begin(target.headers("GET", r"/v1/units\permits")))
        anonymous = [field for field in target.headers("GET", r"/v1\units\permits") if field[0] != "authorization"]
        stranger = await attacker.outcome(await attacker.begin(anonymous))
    told("a path with backslashes, with a token and without", (authorised, stranger))
    assert (authorised, stranger) == ("200", "401")


async def test_the_absolute_form_is_routed_by_its_path(target: Target) -> None:
    answers = {}
    for line in ("GET https://localhost/v1/units/permits HTTP/1.1", "GET http://elsewhere:5432/admin HTTP/1.1"):
        async with Raw.open(target.port, target.http1) as attacker:
            await attacker.send(target.request(line))
            answers[line] = (await attacker.answers())[0]
    told("the absolute form, for this host and another", answers)
    assert list(answers.values()) == ["200", "404"]


@pytest.mark.parametrize("kibibytes", [8, 31, 64, 1024])
async def test_a_very_long_path_is_refused(target: Target, kibibytes: int) -> None:
    path = "/v1/units/" + "a" * (kibibytes << 10)
    async with Raw.open(target.port, target.http1) as attacker:
        await attacker.send(target.request(f"GET {path} HTTP/1.1"))
        answers = await attacker.answers()
    told(f"a path of {kibibytes} KiB", answers)
    assert set(answers) <= {"400", "404", "414", "431", CLOSED}


async def test_methods_that_no_route_has_are_not_found(target: Target) -> None:
    outcomes = {}
    for method in ("TRACE", "TRACK", "DEBUG", "PROPFIND", "get", "X" * 4000):
        async with Http2.open(target.port, target.http2) as attacker:
            outcomes[method[:8]] = await attacker.outcome(await attacker.begin(target.headers(method)))
    told("methods that nobody has", outcomes)
    assert set(outcomes.values()) <= {"400", "404", "reset 1"}
