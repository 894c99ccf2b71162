"""The foreign protocols, through the edge and past it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from services.runtime import tls
from tests.integration.gateway.rig import Rest, Rig
from tests.unit.gateway import pki

FORM = {"content-type": "application/x-www-form-urlencoded"}
REQUEST = "grant_type=client_credentials&client_id=alice&scope=parcels.read"


async def test_a_token_is_asked_for_with_the_certificate_of_the_connection(rig: Rig) -> None:
    forged = {"X-Forwarded-Client-Cert": f"Hash={'0' * 64};URI=spiffe://test/client/bob"}
    answer = await rig.rest("POST", "/oauth2/token", REQUEST, token=None, headers={**FORM, **forged})

    assert answer.status == 200
    assert answer.json == {"access_token": "a.b.c", "token_type": "Bearer", "expires_in": 300, "scope": "x.y"}
    assert answer.headers["cache-control"] == "no-store"
    request = rig.issued[-1]
    assert (request.grant_type, request.client_id, request.scope) == ("client_credentials", "alice", "parcels.read")
    assert request.certificate.sha256 == rig.clients["alice"].sha256
    assert list(request.certificate.uri_sans) == ["spiffe://test/client/alice"]
    assert request.certificate.subject == "CN=alice"


async def test_tokens_are_introspected_and_revoked_through_the_edge(rig: Rig) -> None:
    form = "client_id=alice&token=a.b.c"
    known = await rig.rest("POST", "/oauth2/introspect", form, token=None, headers=FORM)
    assert (known.status, known.json) == (200, {"active": True, "sub": "a.b.c"})
    gone = await rig.rest("POST", "/oauth2/revoke", form, token=None, headers=FORM)
    assert (gone.status, gone.body) == (200, b"")


@pytest.mark.parametrize(
    "crafted", ['x",URI=spiffe://test/client/bob;Hash=00;Subject="y', "x\\", 'x\\"', "a,b;c=d", "ä🙂"]
)
async def test_names_in_a_certificate_cannot_forge_the_header(rig: Rig, crafted: str) -> None:
    rig.clients["crafted"] = rig.public.issue(crafted, uri="spiffe://test/client/crafted")
    answer = await rig.rest("POST", "/oauth2/token", REQUEST, token=None, client="crafted", headers=FORM)

    assert answer.status == 200
    certificate = rig.issued[-1].certificate
    assert certificate.sha256 == rig.clients["crafted"].sha256
    assert list(certificate.uri_sans) == ["spiffe://test/client/crafted"]
    assert certificate.subject.startswith("CN=")


@pytest.mark.parametrize("uri", ["spiffe://a,URI=spiffe://test/client/bob", f"spiffe://a;Hash={'0' * 64}"])
async def test_a_certificate_with_a_crafted_uri_proves_nothing(rig: Rig, uri: str) -> None:
    rig.clients["crafted"] = rig.public.issue("crafted", uri=uri)
    answer = await rig.rest("POST", "/oauth2/token", REQUEST, token=None, client="crafted", headers=FORM)
    assert (answer.status, answer.json["error"]) == (401, "invalid_client")


async def test_the_metadata_leads_to_the_other_endpoints(rig: Rig) -> None:
    metadata = (await rig.rest("GET", "/.well-known/oauth-authorization-server", token=None)).json
    assert metadata["issuer"] == rig.origin
    assert metadata["token_endpoint"] == f"{rig.origin}/oauth2/token"
    assert metadata["tls_client_certificate_bound_access_tokens"] is True
    assert metadata["scopes_supported"] == ["parcels.read", "parcels.write"]

    keys = await rig.rest("GET", metadata["jwks_uri"].removeprefix(rig.origin), token=None)
    assert keys.json == {"keys": [rig.signer.jwk()]}
    same = await rig.rest("GET", "/oauth2/jwks", token=None, headers={"if-none-match": keys.headers["etag"]})
    assert (same.status, same.body) == (304, b"")


async def test_no_endpoint_is_there_without_a_client_certificate(rig: Rig) -> None:
    for path in ("/oauth2/token", "/oauth2/jwks", "/.well-known/oauth-authorization-server", "/healthz"):
        with pytest.raises(aiohttp.ClientError):
            await rig.rest("GET", path, token=None, client=None)


async def test_an_endpoint_has_limits_of_its_own(rig: Rig) -> None:
    large = await rig.rest("POST", "/oauth2/token", "a=" + "b" * 70_000, token=None, headers=FORM)
    wrong = await rig.rest("GET", "/oauth2/token", token=None)
    beyond = await rig.rest("GET", "/oauth2/token/more", token=None)

    assert (large.status, large.reason) == (413, "BODY_TOO_LARGE")
    assert (wrong.status, wrong.reason, wrong.headers["allow"]) == (405, "METHOD_UNKNOWN", "POST")
    assert (beyond.status, beyond.reason) == (401, "TOKEN_MISSING")


@asynccontextmanager
async def straight(rig: Rig, peer: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A session with the adapters past the edge, as a service of the node."""
    connector = aiohttp.TCPConnector(ssl=tls.client_context(rig.files(peer)))
    async with aiohttp.ClientSession(f"https://localhost:{rig.settings.listen.port}", connector=connector) as session:
        yield session


@pytest.mark.parametrize(
    ("peer", "path", "status"),
    [
        ("edge", "/healthz", 200),
        ("operator", "/healthz", 200),
        ("messages", "/healthz", 403),
        ("operator", "/oauth2/jwks", 403),
        ("messages", "/oauth2/token", 403),
        ("edge", "/elsewhere", 404),
    ],
)
async def test_only_the_edge_calls_the_adapters(rig: Rig, peer: str, path: str, status: int) -> None:
    async with straight(rig, peer) as session, session.get(path) as response:
        assert response.status == status
        if status != 200:
            answer = Rest(response.status, {"content-type": response.headers["content-type"]}, await response.read())
            assert answer.reason == ("METHOD_UNKNOWN" if status == 404 else "CALLER_NOT_ALLOWED")


async def test_a_client_cannot_call_the_adapters_past_the_edge(rig: Rig) -> None:
    context = pki.client_context(rig.internal, rig.clients["alice"])
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(connector=connector) as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"https://localhost:{rig.settings.listen.port}/healthz")
