"""Two organisations' nodes in compose on one machine, administered by the command line: one calls the other, an envelope
is answered with a receipt, and the evidence of both proves it to whoever trusts their authority.

Needs what `test_compose.py` needs; `make test-containers` runs it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from solmu.exchange.v1 import directory_pb2, envelopes_pb2, envelopes_pb2_grpc, keys_pb2, publishing_pb2
from solmu.exchange.v1.directory_pb2 import TrustService

from deploy.containers import shares
from deploy.local.trust import Trust
from gateway.client import Client, Profile
from services.exchange import names
from services.exchange.assembly import Exchange
from tests.integration.client.test_command import solmu
from tests.integration.exchange import calls, mesh
from tests.journeys import compose, typed
from tests.journeys.compose import Project
from tests.journeys.pair import ADMINISTRATION, CITY, COMPANY, CONSUMER, PROVIDER
from tests.journeys.typed import typed as solmu_json

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

FILES = (compose.NODE.with_name("compose.pair.yaml"), compose.STAND_INS / "compose.pair.yaml")
ORIGIN = "http://127.0.0.1:8899"
PERSON = b'{"name":"somebody"}'
SYSTEM_SCOPES = ("exchange.call", "exchange.evidence.read", "exchange.read", "exchange.receive", "exchange.send")
PATIENCE = 120.0
SIGNERS = "signers"
"""Folder of the certificates that both sides sign with, as their directory has them."""


class TrustAuthority(mesh.Authority):
    """The trust service as the authority that certifies the keys of both."""

    def __init__(self, folder: Path) -> None:
        self._trust = Trust(folder)
        self.name, self.der = "Trust", self._trust.authority.der

    def certify(self, request: bytes) -> bytes:
        return self._trust.certify(x509.load_der_x509_csr(request)).public_bytes(Encoding.DER)


@dataclass(frozen=True)
class Side:
    """A node with the profiles of its administration and of an information system."""

    project: Project
    member: mesh.Member
    administration: Path
    system: Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stand-ins of both share: the trust service's keys, and what the company's system answers."""
    compose.needed()
    folder = tmp_path_factory.mktemp("pair")
    (folder / "content/base/persons").mkdir(parents=True)
    (folder / "content/base/persons/7").write_bytes(PERSON)
    Trust(folder / "trust")
    for path in (folder / "trust", *(folder / "trust").iterdir()):
        os.chown(path, shares.USER, shares.USER)
    for path in (folder, folder / "content"):
        subprocess.check_call(["chmod", "-R", "go+rX", str(path)])
    return folder


@pytest.fixture(scope="module")
def sides(folder: Path) -> Iterator[tuple[Side, Side]]:
    """The city and the company."""
    network = f"solmu-test-{os.getpid()}-pair"
    subprocess.check_call(["docker", "network", "create", "--internal", network], stdout=subprocess.DEVNULL)
    shared = {
        "SOLMU_PAIR": network,
        "SOLMU_TEST_TRUST": str(folder / "trust"),
        "SOLMU_TEST_CONTENT": str(folder / "content"),
    }
    try:
        with ExitStack() as stack:
            projects = [
                stack.enter_context(compose.started(name, *FILES, SOLMU_NODE=name, **shared))
                for name in ("city", "company")
            ]
            authority = TrustAuthority(folder / "trust")
            city, company = (
                asyncio.run(side(project, identifier, folder / project.environment["SOLMU_NODE"], authority))
                for project, identifier in zip(projects, (CITY, COMPANY), strict=True)
            )
            yield city, company
    finally:
        subprocess.check_call(["docker", "network", "rm", network], stdout=subprocess.DEVNULL)


