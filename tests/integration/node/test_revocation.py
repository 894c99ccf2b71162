"""A client or a certificate that is revoked is refused everywhere within seconds, on open connections too."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from solmu.authorisations.v1 import clients_pb2
from solmu.messages.v1 import messages_pb2
from solmu.messages.v1.feed_pb2 import StreamEventsRequest
from solmu.messages.v1.units_pb2 import GetUnitRequest

from deploy import pki
from deploy.local import demo_clients
from deploy.local.node import Node
from gateway.client import Client, Fault, Profile
from services.runtime import status, tls
from tests.integration.node.callers import profile

PATIENCE = 10
UNIT = f"units/{demo_clients.UNIT}"


async def registered(node: Node, folder: Path) -> Profile:
    """A new client of the city, as the operator registers it."""
    client_id = f"office-{secrets.token_hex(3)}"
    authority = pki.Authority.load(node.state.public)
    authority.issue(pki.Identity.information_system(node.settings.node, client_id), folder)
    files = tls.Files(folder / pki.CERTIFICATE, folder / pki.KEY, authority.certificate_path)
    request = clients_pb2.CreateClientRequest(
        client_id=client_id,
        client=clients_pb2.Client(
            display_name="Another office",
            owner=demo_clients.identifier(demo_clients.CITY),
            scopes=["messages.read"],
        ),
    )
    async with Client(profile(node, "operator")) as operator:
        await operator.call(operator.clients.CreateClient, request)
    return Profile(edge=node.edge, client_id=client_id, files=files, scopes=("messages.read",))


async def test_a_revoked_client_is_refused_on_the_connection_that_it_has(node: Node, tmp_path: Path):
    new = await registered(node, tmp_path)
    async with Client(new) as office, Client(profile(node, "operator")) as operator:
        assert (await office.call(office.units.GetUnit, GetUnitRequest(name=UNIT))).name == UNIT
        stream = office.feed.StreamEvents(StreamEventsRequest(parent=UNIT), metadata=await office.metadata())
        reading = asyncio.create_task(_until_it_ends(stream))

        revoke = clients_pb2.RevokeClientRequest(name=f"clients/{new.client_id}")
        await operator.call(operator.clients.RevokeClient, revoke)

        async with asyncio.timeout(PATIENCE):
            while (fault := await _refusal(office)) is None:
                await asyncio.sleep(0.02)
            assert (fault.code, fault.reason) == ("UNAUTHENTICATED", "CLIENT_REVOKED")
            ended = await reading
            assert (ended.code, ended.reason) == ("UNAUTHENTICATED", "CLIENT_REVOKED")
    async with Client(new) as office:
        with pytest.raises(Fault) as refused:
            await office.token()
        assert refused.value.reason == "OAUTH_INVALID_CLIENT"


async def test_a_revoked_certificate_ends_the_streams_that_are_open_with_it(node: Node, tmp_path: Path):
    new = await registered(node, tmp_path)
    async with Client(new) as office:
        stream = office.feed.StreamEvents(StreamEventsRequest(parent=UNIT), metadata=await office.metadata())
        await _send(node)
        assert (await anext(aiter(stream))).cursor, "the stream is open"
        authority = pki.Authority.load(node.state.public)
        authority.revoke(x509.load_pem_x509_certificate((tmp_path / pki.CERTIFICATE).read_bytes()))
        async with asyncio.timeout(PATIENCE):
            ended = await _until_it_ends(stream)
    assert (ended.code, ended.reason) == ("UNAUTHENTICATED", "CLIENT_REVOKED")


async def _send(node: Node) -> None:
    """Makes something happen in the unit."""
    async with Client(profile(node, "resident")) as resident:
        mailbox = (await resident.rest("POST", "/v1/mailboxes:open", {}))["name"]
    message = messages_pb2.Message(
        recipient=messages_pb2.Recipient(mailbox=mailbox),
        title="A notice",
        bodies=[messages_pb2.Body(language="en", text="Of something.")],
    )
    async with Client(profile(node, "permits")) as permits:
        await permits.call(permits.messages.SendMessage, messages_pb2.SendMessageRequest(parent=UNIT, message=message))


async def _refusal(office: Client) -> Fault | None:
    try:
        await office.call(office.units.GetUnit, GetUnitRequest(name=UNIT))
    except Fault as fault:
        return fault
    return None


async def _until_it_ends(stream: grpc.aio.UnaryStreamCall) -> Fault:
    try:
        async for _ in stream:
            pass
    except grpc.RpcError as error:
        return status.fault_of(error)
    raise AssertionError("the stream ended without a word")
