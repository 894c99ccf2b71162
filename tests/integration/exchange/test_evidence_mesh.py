"""Evidence in a mesh: authorities by its directory, heads countersigned between nodes, keys changed while it signs."""

import asyncio
import uuid
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from solmu.exchange.v1 import (
    directory_pb2,
    evidence_log_pb2,
    evidence_pb2,
    hosting_pb2,
    keys_pb2,
    policies_pb2,
    publishing_pb2,
)
from solmu.exchange.v1.keys_pb2 import CertificateStatus
from solmu.exchange.v1.policies_pb2 import ExchangePolicy

from services.exchange import evidence_rules, names
from services.exchange.evidence import signatures, verifying
from services.exchange.evidence.verifying import Anchors, Outcome
from services.exchange.evidence_rules import Rules, Stamping
from services.exchange.journal import Content, Entry
from services.exchange.proofs import signature_message, signature_of
from services.runtime import identity
from tests.integration.exchange import mesh as meshes
from tests.integration.exchange.mesh import Node
from tests.integration.exchange.trusting import Mesh
from tests.unit.exchange import samples

TrustService = directory_pb2.TrustService


@pytest.fixture(scope="session")
async def trusted(nodes, mesh: Mesh):
    """The two nodes, with keys for statements by the trust service, and keys for their logs, all in the directory."""
    city, company = nodes
    authority = TrustAuthority(mesh)
    await meshes.trust(city, authority)
    for kind, code, path in (
        (TrustService.KIND_TIME_STAMP, "time-stamps", "time-stamps"),
        (TrustService.KIND_STATUS, "statuses", "status"),
    ):
        service = TrustService(
            service_code=code, kind=kind, certificates=[authority.der], uris=[f"{mesh.origin}/{path}"]
        )
        await city.exchange.publishing.SetTrustService(
            publishing_pb2.SetTrustServiceRequest(parent=city.directory, trust_service=service)
        )
    await meshes.publish(city)
    for node in nodes:
        statements, entry = await node.certified_key(directory_pb2.KEY_USE_STATEMENTS, authority)
        log, log_entry = await node.certified_key(directory_pb2.KEY_USE_LOG, authority)
        await meshes.register(node, city, member=node.member(entry))
        await meshes.register(node, city, node=node.entry(*node.keys, log_entry))
        await node.activate(statements)
        await node.activate(log)
    for node in nodes:
        await node.refresh()
    return city, company, authority


class TrustAuthority(meshes.Authority):
    """The trust service as an authority of the mesh."""

    def __init__(self, mesh: Mesh) -> None:
        self.name, self.der, self._trust = "trust", mesh.trust.authority.der, mesh.trust

    def certify(self, request: bytes) -> bytes:
        return self._trust.certify(x509.load_der_x509_csr(request)).public_bytes(Encoding.DER)


def subsystem(node: Node) -> str:
    return node.subsystems[0]


def signed(node: Node, receiver: Node, **more) -> Entry:
    """A request that a node signs now, as its calls do."""
    statement = samples.statement(
        id=str(uuid.uuid4()),
        sender=f"subsystem {subsystem(node)}",
        receiver=f"service {subsystem(receiver)}/persons",
        directory="FI/1",
    )
    key = node.exchange.ring.active(directory_pb2.KEY_USE_STATEMENTS, node.owner)
    assert key is not None
    made = signatures.sign(statement, key=key.private, pinned=key.pinned, now=int(datetime.now(UTC).timestamp()))
    return Entry(
        statement=statement,
        signature=signature_message(made),
        own=True,
        subsystem=subsystem(node),
        policy="default/1",
        certificate_status=node.exchange.evidence.statuses.staple(key.pinned, Rules()),
        **more,
    )


async def test_what_a_node_signs_is_stamped_and_exported_with_the_status_of_its_certificate(trusted):
    _city, company, authority = trusted
    evidence = company.exchange.evidence
    await evidence.statuses.turn()
    entry = signed(company, company)
    assert entry.certificate_status
    await company.exchange.journal.append(entry)
    await evidence.stamper.stamp()
    identity.set_caller(identity.Caller(service="messages"))
    with pytest.raises(Exception, match="RESOURCE_NOT_FOUND"):
        await container(company, entry)
    await consumer(company, "case-system")
    anchors = Anchors(authorities=[authority.der], signers=[key_of(company).certificate])
    report = verifying.verify(await container(company, entry), anchors=anchors)
    assert report.outcome is Outcome.HOLDS, report.findings


async def consumer(node: Node, client: str) -> None:
    """Has what follows be asked by a client that is a consumer of the node's subsystem."""
    name = f"subsystems/{subsystem(node).replace('/', '~')}"
    await node.exchange.hosting.UpdateHosting(
        hosting_pb2.UpdateHostingRequest(
            hosting=hosting_pb2.Hosting(name=f"{name}/hosting", clients=[f"clients/{client}"])
        )
    )
    identity.set_caller(identity.Caller(service="edge", client_id=client))


async def container(node: Node, entry: Entry) -> bytes:
    request = evidence_pb2.ExportEvidenceRequest(name=f"statements/{entry.statement.sha256.hex()}")
    return b"".join([piece.data async for piece in node.exchange.evidence.evidence.ExportEvidence(request)])


def key_of(node: Node):
    key = node.exchange.ring.active(directory_pb2.KEY_USE_STATEMENTS, node.owner)
    assert key is not None
    return key


