"""A mesh of two nodes: joined with an anchor, its directory published by one, held by both."""

import hashlib
from dataclasses import replace

import pytest
from solmu.exchange.v1 import directory_pb2, directory_service_pb2, mesh_pb2, publishing_pb2
from solmu.exchange.v1.directory_document_pb2 import DirectoryDocument, SignedDocument

from services.exchange import documents, names
from services.exchange.directory import Directory
from services.runtime.errors import Fault
from tests.integration.exchange import mesh as meshes


async def test_a_registration_takes_its_way_into_every_directory(nodes):
    _city, company = nodes
    for node in nodes:
        answer = await node.exchange.directories.ListSubsystems(directory_service_pb2.ListSubsystemsRequest())
        assert [subsystem.name for subsystem in answer.subsystems] == [
            "subsystems/FI~COM~2~register",
            "subsystems/FI~COM~2~solmu",
            "subsystems/FI~MUN~1~letters",
            "subsystems/FI~MUN~1~solmu",
        ]
    hosted = await company.exchange.directories.ListSubsystems(
        directory_service_pb2.ListSubsystemsRequest(hosted_only=True)
    )
    assert [subsystem.name for subsystem in hosted.subsystems] == [
        "subsystems/FI~COM~2~register",
        "subsystems/FI~COM~2~solmu",
    ]
    registrations = await company.exchange.mesh.ListRegistrations(mesh_pb2.ListRegistrationsRequest())
    assert {one.state for one in registrations.registrations} == {mesh_pb2.Registration.STATE_PUBLISHED}


async def test_an_anchor_with_another_fingerprint_is_refused(nodes):
    city, company = nodes
    with pytest.raises(Fault) as refusal:
        await company.exchange.mesh.JoinMesh(
            mesh_pb2.JoinMeshRequest(
                anchor=await meshes.signed_anchor(city), fingerprint="0" * 64, node=names.node_id(company.identifier)
            )
        )
    assert refusal.value.reason == "ANCHOR_FINGERPRINT_MISMATCH"


async def test_a_second_mesh_is_refused(nodes):
    city, company = nodes
    anchor = await meshes.signed_anchor(city)
    description = await company.exchange.mesh.InspectAnchor(mesh_pb2.InspectAnchorRequest(anchor=anchor))
    assert description.usable
    with pytest.raises(Fault) as refusal:
        await company.exchange.mesh.JoinMesh(
            mesh_pb2.JoinMeshRequest(
                anchor=anchor, fingerprint=description.fingerprint, node=names.node_id(company.identifier)
            )
        )
    assert refusal.value.reason == "MESH_JOINED"


async def test_the_directory_goes_on_while_its_publisher_is_away(nodes, monkeypatch):
    _, company = nodes
    monkeypatch.setattr(company.exchange.peers, "publisher", lambda anchor: iter(()))
    monkeypatch.setattr(company.exchange.peers, "stubs", lambda node: [])
    shown = await company.refresh()
    assert shown.state == directory_pb2.Directory.STATE_CURRENT
    assert shown.refresh_failure == "DIRECTORY_UNREACHABLE"


async def test_peers_pass_the_directory_on(nodes, monkeypatch):
    city, company = nodes
    version = (await meshes.publish(city)).version
    monkeypatch.setattr(company.exchange.peers, "publisher", lambda anchor: iter(()))
    shown = await company.refresh()
    assert (shown.version, shown.refresh_failure) == (version, "")


async def exported(node):
    request = mesh_pb2.ExportDirectoryRequest(name=node.directory)
    return b"".join([body.data async for body in node.exchange.mesh.ExportDirectory(request)])


async def import_file(node, blob):
    async def requests():
        for first in range(0, len(blob), 1000):
            part = mesh_pb2.ImportDirectoryRequest()
            part.content.data = blob[first : first + 1000]
            yield part

    return await node.exchange.mesh.ImportDirectory(requests())


async def test_a_directory_goes_by_file_where_no_network_goes(nodes):
    city, company = nodes
    version = (await meshes.publish(city)).version
    assert (await import_file(company, await exported(city))).version == version


async def check_refused(city, company, monkeypatch, signed, reason):
    """A directory that the publisher's node shows as its newest is refused, which is shown; what was in force stays."""
    before = company.exchange.meshes.own.known
    genuine = city.exchange.meshes.mesh

    def showing(instance):
        newest = DirectoryDocument(version=before.version + 100)
        return replace(genuine(instance), signed=signed, directory=Directory(newest))

    with monkeypatch.context() as patch:
        patch.setattr(city.exchange.meshes, "mesh", showing)
        shown = await company.refresh()
    assert (shown.refresh_failure, shown.state) == (reason, directory_pb2.Directory.STATE_CURRENT)
    assert company.exchange.meshes.own.known == before
    assert (await company.refresh()).refresh_failure == ""


async def test_a_directory_that_is_rolled_back_is_refused(nodes, monkeypatch):
    city, company = nodes
    old, file = city.exchange.meshes.own.signed, await exported(city)
    await meshes.publish(city)
    await company.refresh()
    await check_refused(city, company, monkeypatch, old, "DIRECTORY_ROLLED_BACK")
    before = company.exchange.meshes.own.known
    with pytest.raises(Fault) as refusal:
        await import_file(company, file)
    assert refusal.value.reason == "DIRECTORY_ROLLED_BACK"
    assert company.exchange.meshes.own.known == before


