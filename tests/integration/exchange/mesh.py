"""Nodes of a mesh in this process: each with its own engines, authority, keys and listener for the others."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.protobuf.internal import decoder
from solmu.authorisations.v1 import checks_pb2
from solmu.exchange.v1 import directory_pb2, keys_pb2, mesh_pb2, publishing_pb2, statements_pb2
from solmu.exchange.v1.directory_document_pb2 import AnchorDocument

import services.exchange
from services.exchange import names
from services.exchange.assembly import Exchange
from services.exchange.mandates import Checks
from services.runtime.config import Address
from services.runtime.database import Database
from services.runtime.errors import Unavailable
from services.runtime.sealing import FIRST, Vault
from services.runtime.server import Tasks
from services.runtime.telemetry import Telemetry
from tests import engines
from tests.engines import Engines

P256 = statements_pb2.SIGNATURE_ALGORITHM_ECDSA_P256_SHA256
_numbers = itertools.count(1)


class Authority:
    """A certificate authority."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = (
            self._builder(subject, self.key.public_key(), subject)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.der = self.certificate.public_bytes(serialization.Encoding.DER)

    def certify(self, request: bytes) -> bytes:
        """The certificate (DER) for a request (PKCS #10, DER)."""
        loaded = x509.load_der_x509_csr(request)
        builder = self._builder(loaded.subject, loaded.public_key(), self.certificate.subject)
        for extension in loaded.extensions:
            builder = builder.add_extension(extension.value, extension.critical)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    @staticmethod
    def _builder(subject: x509.Name, key, issuer: x509.Name) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=30))
        )


@dataclass
class Member:
    """A node of a mesh, as whoever runs it sees it."""

    identifier: str
    port: int
    """Where other nodes reach it."""
    exchange: Exchange
    authority: Authority
    subsystems: list[str] = field(default_factory=list)
    keys: list[directory_pb2.DirectoryKey] = field(default_factory=list)
    host: str = "localhost"

    @property
    def owner(self) -> str:
        return names.member_of(self.identifier)

    @property
    def address(self) -> directory_pb2.Node.Address:
        return directory_pb2.Node.Address(host=self.host, port=self.port)

    async def new_key(self, use: directory_pb2.KeyUse.ValueType) -> keys_pb2.OrganisationKey:
        return await self.exchange.keys.CreateOrganisationKey(
            keys_pb2.CreateOrganisationKeyRequest(
                organisation_key=keys_pb2.OrganisationKey(
                    use=use, holder=names.resource("members", self.owner), algorithm=P256
                )
            )
        )

    async def certified_key(
        self, use: directory_pb2.KeyUse.ValueType, authority: Authority | None = None
    ) -> tuple[str, directory_pb2.DirectoryKey]:
        """A new key with a certificate: its name, and how it stands in the directory."""
        key = await self.new_key(use)
        request = await self.exchange.keys.CreateCertificateRequest(
            keys_pb2.CreateCertificateRequestRequest(
                name=key.name, subject=f"CN=key {next(_numbers)}", dns_names=[self.host]
            )
        )
        key = await self.exchange.keys.ImportCertificate(
            keys_pb2.ImportCertificateRequest(
                name=key.name, certificate=(authority or self.authority).certify(request.certificate_request)
            )
        )
        entry = directory_pb2.DirectoryKey(
            certificate_sha256=key.certificate_sha256, certificate=key.certificate, use=use, algorithm=P256
        )
        return key.name, entry

    async def activate(self, name: str) -> None:
        await self.exchange.keys.ActivateOrganisationKey(keys_pb2.ActivateOrganisationKeyRequest(name=name))

    def member(self, *keys: directory_pb2.DirectoryKey) -> directory_pb2.Member:
        return directory_pb2.Member(id=names.member_id(self.owner), display_name="Test", keys=keys)

    def entry(self, *keys: directory_pb2.DirectoryKey) -> directory_pb2.Node:
        """The node's entry in the directory, as it is to be."""
        return directory_pb2.Node(
            id=names.node_id(self.identifier),
            addresses=[self.address],
            keys=keys or self.keys,
            hostings=[
                directory_pb2.Node.Hosting(subsystem=names.subsystem_id(subsystem)) for subsystem in self.subsystems
            ],
            protocols=["1"],
        )

    async def refresh(self) -> directory_pb2.Directory:
        request = mesh_pb2.RefreshDirectoryRequest(name=self.directory)
        return await self.exchange.mesh.RefreshDirectory(request)

    @property
    def directory(self) -> str:
        return f"directories/{self.identifier.split('/')[0]}"


@dataclass(kw_only=True)
class Node(Member):
    """A node in this process."""

    engines: Engines
    database: Database

    @property
    def checks(self) -> Checks:
        """The authorisations service, which tests put in its place and take away."""
        return self.exchange.book.checks

    @checks.setter
    def checks(self, checks: Checks) -> None:
        self.exchange.book.checks = checks


class Away:
    """An authorisations service that does not run."""

    async def check(self, _: checks_pb2.CheckRequest) -> checks_pb2.CheckResponse:
        raise Unavailable("UNAVAILABLE", "the service does not run")


