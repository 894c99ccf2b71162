"""A trust service on loopback, and members whom it certifies."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from deploy.local import trust
from services.exchange import proofs
from services.exchange.authorities import TimeStampAuthority, TimeStamps
from services.exchange.evidence import signatures, status
from services.exchange.evidence.signatures import Algorithm, PinnedKey
from services.exchange.evidence.statements import Kind, Statement
from services.exchange.evidence.verifying import Anchors
from services.exchange.evidence_store import Certificate
from services.exchange.journal import Content, Entry
from tests.unit.exchange import samples

MEMBER = "FI/MUN/0245437-2"
SUBSYSTEM = f"{MEMBER}/letters"
TRUST_SERVICE = "directories/FI/trustServices/test"


@dataclass(frozen=True)
class Signer:
    """A key with its certificate; of a member, or of a node's log."""

    pinned: PinnedKey
    private: ec.EllipticCurvePrivateKey


@dataclass
class Mesh:
    """The trust service, its HTTP server, and what it has issued."""

    trust: trust.Trust
    runner: web.AppRunner
    session: aiohttp.ClientSession
    signers: dict[bytes, Signer] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        """Where the server answers."""
        host, port = self.runner.addresses[0]
        return f"http://{host}:{port}"

    @property
    def authorities(self) -> list[TimeStampAuthority]:
        """As the directory would name them."""
        return [TimeStampAuthority(TRUST_SERVICE, (f"{self.origin}/time-stamps",), (self.trust.authority.der,))]

    @property
    def anchors(self) -> Anchors:
        """What a verifier is given."""
        signers = [each.pinned.certificate for each in self.signers.values()]
        return Anchors(authorities=[self.trust.authority.der], signers=signers)

    def time_stamps(self, *, test_mode: bool = True) -> TimeStamps:
        """Who asks for time stamps."""
        return TimeStamps(self.session, test_mode=test_mode)

    def signer(self, holder: str = MEMBER) -> Signer:
        """A new key, certified."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, holder)])
        request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
        certificate = self.trust.certify(request).public_bytes(Encoding.DER)
        made = Signer(PinnedKey(certificate, Algorithm.ECDSA_P256_SHA256, holder), key)
        self.signers[made.pinned.sha256] = made
        return made

    def certificate(self, sha256: bytes) -> Certificate | None:
        """As the directory would find it."""
        found = self.signers.get(sha256)
        return Certificate(sha256, found.pinned.certificate, (self.trust.authority.der,)) if found else None

    def status(self, signer: Signer) -> bytes:
        """What the responder says now."""
        asked = status.request(signer.pinned.x509, self.trust.authority.certificate)
        return self.trust.responder.answer(asked, now=datetime.now(UTC))

    def entry(
        self,
        signer: Signer,
        statement: Statement | None = None,
        *,
        policy: str = "default/1",
        content: Content | None = None,
        time_stamp: bytes = b"",
        own: bool = True,
        subsystem: str = SUBSYSTEM,
    ) -> Entry:
        """A statement, signed and with its certificate's status."""
        statement = statement or request()
        now = int(datetime.now(UTC).timestamp())
        signature = signatures.sign(statement, key=signer.private, pinned=signer.pinned, now=now)
        return Entry(
            statement=statement,
            signature=proofs.signature_message(signature),
            own=own,
            subsystem=subsystem,
            policy=policy,
            certificate_status=self.status(signer),
            time_stamp=time_stamp,
            content=content or Content(),
        )


def request(**lines: str) -> Statement:
    """A request that nobody made before."""
    return samples.statement(Kind.REQUEST, **{"id": str(uuid.uuid4()), **lines})


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Mesh]:
    """A mesh's trust service, for as long as the block lasts."""
    authority = trust.Trust(folder)
    runner = await trust.serve(authority, 0)
    async with aiohttp.ClientSession() as session:
        yield Mesh(authority, runner, session)
    await runner.cleanup()