async def test_nodes_countersign_each_others_heads_over_their_own_connection(trusted):
    city, company, _ = trusted
    for node in (city, company):
        await node.exchange.journal.append(signed(node, node))
        await node.exchange.evidence.log_keeper.turn()
    await company.exchange.evidence._show_heads()
    await city.exchange.evidence._show_heads()
    for node, other in ((city, company), (company, city)):
        head = await node.exchange.evidence.log.GetTreeHead(
            evidence_log_pb2.GetTreeHeadRequest(name="nodes/-/treeHeads/latest")
        )
        assert [word.node for word in head.countersignatures] == [f"nodes/{other.identifier.replace('/', '~')}"]
        seen = await other.exchange.evidence.log.GetTreeHead(
            evidence_log_pb2.GetTreeHeadRequest(name=f"nodes/{node.identifier.replace('/', '~')}/treeHeads/latest")
        )
        assert (seen.tree_head, seen.signature) == (head.tree_head, head.signature)
    await company.exchange.journal.append(signed(company, city), signed(company, city))
    await company.exchange.evidence.log_keeper.turn()
    await company.exchange.evidence._show_heads()
    latest = await company.exchange.evidence.log.GetTreeHead(
        evidence_log_pb2.GetTreeHeadRequest(name="nodes/-/treeHeads/latest")
    )
    assert len(latest.countersignatures) == 1


async def test_a_synchronous_stamp_comes_from_the_authority_of_the_directory(trusted):
    _city, company, _ = trusted
    rules = Rules(stamping=Stamping.SYNCHRONOUS, authorities=("directories/FI/trustServices/time-stamps",))
    assert await company.exchange.evidence.stamp_policy.token(rules, bytes(64))


async def test_keys_are_changed_while_statements_are_signed(trusted):
    city, company, authority = trusted
    old = key_of(company)
    name, entry = await company.certified_key(directory_pb2.KEY_USE_STATEMENTS, authority)
    old_entry = directory_pb2.DirectoryKey(
        certificate_sha256=old.certificate_sha256.hex(),
        certificate=old.certificate,
        use=directory_pb2.KEY_USE_STATEMENTS,
        algorithm=meshes.P256,
    )
    await meshes.register(company, city, member=company.member(old_entry, entry))
    await city.refresh()
    made = [signed(company, city)]
    change = asyncio.create_task(company.activate(name))
    while not change.done():
        made.append(signed(company, city))
        await asyncio.sleep(0)
    await change
    made.append(signed(company, city))
    signers = {each.signature.certificate_sha256 for each in made}
    assert len(signers) == 2
    for each in made:
        pinned = city.exchange.meshes.statement_key(each.signature.certificate_sha256)
        signatures.verify(each.statement, signature_of(each.signature), pinned)
    await company.exchange.evidence.statuses.turn()
    assert company.exchange.evidence.statuses.staple(key_of(company).pinned, Rules(stop_without_status=True))


async def test_a_revoked_key_is_shown_so_and_signs_no_more(trusted, mesh):
    city, company, authority = trusted
    key = key_of(city)
    statuses = city.exchange.evidence.statuses
    await statuses.refresh(key.certificate)
    mesh.trust.revoke(key.pinned.x509.serial_number, now=datetime.now(UTC))
    await asyncio.sleep(1.1)  # statuses are told apart by the second
    request = keys_pb2.RefreshCertificateStatusRequest(name=f"organisationKeys/{key.key_id}")
    shown = await city.exchange.keys.RefreshCertificateStatus(request)
    assert shown.certificate_status.state == CertificateStatus.STATE_REVOKED
    with pytest.raises(Exception, match="CERTIFICATE_REVOKED"):
        statuses.staple(key.pinned, Rules())
    with pytest.raises(Exception, match="CERTIFICATE_REVOKED"):
        company.exchange.evidence.statuses.accept(key.pinned, shown.certificate_status.response, Rules())
    name, entry = await city.certified_key(directory_pb2.KEY_USE_STATEMENTS, authority)
    await meshes.register(city, city, member=city.member(entry))
    await city.activate(name)
    await company.refresh()
    assert key_of(city) != key
    statuses.staple(key_of(city).pinned, Rules())

    # Another key takes its place, and the city goes on.
    name, entry = await city.certified_key(directory_pb2.KEY_USE_STATEMENTS, authority)
    await meshes.register(city, city, member_key={"member": names.member_id(city.owner), "key": entry})
    await city.activate(name)
    await company.refresh()
    assert statuses.staple(key_of(city).pinned, Rules()) is not None


async def test_what_a_policy_says_of_evidence_goes_for_its_exchanges(trusted):
    _city, company, _ = trusted
    kept = ExchangePolicy.ContentRetention(mode=ExchangePolicy.ContentRetention.MODE_PLAIN)
    asked = policies_pb2.CreateExchangePolicyRequest(
        exchange_policy_id=f"kept-{uuid.uuid4().hex[:8]}",
        exchange_policy=ExchangePolicy(content_retention=kept),
    )
    policy = await company.exchange.policies.CreateExchangePolicy(asked)
    line = f"{policy.name.removeprefix('exchangePolicies/')}/{policy.revision}"
    entry = signed(company, company, content=Content(head=b"GET\r\n/\r\n"))
    await company.exchange.journal.append(Entry(**{**vars(entry), "policy": line}))
    state = await company.database.fetchval(
        "select head_state from evidence join statement using (seq) where sha256 = $1", entry.statement.sha256
    )
    assert state == evidence_rules.Content.CONTENT_STATE_KEPT
