"""Clients whose certificate is renewed while they run, and those that prove themselves by an assertion as well."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import secrets
import shutil
from pathlib import Path

import aiohttp
import jwt
import pytest
from cryptography import x509
from solmu.authorisations.v1 import clients_pb2
from solmu.messages.v1.units_pb2 import GetUnitRequest

from deploy import pki
from deploy.local import demo_clients
from deploy.local.node import Node
from gateway.client import Client, Fault, Profile, SyncClient
from gateway.client.connector import Connector
from services.runtime import tls
from tests.integration.node.callers import profile
from tests.tokens import Signer

PATIENCE = 20
UNIT = f"units/{demo_clients.UNIT}"
REQUEST = GetUnitRequest(name=UNIT)


class Office:
    """An information system of the city, with a certificate from the node's authority."""

    def __init__(self, node: Node, folder: Path) -> None:
        self.client_id = f"office-{secrets.token_hex(3)}"
        self._node, self._folder = node, folder
        self._authority = pki.Authority.load(node.state.public)
        files = tls.Files(folder / pki.CERTIFICATE, folder / pki.KEY, self._authority.certificate_path)
        self.profile = Profile(edge=node.edge, client_id=self.client_id, files=files, scopes=("messages.read",))
        self._issue()

    async def register(self, **fields: object) -> None:
        """Has the operator register it."""
        owner = demo_clients.identifier(demo_clients.CITY)
        client = clients_pb2.Client(display_name="Office", owner=owner, scopes=["messages.read"], **fields)  # type: ignore[arg-type]
        async with Client(profile(self._node, "operator")) as operator:
            request = clients_pb2.CreateClientRequest(client_id=self.client_id, client=client)
            await operator.call(operator.clients.CreateClient, request)

    async def renew(self) -> None:
        """Puts a new certificate and key into the same files, and has the old one revoked and refused."""
        old = self._folder / "old"
        old.mkdir()
        files = tls.Files(old / pki.CERTIFICATE, old / pki.KEY, self.profile.files.authorities)
        shutil.copy(self.profile.files.certificate, files.certificate)
        shutil.copy(self.profile.files.key, files.key)
        self._issue()
        self._authority.revoke(x509.load_pem_x509_certificate(files.certificate.read_bytes()))
        async with asyncio.timeout(PATIENCE):
            while await _gets_in(dataclasses.replace(self.profile, files=files)):
                await asyncio.sleep(0.05)

    def _issue(self) -> None:
        self._authority.issue(pki.Identity.information_system(self._node.settings.node, self.client_id), self._folder)


async def _gets_in(profile: Profile) -> bool:
    try:
        async with Client(profile) as client:
            await client.call(client.units.GetUnit, REQUEST, attempts=1)
    except Fault:
        return False
    return True


@pytest.fixture
async def office(node: Node, tmp_path: Path) -> Office:
    return Office(node, tmp_path)


async def test_a_running_client_goes_on_with_its_renewed_certificate(office: Office):
    await office.register()
    async with Client(office.profile) as client:
        get = client.units.GetUnit  # what was taken from a stub goes on, too
        assert (await client.call(get, REQUEST)).name == UNIT
        await office.renew()
        assert (await client.call(get, REQUEST)).name == UNIT
        assert (await client.rest("GET", f"/v1/{UNIT}"))["name"] == UNIT


async def test_half_a_renewal_changes_nothing(office: Office):
    await office.register()
    async with Client(office.profile) as client:
        assert (await client.call(client.units.GetUnit, REQUEST)).name == UNIT
        before = await client.token()
        office.profile.files.key.write_bytes(b"half a key")
        assert (await client.call(client.units.GetUnit, REQUEST)).name == UNIT
        assert await client.token() == before


async def test_a_running_sync_client_goes_on_with_its_renewed_certificate(office: Office):
    await office.register()

    def read(client: SyncClient) -> str:
        return client.call(client.units.GetUnit, REQUEST).name

    client = await asyncio.to_thread(SyncClient(office.profile).__enter__)
    try:
        assert await asyncio.to_thread(read, client) == UNIT
        await office.renew()
        assert await asyncio.to_thread(read, client) == UNIT
    finally:
        await asyncio.to_thread(client.__exit__, None, None, None)


async def test_a_running_connector_goes_on_with_its_renewed_certificate(office: Office):
    await office.register()
    form = {"grant_type": "client_credentials", "client_id": office.client_id}

    async def reads(address: str) -> int:
        async with aiohttp.ClientSession(address) as http:
            async with http.post("/oauth2/token", data=form) as answer:
                token = (await answer.json())["access_token"]
            async with http.get(f"/v1/{UNIT}", headers={"authorization": f"Bearer {token}"}) as answer:
                return answer.status

    async with Connector(office.profile) as connector:
        assert await reads(connector.address) == 200
        await office.renew()
        assert await reads(connector.address) == 200


async def test_a_profile_with_an_assertion_key_proves_itself_with_it(office: Office, tmp_path: Path):
    signer = Signer(kid="office-1")
    jwks = json.dumps({"keys": [signer.jwk()]})
    await office.register(authentication=clients_pb2.Client.AUTHENTICATION_PRIVATE_KEY_JWT, jwks=jwks)
    private = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(signer.key)) | {"kid": signer.kid, "alg": "ES256"}
    (tmp_path / "assertion-key.json").write_text(json.dumps(private))
    values = {
        "edge": office.profile.edge,
        "client_id": office.client_id,
        "certificate": pki.CERTIFICATE,
        "key": pki.KEY,
        "authorities": str(office.profile.files.authorities),
        "scopes": ["messages.read"],
    }
    (tmp_path / "profile.json").write_text(json.dumps(values))
    async with Client(Profile.load(tmp_path)) as client:
        with pytest.raises(Fault) as refused:
            await client.token()
    assert refused.value.reason == "OAUTH_INVALID_CLIENT"
    (tmp_path / "profile.json").write_text(json.dumps(values | {"assertion_key": "assertion-key.json"}))
    async with Client(Profile.load(tmp_path)) as client:
        assert (await client.call(client.units.GetUnit, REQUEST)).name == UNIT
        client.forget_token()
        assert (await client.call(client.units.GetUnit, REQUEST)).name == UNIT
