"""Tokens of a whole node, through its edge: proven by assertion, introspected, taken back."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
import uuid
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from solmu.authorisations.v1 import clients_pb2
from solmu.messages.v1.units_pb2 import GetUnitRequest
from solmu.messages.v1.units_pb2_grpc import UnitServiceStub

from deploy import pki
from deploy.local import demo_clients
from deploy.local.node import Node
from gateway.client import Client
from services.authorisations.assertions import ASSERTION_TYPE
from services.runtime import tls
from tests.integration.node.callers import Caller, Refusal, profile
from tests.tokens import Signer

METADATA = "/.well-known/oauth-authorization-server"
PATIENCE = 10.0


class Portal:
    """An information system that proves itself by assertions, at the edge of a node."""

    def __init__(self, node: Node, files: tls.Files, keys: Signer, client_id: str) -> None:
        self.node = node
        self.files = files
        self.keys = keys
        self.client_id = client_id

    def proof(self, **changes: Any) -> dict[str, str]:
        """A fresh assertion, as parameters of a form."""
        now, name = int(time.time()), self.client_id
        claims = {
            "iss": name,
            "sub": name,
            "aud": self.node.edge,
            "iat": now,
            "exp": now + 60,
            "jti": str(uuid.uuid4()),
        }
        assertion = jwt.encode(claims | changes, self.keys.key, "ES256", headers={"kid": self.keys.kid})
        return {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion}

    async def post(self, url: str, **form: str) -> tuple[int, Any]:
        """Status and document of a call to an OAuth endpoint."""
        context = ssl.create_default_context(cafile=str(self.files.authorities))
        context.load_cert_chain(str(self.files.certificate), str(self.files.key))
        connector = aiohttp.TCPConnector(ssl=context)
        async with aiohttp.ClientSession(connector=connector) as session, session.post(url, data=form) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text else None

    async def endpoints(self) -> dict[str, Any]:
        """What the server's metadata says."""
        _, metadata = await Caller(self.node.edge, self.files, None).rest("GET", METADATA)
        assert isinstance(metadata, dict)
        return metadata

    async def token(self) -> str:
        """An access token."""
        endpoint = (await self.endpoints())["token_endpoint"]
        status, document = await self.post(endpoint, grant_type="client_credentials", **self.proof())
        assert status == 200
        return str(document["access_token"])


@pytest.fixture(scope="module")
async def portal(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Portal:
    """Registered by the operator, with a certificate of the node's public authority and a key of its own."""
    keys, client_id, folder = (
        Signer(kid="portal-1"),
        f"portal-{uuid.uuid4().hex[:8]}",
        tmp_path_factory.mktemp("portal"),
    )
    authority = pki.Authority.load(node.state.public)
    authority.issue(pki.Identity.information_system(node.settings.node, client_id), folder)
    described = clients_pb2.Client(
        display_name="Portal",
        owner=demo_clients.identifier(demo_clients.CITY),
        scopes=["messages.read"],
        authentication=clients_pb2.Client.AUTHENTICATION_PRIVATE_KEY_JWT,
        jwks=keys.jwks(),
    )
    async with Client(profile(node, "operator")) as operator:
        request = clients_pb2.CreateClientRequest(client_id=client_id, client=described)
        await operator.call(operator.clients.CreateClient, request, attempts=5)
    return Portal(node, _files(folder, authority), keys, client_id)


def _files(folder: Path, authority: pki.Authority) -> tls.Files:
    return tls.Files(folder / pki.CERTIFICATE, folder / pki.KEY, authority.certificate_path)


async def test_the_metadata_names_what_is_there_and_how_to_prove_oneself(portal: Portal):
    metadata = await portal.endpoints()
    assert metadata["issuer"] == portal.node.edge
    for name in ("token", "introspection", "revocation"):
        assert "private_key_jwt" in metadata[f"{name}_endpoint_auth_methods_supported"]
        status, document = await portal.post(metadata[f"{name}_endpoint"])
        assert (status, document["error"]) == (400, "invalid_request")


async def test_an_assertion_opens_the_node_once_and_with_the_certificate_only(portal: Portal):
    endpoint, proof = (await portal.endpoints())["token_endpoint"], portal.proof()
    foreign = Portal(portal.node, profile(portal.node, "permits").files, portal.keys, portal.client_id)
    status, document = await foreign.post(endpoint, grant_type="client_credentials", **proof)
    assert (status, document["error"]) == (401, "invalid_client")
    status, document = await portal.post(endpoint, grant_type="client_credentials", client_id=portal.client_id)
    assert (status, document["error"]) == (401, "invalid_client")
    status, document = await portal.post(endpoint, grant_type="client_credentials", **proof)
    assert (status, document["scope"]) == (200, "messages.read")
    status, document = await portal.post(endpoint, grant_type="client_credentials", **proof)
    assert (status, document["error"]) == (401, "invalid_client")


async def test_a_token_that_is_taken_back_opens_nothing_at_either_door(portal: Portal):
    metadata, token = await portal.endpoints(), await portal.token()
    caller = Caller(portal.node.edge, portal.files, token)
    status, known = await portal.post(metadata["introspection_endpoint"], token=token, **portal.proof())
    assert (status, known["active"], known["client_id"]) == (200, True, portal.client_id)
    assert (await caller.rest("GET", f"/v1/units/{demo_clients.UNIT}"))[0] == 200

    assert await portal.post(metadata["revocation_endpoint"], token=token, **portal.proof()) == (200, None)
    _, known = await portal.post(metadata["introspection_endpoint"], token=token, **portal.proof())
    assert known == {"active": False}
    async with asyncio.timeout(PATIENCE):
        while (await caller.rest("GET", f"/v1/units/{demo_clients.UNIT}"))[0] == 200:
            await asyncio.sleep(0.05)
    http, problem = await caller.rest("GET", f"/v1/units/{demo_clients.UNIT}")
    assert (http, problem["reason"], problem["type"]) == (401, "TOKEN_REVOKED", "urn:solmu:reason:TOKEN_REVOKED")
    unit = GetUnitRequest(name=f"units/{demo_clients.UNIT}")
    assert await caller.grpc(UnitServiceStub, "GetUnit", unit) == Refusal("UNAUTHENTICATED", "TOKEN_REVOKED")
    fresh = Caller(portal.node.edge, portal.files, await portal.token())
    assert (await fresh.rest("GET", f"/v1/units/{demo_clients.UNIT}"))[0] == 200, "the client itself may go on"
