"""Clients that prove themselves by assertions, with the database that remembers them."""

import asyncio
import json
import uuid
from typing import Any

import jwt
import pytest
from solmu.authorisations.v1 import tokens_pb2
from solmu.authorisations.v1.clients_pb2 import Client, RevokeClientRequest, UpdateClientRequest

from services.authorisations import token_store
from services.authorisations.assertions import ASSERTION_TYPE
from services.runtime.errors import Fault, InvalidArgument, Unauthenticated
from tests.integration.authorisations.service import Service
from tests.tokens import Signer
from tests.unit.authorisations.builders import CERTIFICATE, ISSUER, NOW

AT = int(NOW.timestamp())


async def registered(service: Service, keys: Signer, **fields: Any) -> Client:
    by_assertion = Client.AUTHENTICATION_PRIVATE_KEY_JWT
    return await service.register(authentication=by_assertion, jwks=keys.jwks(), **fields)


def shown(client: Client, keys: Signer, **changes: Any) -> dict[str, str]:
    """The parameters by which a client proves itself."""
    name = client.name.removeprefix("clients/")
    claims = {"iss": name, "sub": name, "aud": ISSUER, "exp": AT + 120, "jti": str(uuid.uuid4())} | changes
    assertion = jwt.encode(claims, keys.key, "ES256", headers={"kid": keys.kid})
    return {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion}


async def refused(service: Service, client: Client, **fields: Any) -> str:
    with pytest.raises(Fault) as refusal:
        await service.issue(client, **fields)
    return refusal.value.reason


async def test_a_client_with_an_assertion_and_its_certificate_gets_a_token(service: Service) -> None:
    keys = Signer()
    client = await registered(service, keys)
    response = await service.issue(client, **shown(client, keys))
    assert response.scope == "messages.send"


async def test_the_assertion_may_name_the_client_alone(service: Service) -> None:
    keys = Signer()
    client = await registered(service, keys)
    certificate = tokens_pb2.ClientCertificate(sha256=CERTIFICATE, uri_sans=[client.certificate_uri])
    request = tokens_pb2.IssueTokenRequest(
        grant_type="client_credentials", certificate=certificate, **shown(client, keys)
    )
    assert (await service.tokens.IssueToken(request)).access_token


async def test_an_assertion_works_once(service: Service) -> None:
    keys = Signer()
    client = await registered(service, keys)
    proof = shown(client, keys)
    await service.issue(client, **proof)
    assert await refused(service, client, **proof) == "OAUTH_INVALID_CLIENT"
    same_id = jwt.decode(proof["client_assertion"], options={"verify_signature": False})["jti"]
    assert await refused(service, client, **shown(client, keys, jti=same_id, exp=AT + 200)) == "OAUTH_INVALID_CLIENT"


async def test_of_many_uses_at_the_same_instant_one_is_the_first(service: Service) -> None:
    keys = Signer()
    client = await registered(service, keys)
    proof = shown(client, keys)

    async def attempt() -> bool:
        try:
            await service.issue(client, **proof)
        except Unauthenticated:
            return False
        return True

    assert sum(await asyncio.gather(*(attempt() for _ in range(12)))) == 1


async def test_two_clients_may_choose_the_same_id_for_their_assertions(service: Service) -> None:
    keys = Signer()
    for client in (await registered(service, keys), await registered(service, keys)):
        assert await service.issue(client, **shown(client, keys, jti="1"))


async def test_an_assertion_that_does_not_verify_uses_nothing_up(service: Service) -> None:
    keys = Signer()
    client = await registered(service, keys)
    assert await refused(service, client, **shown(client, Signer(), jti="7")) == "OAUTH_INVALID_CLIENT"
    assert await service.issue(client, **shown(client, keys, jti="7"))