async def test_a_directory_that_was_tampered_with_is_refused(nodes, monkeypatch):
    city, company = nodes
    signed = SignedDocument()
    signed.CopyFrom(city.exchange.meshes.own.signed)
    document = DirectoryDocument.FromString(signed.document)
    document.version += 1
    signed.document = document.SerializeToString(deterministic=True)
    await check_refused(city, company, monkeypatch, signed, "DIRECTORY_SIGNATURE_INVALID")


async def test_a_file_that_breaks_off_is_refused_and_the_directory_stays(nodes):
    _city, company = nodes
    before = company.exchange.meshes.own.known

    async def requests():
        part = mesh_pb2.ImportDirectoryRequest()
        part.content.data = b"\xff\x01half"
        yield part

    with pytest.raises(Fault) as refusal:
        await company.exchange.mesh.ImportDirectory(requests())
    assert refusal.value.reason == "DIRECTORY_MALFORMED"
    assert company.exchange.meshes.own.known == before


async def test_only_the_publisher_publishes(nodes):
    _, company = nodes
    with pytest.raises(Fault) as refusal:
        await meshes.publish(company)
    assert refusal.value.reason == "NOT_PUBLISHER"


async def test_a_key_of_an_unknown_authority_is_not_entered(nodes):
    _city, company = nodes
    _, entry = await company.certified_key(directory_pb2.KEY_USE_STATEMENTS, meshes.Authority("Nobody's"))
    registration = await company.exchange.mesh.CreateRegistration(
        mesh_pb2.CreateRegistrationRequest(registration=mesh_pb2.Registration(member=company.member(entry)))
    )
    assert registration.state == mesh_pb2.Registration.STATE_REJECTED
    assert registration.rejection.startswith("CERTIFICATE_ISSUER_UNKNOWN")


async def test_a_registration_for_somebody_elses_member_is_refused(nodes):
    city, company = nodes
    _, entry = await company.certified_key(directory_pb2.KEY_USE_STATEMENTS)
    intruder = directory_pb2.Member(id=names.member_id(city.owner), display_name="Ours now", keys=[entry])
    registration = await company.exchange.mesh.CreateRegistration(
        mesh_pb2.CreateRegistrationRequest(registration=mesh_pb2.Registration(member=intruder))
    )
    assert registration.rejection.startswith("REGISTRATION_SIGNATURE_INVALID")


async def test_a_member_changes_its_key_without_an_outage(nodes):
    city, company = nodes
    name, entry = await company.certified_key(directory_pb2.KEY_USE_STATEMENTS)
    with pytest.raises(Fault) as refusal:
        await company.activate(name)
    assert refusal.value.reason == "KEY_NOT_REGISTERED"
    await meshes.register(company, city, member_key={"member": names.member_id(company.owner), "key": entry})
    await city.refresh()
    await company.activate(name)
    active = company.exchange.ring.active(directory_pb2.KEY_USE_STATEMENTS, company.owner)
    assert active is not None
    assert active.certificate_sha256.hex() == entry.certificate_sha256
    keys = city.exchange.meshes.directory("FI").members[company.owner].keys
    assert len(keys) >= 2  # the old one still proves what it signed


async def test_a_changed_anchor_is_followed(nodes):
    city, company = nodes
    fresh = await city.new_key(directory_pb2.KEY_USE_DIRECTORY)
    current = city.exchange.meshes.own.anchor.document
    keys = [*current.keys, {"public_key": fresh.public_key, "algorithm": meshes.P256}]
    pending = await city.exchange.publishing.CreateAnchor(
        publishing_pb2.CreateAnchorRequest(
            parent=city.directory,
            terms=publishing_pb2.AnchorTerms(
                keys=[type(current.keys[0])(**one) if isinstance(one, dict) else one for one in keys],
                threshold=2,
                publisher=current.publisher,
            ),
        )
    )
    assert (pending.missing_previous, pending.missing_own) == (0, 0)
    await company.refresh()
    own = company.exchange.meshes.own
    assert own.anchor.document.version == current.version + 1
    assert own.signed is not None
    assert len(own.signed.signatures) == 2


async def test_entries_keep_their_digests_while_others_change(nodes):
    city, _ = nodes
    parts = city.exchange.meshes.own.directory.document.parts
    assert all(len(part.sha256) == hashlib.sha256().digest_size for part in parts)
    before = [part.sha256 for part in parts]
    await meshes.publish(city)
    assert [part.sha256 for part in city.exchange.meshes.own.directory.document.parts] == before


async def test_a_directory_signed_by_an_old_key_is_refused(nodes, monkeypatch):
    city, company = nodes
    current = city.exchange.meshes.own.anchor.document
    old = [city.exchange.ring.by_public_key(key.public_key) for key in current.keys]
    fresh = await city.new_key(directory_pb2.KEY_USE_DIRECTORY)
    await city.exchange.publishing.CreateAnchor(
        publishing_pb2.CreateAnchorRequest(
            parent=city.directory,
            terms=publishing_pb2.AnchorTerms(
                keys=[type(current.keys[0])(public_key=fresh.public_key, algorithm=meshes.P256)],
                threshold=1,
                publisher=current.publisher,
            ),
        )
    )
    await company.refresh()
    own = company.exchange.meshes.own
    assert own.anchor.document.version == current.version + 1
    document = DirectoryDocument.FromString(own.signed.document)
    document.version += 1
    content = document.SerializeToString(deterministic=True)
    signed = documents.sign(documents.Kind.DIRECTORY, content, old)
    await check_refused(city, company, monkeypatch, signed, "DIRECTORY_SIGNATURE_INVALID")
    assert (await meshes.publish(city)).version == own.known.version + 1, "the new key alone signs from now on"
    assert (await company.refresh()).version == own.known.version + 1