@asynccontextmanager
async def node(identifier: str, folder: Path, *, given: Engines | None = None) -> AsyncIterator[Node]:
    """A node that is in no mesh yet."""
    stop = asyncio.Event()
    async with _engines(folder, given) as started:
        database = await Database.connect(
            started.database("exchange"), files=started.identity("exchange"), size=12, telemetry=Telemetry()
        )
        await database.migrate(Path(services.exchange.__file__).parent / "migrations")
        exchange = Exchange(
            database=database,
            outbox=None,
            vault=Vault({FIRST: secrets.token_bytes(32)}, current=FIRST),
            telemetry=Telemetry(),
            peer_listen=Address("127.0.0.1", 0),
            checks=Away(),
            test_mode=True,
        )
        await exchange.load()
        async with Tasks(stop) as tasks:
            exchange.run(tasks.start, stop)
            try:
                assert exchange.listener is not None
                yield Node(
                    identifier=identifier,
                    port=exchange.listener.port,
                    exchange=exchange,
                    authority=Authority(f"Authority of {identifier}"),
                    engines=started,
                    database=database,
                )
            finally:
                stop.set()
                await asyncio.sleep(0)
                await exchange.close()
        await database.close()


@asynccontextmanager
async def _engines(folder: Path, given: Engines | None) -> AsyncIterator[Engines]:
    if given is not None:
        yield given
        return
    async with engines.running(folder) as started:
        yield started


async def found(publisher: Member, *, lifetime: timedelta = timedelta(days=7)) -> mesh_pb2.AnchorDescription:
    """Founds a mesh, with the node as its publisher and its owner as the only member."""
    signing = await publisher.new_key(directory_pb2.KEY_USE_DIRECTORY)
    statements, statements_entry = await publisher.certified_key(directory_pb2.KEY_USE_STATEMENTS)
    tls, tls_entry = await publisher.certified_key(directory_pb2.KEY_USE_TLS)
    publisher.keys = [tls_entry]
    await publisher.activate(tls)
    request = publishing_pb2.FoundMeshRequest(
        instance=publisher.identifier.split("/")[0],
        terms=publishing_pb2.AnchorTerms(
            keys=[AnchorDocument.PublisherKey(public_key=signing.public_key, algorithm=P256)],
            threshold=1,
            publisher=AnchorDocument.Publisher(addresses=[publisher.address], authorities=[publisher.authority.der]),
        ),
        owner=publisher.member(statements_entry),
        node=publisher.entry(tls_entry),
    )
    request.directory_lifetime.FromTimedelta(lifetime)
    description = await publisher.exchange.publishing.FoundMesh(request)
    await trust(publisher, publisher.authority)
    await publish(publisher)
    await publisher.activate(statements)
    return description


async def trust(publisher: Member, authority: Authority) -> None:
    """Has the mesh recognise an authority from the next directory on."""
    code = authority.name.lower().translate({ord(each): "-" for each in " /"})
    await publisher.exchange.publishing.SetTrustService(
        publishing_pb2.SetTrustServiceRequest(
            parent=publisher.directory,
            trust_service=directory_pb2.TrustService(
                service_code=code[:60],
                kind=directory_pb2.TrustService.KIND_CERTIFICATION,
                certificates=[authority.der],
                uses=[directory_pb2.KEY_USE_STATEMENTS, directory_pb2.KEY_USE_TLS, directory_pb2.KEY_USE_LOG],
            ),
        )
    )


async def publish(publisher: Member) -> directory_pb2.Directory:
    request = publishing_pb2.PublishDirectoryRequest(name=publisher.directory)
    return await publisher.exchange.publishing.PublishDirectory(request)


async def signed_anchor(publisher: Member) -> bytes:
    """The mesh's first anchor, as it goes from hand to hand: the first entry of an export."""
    request = mesh_pb2.ExportDirectoryRequest(name=publisher.directory)
    content = b"".join([part.data async for part in publisher.exchange.mesh.ExportDirectory(request)])
    length, begin = decoder._DecodeVarint(content, 0)  # type: ignore[attr-defined]
    entry = mesh_pb2.DirectoryExportEntry.FromString(content[begin : begin + length])
    return entry.anchor.SerializeToString()


async def register(applicant: Member, publisher: Member, **subject) -> mesh_pb2.Registration:
    """Has something entered in the directory: asked for, approved, published and taken."""
    registration = await applicant.exchange.mesh.CreateRegistration(
        mesh_pb2.CreateRegistrationRequest(registration=mesh_pb2.Registration(**subject))
    )
    seen = await publisher.exchange.mesh.GetRegistration(mesh_pb2.GetRegistrationRequest(name=registration.name))
    await publisher.exchange.publishing.ApproveRegistration(
        publishing_pb2.ApproveRegistrationRequest(name=registration.name, etag=seen.etag)
    )
    await publish(publisher)
    await applicant.refresh()
    return await applicant.exchange.mesh.GetRegistration(mesh_pb2.GetRegistrationRequest(name=registration.name))


async def serve(server: Member, publisher: Member, subsystem: str) -> None:
    """Has a node serve a subsystem of its owner."""
    await register(server, publisher, subsystem=directory_pb2.Subsystem(id=names.subsystem_id(subsystem)))
    server.subsystems.append(subsystem)
    await register(server, publisher, node=server.entry())


async def join(newcomer: Member, publisher: Member, fingerprint: str) -> None:
    """Has a node join, with its owner as a new member, by an anchor whose fingerprint came by another way."""
    await trust(publisher, newcomer.authority)
    await publish(publisher)
    statements, statements_entry = await newcomer.certified_key(directory_pb2.KEY_USE_STATEMENTS)
    tls, tls_entry = await newcomer.certified_key(directory_pb2.KEY_USE_TLS)
    newcomer.keys = [tls_entry]
    await newcomer.activate(tls)
    await newcomer.exchange.mesh.JoinMesh(
        mesh_pb2.JoinMeshRequest(
            anchor=await signed_anchor(publisher),
            fingerprint=fingerprint,
            node=names.node_id(newcomer.identifier),
        )
    )
    await register(newcomer, publisher, member=newcomer.member(statements_entry))
    await register(newcomer, publisher, node=newcomer.entry())
    await newcomer.activate(statements)