async def test_every_lack_of_proof_has_one_answer(service: Service) -> None:
    keys = Signer()
    client, by_certificate = await registered(service, keys), await service.register()
    foreign = tokens_pb2.ClientCertificate(sha256=CERTIFICATE, uri_sans=[by_certificate.certificate_uri])
    proof = shown(client, keys)
    attempts: list[tuple[Client, dict[str, Any]]] = [
        (client, {}),
        (client, {"client_assertion": proof["client_assertion"]}),
        (client, {"client_assertion_type": ASSERTION_TYPE}),
        (client, proof | {"client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"}),
        (client, {**proof, "certificate": foreign}),
        (client, shown(client, Signer())),
        (client, shown(client, keys, aud=[ISSUER])),
        (client, shown(client, keys, sub="other")),
        (client, {**proof, "client_id": by_certificate.name.removeprefix("clients/")}),
        (client, {**proof, "client_assertion": "a.b.c"}),
        (by_certificate, shown(by_certificate, keys)),
    ]
    refusals = set()
    for who, fields in attempts:
        with pytest.raises(Unauthenticated) as refusal:
            await service.issue(who, **fields)
        refusals.add((refusal.value.reason, refusal.value.message, tuple(refusal.value.metadata)))
    assert len(refusals) == 1
    assert await service.issue(client, **proof), "nothing of that used the assertion up"


async def test_a_revoked_client_proves_nothing(service: Service) -> None:
    keys = Signer()
    client = await registered(service, keys)
    await service.clients.RevokeClient(RevokeClientRequest(name=client.name))
    assert await refused(service, client, **shown(client, keys)) == "OAUTH_INVALID_CLIENT"


async def test_keys_are_rotated_by_having_both_for_a_while(service: Service) -> None:
    old, new = Signer(kid="old"), Signer(kid="new")
    client = await registered(service, old)
    for keys, works in (([old, new], [old, new]), ([new], [new])):
        jwks = json.dumps({"keys": [each.jwk() for each in keys]})
        await service.clients.UpdateClient(UpdateClientRequest(client=Client(name=client.name, jwks=jwks)))
        for each in works:
            assert await service.issue(client, **shown(client, each))
    assert await refused(service, client, **shown(client, old)) == "OAUTH_INVALID_CLIENT"


async def test_a_client_changes_from_certificate_to_assertions_with_its_keys_only(service: Service) -> None:
    client, keys = await service.register(), Signer()
    by_assertion = Client.AUTHENTICATION_PRIVATE_KEY_JWT
    with pytest.raises(InvalidArgument) as refusal:
        await service.clients.UpdateClient(
            UpdateClientRequest(client=Client(name=client.name, authentication=by_assertion))
        )
    assert refusal.value.reason == "KEY_SET_INVALID"
    changed = Client(name=client.name, authentication=by_assertion, jwks=keys.jwks())
    await service.clients.UpdateClient(UpdateClientRequest(client=changed))
    assert await refused(service, client) == "OAUTH_INVALID_CLIENT"
    assert await service.issue(client, **shown(client, keys))


async def test_used_assertions_are_forgotten_when_they_are_too_old_to_be_taken(service: Service) -> None:
    keys = Signer()
    client = await registered(service, keys)
    await service.issue(client, **shown(client, keys))

    async def swept(seconds: int) -> int:
        from datetime import timedelta

        sweep = asyncio.create_task(token_store.sweep(service.database, clock=lambda: NOW + timedelta(seconds=seconds)))
        count: int = -1
        for _ in range(50):
            await asyncio.sleep(0.01)
            count = await service.database.fetchval(
                "select count(*) from used_assertion where client_id = $1", client.name.removeprefix("clients/")
            )
            if not count:
                break
        sweep.cancel()
        return count

    assert await swept(129) == 1
    assert await swept(131) == 0


async def test_a_client_that_says_nothing_of_itself_is_told_so(service: Service) -> None:
    client = await service.register()
    with pytest.raises(InvalidArgument) as refusal:
        await service.issue(client, client_id="")
    assert refusal.value.reason == "OAUTH_INVALID_REQUEST"
    for nonsense in ("\0", "Ä", "x" * 128, "../operator"):
        assert await refused(service, client, client_id=nonsense) == "OAUTH_INVALID_CLIENT"
