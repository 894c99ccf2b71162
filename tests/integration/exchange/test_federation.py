"""Two meshes that have entered each other: each goes by the other's directory, and members call across."""

import pytest
from solmu.exchange.v1 import directory_service_pb2, publishing_pb2

from services.exchange import names
from services.runtime.errors import Fault
from tests.integration.exchange import backend as backends
from tests.integration.exchange import calls
from tests.integration.exchange import mesh as meshes
from tests.integration.exchange.calls import CLIENT, head, refused, send, whole

CONSUMER = "EE/GOV/9/cases"


async def federate(publisher, other, fingerprint):
    await publisher.exchange.publishing.AddFederation(
        publishing_pb2.AddFederationRequest(
            parent=publisher.directory, anchor=await meshes.signed_anchor(other), fingerprint=fingerprint
        )
    )
    await meshes.publish(publisher)


@pytest.fixture(scope="module")
async def abroad(nodes, tmp_path_factory):
    """The publisher of another mesh, which is federated with that of the two nodes."""
    city, company = nodes
    async with meshes.node("EE/GOV/9/node", tmp_path_factory.mktemp("abroad") / "state") as node:
        description = await meshes.found(node)
        await meshes.serve(node, node, CONSUMER)
        await meshes.trust(city, node.authority)  # so that one side can call the other for its directory
        await federate(city, node, description.fingerprint)
        own = city.exchange.meshes.own
        await federate(node, city, _fingerprint(await meshes.signed_anchor(city)))
        assert own.instance == "FI"
        await node.exchange.refresher.refresh("FI")
        await city.exchange.refresher.refresh("EE")
        await company.refresh()
        await company.exchange.refresher.refresh("EE")
        yield node
        await city.exchange.publishing.RemoveFederation(
            publishing_pb2.RemoveFederationRequest(name=f"{city.directory}/federations/EE")
        )
        await meshes.publish(city)
        await company.refresh()


def _fingerprint(anchor: bytes) -> str:
    import hashlib

    from solmu.exchange.v1.directory_document_pb2 import SignedDocument

    return hashlib.sha256(SignedDocument.FromString(anchor).document).hexdigest()


async def test_each_mesh_goes_by_the_others_directory(nodes, abroad):
    for node in (*nodes, abroad):
        listed = await node.exchange.directories.ListDirectories(directory_service_pb2.ListDirectoriesRequest())
        assert {one.instance for one in listed.directories} == {"FI", "EE"}
        assert listed.directories[0].own
        assert all(one.version for one in listed.directories)


async def test_a_member_of_one_mesh_calls_a_service_of_the_other(nodes, abroad):
    _, company = nodes
    async with backends.running() as backend:
        await calls.host(abroad, CONSUMER, clients=[CLIENT])
        service = await calls.service(company, backend.uri)
        denied = await refused(abroad, whole(head(service)))
        assert (denied.reason, denied.metadata["side"]) == ("ACCESS_DENIED", "provider")
        await calls.allow(company, service, consumer=CONSUMER)
        answered = await send(abroad, whole(head(service)))
        assert answered.body == b"hello"
        assert backend.requests[-1].header(b"x-road-client") == CONSUMER.encode()
    assert await calls.statements(company, answered.exchange_id) == [(1, False), (2, True)]


async def test_a_mesh_is_not_federated_by_another_anchor_than_the_one_compared(nodes, abroad):
    city, _ = nodes
    with pytest.raises(Fault) as refusal:
        await federate(city, abroad, "0" * 64)
    assert refusal.value.reason == "ANCHOR_FINGERPRINT_MISMATCH"


async def test_a_mesh_speaks_for_its_own_members_only(nodes, abroad):
    """A node of the other mesh cannot bring what would be a call of this one's member."""
    assert not nodes[1].exchange.meshes.serves(abroad.identifier, calls.CONSUMER)
    assert names.instance_of(abroad.identifier) == "EE"
