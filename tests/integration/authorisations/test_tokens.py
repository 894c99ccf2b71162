"""Access tokens for registered clients."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from solmu.authorisations.v1 import tokens_pb2
from solmu.authorisations.v1.clients_pb2 import Client, RevokeClientRequest, UpdateClientRequest
from solmu.authorisations.v1.events_pb2 import TokenRevoked

from services.authorisations.token_servicer import KeyServicer
from services.runtime.database import Database
from services.runtime.errors import InvalidArgument, Unauthenticated
from services.runtime.identity import TokenVerifier
from tests.integration.authorisations.service import Service, assemble
from tests.unit.authorisations.builders import CERTIFICATE, ISSUER, NOW


def verifier(service: Service) -> TokenVerifier:
    return TokenVerifier(issuer=ISSUER, fetch=service.keys.key_set, clock=NOW.timestamp)


async def test_a_registered_client_gets_a_token_that_services_take(service: Service) -> None:
    client = await service.register(scopes=["messages.send", "messages.read"])
    response = await service.issue(client)
    assert (response.token_type, response.expires_in, response.scope) == ("Bearer", 300, "messages.read messages.send")
    claims = await verifier(service).verify(response.access_token, CERTIFICATE)
    assert claims["sub"] == client.party
    assert claims["client_id"] == client.name.removeprefix("clients/")
    assert claims["scope"] == response.scope
    assert claims["exp"] - claims["iat"] == 300


async def test_a_token_is_bound_to_the_certificate_that_was_shown(service: Service) -> None:
    response = await service.issue(await service.register())
    with pytest.raises(Unauthenticated) as refusal:
        await verifier(service).verify(response.access_token, "cd" * 32)
    assert refusal.value.reason == "TOKEN_BINDING_MISMATCH"


async def test_a_renewed_certificate_with_the_same_uri_is_the_same_client(service: Service) -> None:
    client = await service.register()
    renewed = tokens_pb2.ClientCertificate(sha256="cd" * 32, uri_sans=[client.certificate_uri])
    response = await service.issue(client, certificate=renewed)
    assert await verifier(service).verify(response.access_token, "cd" * 32)


async def test_no_two_tokens_have_the_same_id(service: Service) -> None:
    client = await service.register()
    tokens = [(await service.issue(client)).access_token for _ in range(20)]
    ids = {jwt.decode(token, options={"verify_signature": False})["jti"] for token in tokens}
    assert len(ids) == 20


async def test_part_of_the_scopes_can_be_asked_for(service: Service) -> None:
    client = await service.register(scopes=["messages.send", "messages.read"])
    assert (await service.issue(client, scope="messages.read", resource=ISSUER)).scope == "messages.read"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"scope": "clients.manage"}, "OAUTH_INVALID_SCOPE"),
        ({"grant_type": "refresh_token"}, "OAUTH_UNSUPPORTED_GRANT_TYPE"),
        ({"resource": "https://elsewhere.example"}, "OAUTH_INVALID_TARGET"),
        ({"authorization_details": "[]"}, "OAUTH_INVALID_AUTHORIZATION_DETAILS"),
    ],
)
async def test_what_the_client_may_not_have_is_refused(service: Service, fields: dict[str, Any], reason: str) -> None:
    client = await service.register()
    with pytest.raises(InvalidArgument) as refusal:
        await service.issue(client, **fields)
    assert refusal.value.reason == reason


async def refusal_of(service: Service, client: Client, **fields: Any) -> tuple[str, str]:
    with pytest.raises(Unauthenticated) as refusal:
        await service.issue(client, **fields)
    return refusal.value.reason, refusal.value.message


async def test_unknown_revoked_and_unproven_clients_look_alike(service: Service) -> None:
    client, revoked = await service.register(), await service.register()
    await service.clients.RevokeClient(RevokeClientRequest(name=revoked.name))
    foreign = tokens_pb2.ClientCertificate(sha256=CERTIFICATE, uri_sans=[revoked.certificate_uri])
    assertion = {"client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}
    refusals = {
        await refusal_of(
            service, Client(name="clients/nobody-here", certificate_uri="spiffe://solmu/client/nobody-here")
        ),
        await refusal_of(service, revoked),
        await refusal_of(service, client, certificate=foreign),
        await refusal_of(service, client, **assertion),
    }
    assert len(refusals) == 1
    assert refusals.pop()[0] == "OAUTH_INVALID_CLIENT"


async def test_a_change_of_the_client_holds_from_the_next_token(service: Service) -> None:
    client = await service.register()
    await service.issue(client)
    changed = Client(name=client.name, scopes=["messages.read"])
    await service.clients.UpdateClient(UpdateClientRequest(client=changed))
    assert (await service.issue(client)).scope == "messages.read"


async def test_the_key_set_verifies_what_is_issued(service: Service) -> None:
    response = await service.issue(await service.register())
    key_set = await KeyServicer(keys=service.keys).GetKeySet(tokens_pb2.GetKeySetRequest())
    (key,) = json.loads(key_set.jwks)["keys"]
    assert key["kid"] == jwt.get_unverified_header(response.access_token)["kid"]
    assert jwt.decode(
        response.access_token,
        jwt.PyJWK(key),
        algorithms=["ES256"],
        audience=ISSUER,
        options={"verify_exp": False, "verify_iat": False},
    )


def asking(client: Client, token: str, **fields: Any) -> dict[str, Any]:
    """The fields with which a client asks about a token."""
    certificate = tokens_pb2.ClientCertificate(sha256=CERTIFICATE, uri_sans=[client.certificate_uri])
    return {"token": token, "client_id": client.name.removeprefix("clients/"), "certificate": certificate} | fields


async def introspected(service: Service, client: Client, token: str) -> dict[str, Any] | None:
    response = await service.tokens.IntrospectToken(tokens_pb2.IntrospectTokenRequest(**asking(client, token)))
    assert bool(response.claims) == response.active
    return json.loads(response.claims) if response.active else None


async def revoke(service: Service, client: Client, token: str) -> None:
    await service.tokens.RevokeToken(tokens_pb2.RevokeTokenRequest(**asking(client, token)))


async def revocation_events(service: Service, token: str) -> list[TokenRevoked]:
    rows = await service.database.fetch("select payload from outbox where type = $1", TokenRevoked.DESCRIPTOR.full_name)
    events = [TokenRevoked.FromString(row["payload"]) for row in rows]
    return [event for event in events if event.token_id == claims_of(token)["jti"]]


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


async def test_a_client_is_told_what_its_own_token_holds(service: Service) -> None:
    client = await service.register()
    token = (await service.issue(client)).access_token
    assert await introspected(service, client, token) == claims_of(token) | {"token_type": "Bearer"}


async def test_another_clients_token_looks_like_none(service: Service) -> None:
    client, other = await service.register(), await service.register()
    token = (await service.issue(client)).access_token
    for text in (token, "nonsense", token[:-2], "a.b.c"):
        assert await introspected(service, other, text) is None


async def test_a_token_that_was_taken_back_is_no_longer_good(authorisations_database: Database, tmp_path: Path) -> None:
    service = assemble(authorisations_database, tmp_path, clock=lambda: datetime.now(UTC))
    client = await service.register()
    token, kept = (await service.issue(client)).access_token, (await service.issue(client)).access_token
    await revoke(service, client, token)
    assert await introspected(service, client, token) is None
    assert await introspected(service, client, kept) is not None
    await service.revocations.load()
    assert service.revocations.revoked(claims_of(token)["jti"])
    assert not service.revocations.revoked(claims_of(kept)["jti"])


async def test_a_revocation_of_a_token_and_its_event_commit_together_and_once(service: Service) -> None:
    client = await service.register()
    token = (await service.issue(client)).access_token
    await asyncio.gather(*(revoke(service, client, token) for _ in range(5)))
    (event,) = await revocation_events(service, token)
    assert event.expire_time.ToSeconds() == claims_of(token)["exp"]


@pytest.mark.parametrize("text", ["nonsense", "a.b.c", "é", "\0"])
async def test_taking_back_what_is_no_token_is_no_error(service: Service, text: str) -> None:
    await revoke(service, await service.register(), text)


async def test_a_client_cannot_take_back_anothers_token(service: Service) -> None:
    client, other = await service.register(), await service.register()
    token = (await service.issue(client)).access_token
    with pytest.raises(InvalidArgument) as refusal:
        await revoke(service, other, token)
    assert refusal.value.reason == "OAUTH_INVALID_GRANT"
    assert await introspected(service, client, token) is not None
    assert await revocation_events(service, token) == []


async def test_an_expired_token_is_neither_good_nor_taken_back(
    authorisations_database: Database, tmp_path: Path
) -> None:
    now = [NOW]
    service = assemble(authorisations_database, tmp_path, clock=lambda: now[0])
    client = await service.register()
    token = (await service.issue(client)).access_token
    now[0] += timedelta(seconds=305)
    assert await introspected(service, client, token) is None
    await revoke(service, client, token)
    assert await revocation_events(service, token) == []


async def test_who_asks_about_tokens_must_be_proven(service: Service) -> None:
    client, other = await service.register(), await service.register()
    token = (await service.issue(client)).access_token
    foreign = asking(client, token, certificate=asking(other, token)["certificate"])
    with pytest.raises(Unauthenticated):
        await service.tokens.IntrospectToken(tokens_pb2.IntrospectTokenRequest(**foreign))
    with pytest.raises(Unauthenticated):
        await service.tokens.RevokeToken(tokens_pb2.RevokeTokenRequest(**foreign))
    assert await introspected(service, client, token) is not None