async def side(project: Project, identifier: str, folder: Path, authority: mesh.Authority) -> Side:
    """A node with its clients: certificates from the job, registered by the operator."""
    operator = client(project, "operator", folder)
    scopes = {"administration": ADMINISTRATION.scopes, "system": SYSTEM_SCOPES}
    for client_id, given in scopes.items():
        register = ("clients", "register", client_id, "--name", client_id, "--owner", "9999999-2")
        await solmu_json(operator, *register, *(each for scope in given for each in ("--scope", scope)))
    administration, system = (client(project, client_id, folder, *given) for client_id, given in scopes.items())
    node = mesh.Member(
        identifier,
        5500,
        cast("Exchange", typed.Exchange(administration)),
        authority,
        host=f"exchange.{project.environment['SOLMU_NODE']}",
    )
    return Side(project, node, administration, system)


def client(project: Project, client_id: str, folder: Path, *scopes: str) -> Path:
    """The profile of a client, issued by the job and fetched."""
    job = ("python", "-m", "deploy.containers", "client", client_id)
    options = [option for scope in scopes for option in ("--scope", scope)]
    told = project.compose("exec", "-T", "renewal", *job, *options).strip()
    folder.mkdir(exist_ok=True)
    project.compose("cp", f"renewal:{told}", str(folder))
    return folder / client_id


async def joined(city: Side, company: Side, folder: Path) -> None:
    """The city founds a mesh, whose authority stamps and vouches; the company joins it by its anchor."""
    description = await mesh.found(city.member)
    authority = city.member.authority
    for kind, code, path in (
        (TrustService.KIND_TIME_STAMP, "time-stamps", "time-stamps"),
        (TrustService.KIND_STATUS, "statuses", "status"),
    ):
        service = TrustService(service_code=code, kind=kind, certificates=[authority.der], uris=[f"{ORIGIN}/{path}"])
        await city.member.exchange.publishing.SetTrustService(
            publishing_pb2.SetTrustServiceRequest(parent=city.member.directory, trust_service=service)
        )
    await mesh.publish(city.member)
    newcomer = company.member
    statements, statements_entry = await newcomer.certified_key(directory_pb2.KEY_USE_STATEMENTS)
    tls, tls_entry = await newcomer.certified_key(directory_pb2.KEY_USE_TLS)
    newcomer.keys = [tls_entry]
    await newcomer.activate(tls)
    anchor = folder / "anchor"
    await solmu_json(city.administration, "directory", "anchor", "FI", anchor)
    join = ("directory", "join", anchor, "--node", COMPANY, "--fingerprint", description.fingerprint)
    await solmu_json(company.administration, *join)
    await mesh.register(newcomer, city.member, member=newcomer.member(statements_entry))
    await mesh.register(newcomer, city.member, node=newcomer.entry())
    await newcomer.activate(statements)
    await mesh.serve(city.member, city.member, CONSUMER)
    await mesh.serve(company.member, city.member, PROVIDER)
    await city.member.refresh()
    for one, subsystem in ((city, CONSUMER), (company, PROVIDER)):
        keys = await one.member.exchange.keys.ListOrganisationKeys(keys_pb2.ListOrganisationKeysRequest())
        for key in keys.organisation_keys:
            if key.use == directory_pb2.KEY_USE_STATEMENTS:
                await one.member.exchange.keys.RefreshCertificateStatus(
                    keys_pb2.RefreshCertificateStatusRequest(name=key.name)
                )
                (folder / SIGNERS).mkdir(exist_ok=True)
                (folder / SIGNERS / f"{key.certificate_sha256}.der").write_bytes(key.certificate)
        await calls.host(one.member, subsystem, clients=["clients/system"])


