"""Who gets in over mTLS, and what they are told."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.message import Message
from solmu.authorisations.v1 import (
    checks_pb2_grpc,
    clients_pb2,
    clients_pb2_grpc,
    mandate_service_pb2_grpc,
    tokens_pb2,
)
from solmu.authorisations.v1.administration_pb2 import ListProposalsRequest
from solmu.authorisations.v1.administration_pb2_grpc import AdministrationServiceStub
from solmu.authorisations.v1.checks_pb2 import CheckRequest
from solmu.authorisations.v1.clients_pb2 import Client, CreateClientRequest, GetClientRequest
from solmu.authorisations.v1.mandate_service_pb2 import GetMandateRequest
from solmu.authorisations.v1.parties_pb2 import Party
from solmu.authorisations.v1.tokens_pb2_grpc import KeyServiceStub, TokenServiceStub

from deploy.pki import Authority, Identity
from services.authorisations.acting import Acting
from services.authorisations.surface import surface
from services.authorisations.token_servicer import KeyServicer
from services.runtime.chain import Chain
from services.runtime.client import Peer
from services.runtime.config import Address
from services.runtime.database import Database
from services.runtime.errors import Fault
from services.runtime.identity import Authenticator, TokenVerifier
from services.runtime.server import Server, Tasks
from services.runtime.telemetry import Telemetry
from services.runtime.tls import Files
from tests.integration.authorisations.service import Service, assemble
from tests.unit.authorisations.builders import ISSUER

FINGERPRINT = hashlib.sha256(b"the client's certificate").hexdigest()
PARTY = Party(name="persons/" + "a" * 26)
CHECK = CheckRequest(delegate=PARTY, principal=PARTY, theme="themes/building-permits")


class Doors:
    """A served authorisations service, and its peers."""

    def __init__(self, service: Service, authority: Authority, folder: Path, port: int) -> None:
        self.service = service
        self._authority = authority
        self._folder = folder
        self._port = port
        self._peers: dict[str, Peer] = {}

    def peer(self, name: str) -> Peer:
        """The service as `name` reaches it."""
        if name not in self._peers:
            files = identity(self._authority, self._folder, name)
            address = Address("127.0.0.1", self._port)
            self._peers[name] = Peer(name="authorisations", address=address, files=files, telemetry=Telemetry())
        return self._peers[name]

    async def call(self, name: str, stub: Callable[[Any], Any], method: str, request: Message, token: str = "") -> Any:
        """Calls a method as the service `name`, with a client's token where the edge calls. Raises Fault."""
        peer = self.peer(name)
        metadata = [("authorization", f"Bearer {token}"), ("x-forwarded-client-cert", f"Hash={FINGERPRINT}")]
        with peer.faults():
            return await getattr(peer.stub(stub), method)(request, timeout=10, metadata=metadata if token else [])

    async def refusal(self, *call: Any) -> Fault:
        """The refusal of a call."""
        with pytest.raises(Fault) as refused:
            await self.call(*call)
        return refused.value

    async def client(self, *scopes: str) -> tuple[Client, str]:
        """A new client and a token for it."""
        client = await self.service.register(scopes=scopes)
        certificate = tokens_pb2.ClientCertificate(sha256=FINGERPRINT, uri_sans=[client.certificate_uri])
        return client, (await self.service.issue(client, certificate=certificate)).access_token

    async def close(self) -> None:
        """Closes the channels."""
        await asyncio.gather(*(peer.close() for peer in self._peers.values()))


def identity(authority: Authority, folder: Path, name: str) -> Files:
    """A certificate for a service of the node."""
    authority.issue(Identity.service("solmu", name), folder / name)
    certificate, key = folder / name / "certificate.pem", folder / name / "key.pem"
    return Files(certificate=certificate, key=key, authorities=authority.certificate_path)


@pytest_asyncio.fixture
async def doors(authorisations_database: Database, tmp_path: Path) -> AsyncIterator[Doors]:
    """The service, served on a free port."""
    authority = Authority.create(tmp_path / "ca", "Solmu test")
    keys = tmp_path / "keys"
    keys.mkdir()
    service = assemble(authorisations_database, keys, clock=lambda: datetime.now(UTC))
    verifier = TokenVerifier(issuer=ISSUER, fetch=service.keys.key_set)
    authenticator = Authenticator(verifier=verifier, revoked=service.revocations.revoked)
    chain = Chain(service="authorisations", node="solmu", authenticator=authenticator, telemetry=Telemetry())
    files = identity(authority, tmp_path, "authorisations")
    server = Server(chain=chain, files=files, listen=Address("127.0.0.1", 0), ready=authorisations_database.ready)
    acting = Acting(facts=service.facts, latest=lambda: service.revisions.latest, clock=lambda: datetime.now(UTC))
    for contract, servicer in surface(
        clients=service.clients,
        certificates=service.certificates,
        tokens=service.tokens,
        keys=KeyServicer(keys=service.keys),
        mandates=service.mandates,
        themes=service.themes,
        checks=service.checks,
        audit=service.audit,
        watch=service.watch,
        registers=service.registers,
        administration=service.administration,
        log_ins=service.log_ins,
    ):
        server.add(contract, servicer, judge=acting.right)
    stop = asyncio.Event()
    async with AsyncExitStack() as stack, Tasks(stop) as tasks:
        tasks.start(service.stream.look())
        tasks.start(service.facts.run())
        running = asyncio.create_task(server.run(stop))
        doors = Doors(service, authority, tmp_path, server.port)
        stack.push_async_callback(doors.close)
        yield doors
        stop.set()
        await running


