"""Headers with which proxies speak to services, sent by a client; and headers that change what a request is."""

from __future__ import annotations

import json

import aiohttp
import pytest

from gateway.client import Client
from tests.attack.conftest import UNIT, Target, told
from tests.attack.wire import Http2
from tests.integration.node.callers import Caller, profile

FORGED = (
    "x-forwarded-client-cert",
    "X-Forwarded-Client-Cert",
    "x-client-cert",
    "x-ssl-client-cert",
    "x-client-certificate",
    "x-edge-client",
    "x-edge-bound-to",
    "x-edge-certificate-serial",
    "x-envoy-peer-metadata",
)


async def asked(
    target: Target, verb: str, path: str, *headers: tuple[str, str], data: object = None
) -> tuple[int, str]:
    """Status and reason (or OAuth error) of a request over HTTP/1.1."""
    async with (
        aiohttp.ClientSession(target.node.edge, connector=aiohttp.TCPConnector(ssl=target.http1)) as session,
        session.request(verb, path, data=data, headers=list(headers)) as answer,
    ):
        text = await answer.text()
        found = json.loads(text) if "json" in answer.content_type else {}
        return answer.status, str(found.get("reason") or found.get("error") or "")


@pytest.fixture
async def victim(target: Target) -> Caller:
    """The operator, whose token the attacker has got hold of, and whose certificate everybody can know."""
    async with Client(profile(target.node, "operator")) as client:
        return Caller(target.node.edge, client.profile.files, await client.token())


@pytest.mark.parametrize("name", FORGED)
async def test_a_stolen_token_with_a_forged_certificate_header_is_refused(
    target: Target, victim: Caller, name: str
) -> None:
    uri = f"spiffe://{target.node.settings.node}/client/operator"
    forged = (name, f'Hash={victim.fingerprint};Subject="CN=operator";URI={uri}')
    stolen = ("authorization", f"Bearer {victim.token}")
    outcome = await asked(target, "GET", UNIT, stolen, forged, forged)
    told(f"another client's token with its certificate in {name}, twice", outcome)
    assert outcome == (401, "TOKEN_BINDING_MISMATCH")

    form = {"grant_type": "client_credentials", "client_id": "operator"}
    outcome = await asked(target, "POST", "/oauth2/token", forged, data=form)
    told(f"a token asked for in another client's name, with its certificate in {name}", outcome)
    assert outcome == (401, "invalid_client")


@pytest.mark.parametrize(
    "header",
    [
        ("x-envoy-original-path", "/v1/other"),
        ("x-envoy-original-method", "DELETE"),
        ("x-envoy-upstream-rq-timeout-ms", "3600000"),
        ("x-envoy-max-retries", "1000"),
        ("x-envoy-retry-on", "5xx"),
        ("x-envoy-internal", "true"),
        ("x-envoy-force-trace", "1"),
        ("x-envoy-upstream-alt-stat-name", "forged"),
        ("x-envoy-decorator-operation", "forged"),
        ("x-envoy-hedge-on-per-try-timeout", "true"),
        ("x-envoy-ip-tags", "trusted"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-host", "elsewhere"),
        ("x-forwarded-proto", "http"),
        ("x-real-ip", "10.0.0.1"),
        ("forwarded", "for=10.0.0.1;host=elsewhere"),
        ("x-request-id", "forged"),
        ("x-http-method-override", "DELETE"),
        ("x-http-method", "DELETE"),
        ("x-method-override", "DELETE"),
        ("x-original-url", "/oauth2/jwks"),
        ("x-rewrite-url", "/oauth2/jwks"),
        ("expect", "200-ok"),
    ],
    ids=lambda header: header[0],
)
async def test_a_header_of_proxies_changes_nothing(target: Target, header: tuple[str, str]) -> None:
    authorised = await asked(target, "GET", UNIT, ("authorization", target.bearer), header)
    stranger = await asked(target, "GET", UNIT, header)
    told(f"{header[0]}: {header[1]}, with a token and without", (authorised, stranger))
    assert authorised == (200, "")
    assert stranger == (401, "TOKEN_MISSING")


async def test_several_or_hidden_tokens_are_refused(target: Target) -> None:
    good, bad = ("authorization", target.bearer), ("authorization", "Bearer a.b.c")
    outcomes = {
        "two tokens, the good one first": await asked(target, "GET", UNIT, good, bad),
        "two tokens, the good one last": await asked(target, "GET", UNIT, bad, good),
        "token in the query": await asked(target, "GET", f"{UNIT}?access_token={target.token}"),
        "token in a cookie": await asked(target, "GET", UNIT, ("cookie", f"access_token={target.token}")),
        "token of 16 KiB": await asked(target, "GET", UNIT, ("authorization", f"Bearer {'a' * 8000}")),
    }
    for tried, outcome in outcomes.items():
        told(tried, outcome)
    assert {status for status, _ in outcomes.values()} == {401}


@pytest.mark.parametrize(
    "trace",
    [
        "00-" + "f" * 32 + "-" + "f" * 16 + "-01",
        "00-" + "0" * 32 + "-" + "0" * 16 + "-01",
        "ff-" + "a" * 32 + "-" + "b" * 16 + "-01",
        "x" * 8000,
        "\x80\xff",
    ],
    ids=["all ones", "all zeros", "unknown version", "8 KB", "not ASCII"],
)
async def test_a_malformed_trace_does_not_disturb_the_call(target: Target, trace: str) -> None:
    async with Http2.open(target.port, target.http2) as attacker:
        many = [("traceparent", trace), ("traceparent", trace), ("tracestate", ",".join(f"k{i}=v" for i in range(500)))]
        outcome = await attacker.outcome(await attacker.begin(target.headers("GET", UNIT, *many)))
    told("two malformed traceparents and a tracestate of 500 members", outcome)
    assert outcome in {"200", "400"}


async def test_a_flood_of_traces_costs_no_memory(target: Target) -> None:
    outcomes = set()
    async with Http2.open(target.port, target.http2) as attacker:
        for number in range(500):
            trace = ("traceparent", f"00-{number + 1:032x}-{number + 1:016x}-01")
            outcomes.add(await attacker.outcome(await attacker.begin(target.headers("GET", UNIT, trace))))
    told("500 calls, each with a trace of its own and the wish to be recorded", outcomes)
    assert outcomes == {"200"}
