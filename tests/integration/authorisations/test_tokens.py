"""Access tokens for registered clients."""

import json
from typing import Any

import jwt
import pytest
from solmu.authorisations.v1 import tokens_pb2
from solmu.authorisations.v1.clients_pb2 import Client, RevokeClientRequest, UpdateClientRequest

from services.authorisations.token_servicer import KeyServicer
from services.runtime.errors import InvalidArgument, Unauthenticated
from services.runtime.identity import TokenVerifier
from tests.integration.authorisations.service import Service
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