async def test_the_gateway_gets_tokens_for_clients(doors: Doors) -> None:
    client = await doors.service.register()
    request = tokens_pb2.IssueTokenRequest(
        grant_type="client_credentials",
        client_id=client.name.removeprefix("clients/"),
        certificate=tokens_pb2.ClientCertificate(sha256=FINGERPRINT, uri_sans=[client.certificate_uri]),
    )
    response = await doors.call("gateway", TokenServiceStub, "IssueToken", request)
    assert response.expires_in == 300
    for other in ("messages", "exchange", "operator"):
        assert (await doors.refusal(other, TokenServiceStub, "IssueToken", request)).reason == "CALLER_NOT_ALLOWED"
    with_token = (await doors.client("messages.send"))[1]
    refusal = await doors.refusal("edge", TokenServiceStub, "IssueToken", request, with_token)
    assert refusal.reason == "CALLER_NOT_ALLOWED"


async def test_a_refusal_of_the_token_endpoint_keeps_its_reason_and_metadata(doors: Doors) -> None:
    certificate = tokens_pb2.ClientCertificate(sha256=FINGERPRINT)
    request = tokens_pb2.IssueTokenRequest(grant_type="password", certificate=certificate)
    refusal = await doors.refusal("gateway", TokenServiceStub, "IssueToken", request)
    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "OAUTH_UNSUPPORTED_GRANT_TYPE")
    assert refusal.metadata == {"grant_type": "password"}


@pytest.mark.parametrize("name", ["gateway", "messages", "exchange"])
async def test_those_who_verify_tokens_get_the_keys(doors: Doors, name: str) -> None:
    assert "keys" in (await doors.call(name, KeyServiceStub, "GetKeySet", tokens_pb2.GetKeySetRequest())).jwks


async def test_clients_are_managed_with_the_scope_and_through_the_edge_only(doors: Doors) -> None:
    client, token = await doors.client("clients.manage")
    get = (clients_pb2_grpc.ClientServiceStub, "GetClient", GetClientRequest(name=client.name))
    assert await doors.call("edge", *get, token) == client
    assert (await doors.refusal("edge", *get)).reason == "TOKEN_MISSING"
    assert (await doors.refusal("gateway", *get)).reason == "CALLER_NOT_ALLOWED"
    _, other = await doors.client("messages.send")
    refusal = await doors.refusal("edge", *get, other)
    assert (refusal.reason, refusal.metadata) == ("SCOPE_MISSING", {"scope": "clients.manage"})


async def test_a_field_that_breaks_its_rule_is_named(doors: Doors) -> None:
    _, token = await doors.client("clients.manage")
    request = CreateClientRequest(client_id="No", client=clients_pb2.Client(display_name="x"))
    refusal = await doors.refusal("edge", clients_pb2_grpc.ClientServiceStub, "CreateClient", request, token)
    assert refusal.reason == "FIELD_INVALID"
    assert {field for field, _ in refusal.violations} == {"client_id", "client"}


async def test_a_revoked_client_is_refused_with_the_token_it_holds(doors: Doors) -> None:
    client, token = await doors.client("clients.manage")
    stub = clients_pb2_grpc.ClientServiceStub
    revoke = clients_pb2.RevokeClientRequest(name=client.name)
    assert (await doors.call("edge", stub, "RevokeClient", revoke, token)).state == Client.STATE_REVOKED
    await doors.service.revocations.load()
    refusal = await doors.refusal("edge", stub, "GetClient", GetClientRequest(name=client.name), token)
    assert refusal.reason == "CLIENT_REVOKED"


async def test_officers_come_with_a_scope_of_their_own(doors: Doors) -> None:
    listing = (AdministrationServiceStub, "ListProposals", ListProposalsRequest())
    _, token = await doors.client("mandates.administer")
    assert (await doors.call("edge", *listing, token)).next_page_token == ""
    _, other = await doors.client("messages.send")
    assert (await doors.refusal("edge", *listing, other)).metadata == {"scope": "mandates.administer"}
    assert (await doors.refusal("messages", *listing)).reason == "CALLER_NOT_ALLOWED"


async def test_services_call_what_the_contract_opens_to_them(doors: Doors) -> None:
    in_no_theme = await doors.refusal("messages", checks_pb2_grpc.CheckServiceStub, "Check", CHECK)
    assert in_no_theme.reason == "THEME_UNSUITABLE"
    get = GetMandateRequest(name="mandates/0190a1b2-0000-7000-8000-000000000000")
    stranger = await doors.refusal("messages", mandate_service_pb2_grpc.MandateServiceStub, "GetMandate", get)
    assert stranger.reason == "CALLER_NOT_ALLOWED"