async def test_two_nodes_in_compose_exchange_and_both_hold_the_proof(sides: tuple[Side, Side], folder: Path) -> None:
    city, company = sides
    await joined(city, company, folder)

    service = await calls.service(company.member, "http://system:8080/base", subsystem=PROVIDER, code="persons")
    await calls.allow(company.member, service, ("GET", "/persons/**"), consumer=CONSUMER)
    answered = await solmu("--profile", city.system, "exchange", "call", service, "GET", "/persons/7")
    assert (answered.status, answered.out.encode()) == (0, PERSON), answered.error
    refused = await solmu("--profile", city.system, "exchange", "call", service, "DELETE", "/persons/7")
    assert refused.status == 1

    inbox = f"/v1/{names.resource('subsystems', PROVIDER)}/inbox/accessRights"
    right = {"subsystem": names.resource("subsystems", CONSUMER)}
    await solmu_json(company.administration, "call", "POST", inbox, json.dumps(right))
    sent = await send(city)
    delivery = await received(company)
    assert (base64.b64decode(delivery["body"]), delivery["sender"]) == (b"granted", right["subsystem"])
    acknowledgement = {"acknowledgements": [{"name": delivery["name"], "leaseId": delivery["leaseId"]}]}
    acknowledge = "/v1/subsystems/-/deliveries:acknowledge"
    await solmu_json(company.system, "call", "POST", acknowledge, json.dumps(acknowledgement))
    receipt = await receipted(city, sent.name)
    assert receipt["recipient"]["state"] == "DELIVERY_STATE_ACKNOWLEDGED"

    for one in sides:
        await proven(one, folder)


async def send(city: Side) -> envelopes_pb2.Envelope:
    """An envelope from the city to the company."""
    envelope = envelopes_pb2.Envelope(
        subsystem=names.resource("subsystems", PROVIDER),
        message_id="permit-7",
        type="fi.city.permit.granted",
        media_type="text/plain",
    )
    request = envelopes_pb2.SendEnvelopeRequest(parent="subsystems/-", envelope=envelope, body=b"granted")
    async with Client(Profile.load(city.system)) as system:
        return await system.call(system.stub(envelopes_pb2_grpc.EnvelopeServiceStub).SendEnvelope, request)


async def received(company: Side) -> Any:
    """The delivery, once it has come."""
    async with asyncio.timeout(PATIENCE):
        while True:
            asked = json.dumps({"wait": "5s"})
            answer = await solmu_json(company.system, "call", "POST", "/v1/subsystems/-/deliveries:receive", asked)
            if answer.get("deliveries"):
                return answer["deliveries"][0]


async def receipted(city: Side, envelope: str) -> Any:
    """The receipt that the envelope was acknowledged, once it is back."""
    async with asyncio.timeout(PATIENCE):
        while True:
            answer = await solmu_json(city.system, "call", "GET", "/v1/subsystems/-/receipts")
            for receipt in answer.get("receipts", ()):
                if receipt["envelope"] == envelope and receipt["recipient"]["state"].endswith("ACKNOWLEDGED"):
                    return receipt
            await asyncio.sleep(0.5)


async def proven(one: Side, folder: Path) -> None:
    """What a node holds is stamped, is exported, and holds before whoever trusts the authority and knows both keys."""
    authority = folder / "authority.der"
    authority.write_bytes(one.member.authority.der)
    async with asyncio.timeout(PATIENCE):
        while True:
            listed = await solmu("--profile", one.system, "--json", "evidence", "list")
            statements = [json.loads(line) for line in listed.out.splitlines()]
            if statements and all(each["timeStampState"] != "TIME_STAMP_STATE_PENDING" for each in statements):
                break
            await asyncio.sleep(0.5)
    kinds = {each["kind"] for each in statements}
    assert {"KIND_REQUEST", "KIND_RESPONSE", "KIND_ENVELOPE", "KIND_RECEIPT"} <= kinds, kinds
    kept = folder / f"{one.project.environment['SOLMU_NODE']}-evidence"
    for statement in statements:
        got = await solmu("--profile", one.system, "evidence", "get", statement["name"], "--to", kept)
        assert got.status == 0, got.error
    containers = list(kept.glob("*.asice"))
    assert len(containers) == len(statements)
    verified = await solmu("evidence", "verify", *containers, "--trust", authority, "--signer", folder / SIGNERS)
    assert verified.status == 0, verified.out + verified.error
