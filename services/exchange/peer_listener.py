"""The listener for other nodes: mutual TLS (1.3), the caller known by its certificate alone.

Who shows a certificate that the directory pins to a node, for TLS, is "peer";
who shows another one of an authority that the directory recognises for TLS,
"newcomer". Keys and authorities follow the directory with every handshake.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from solmu.exchange.v1 import directory_pb2, peer_pb2

from services.exchange import keys
from services.exchange.keys import KeyRing
from services.exchange.meshes import Meshes
from services.runtime.chain import Chain, Policy
from services.runtime.config import Address
from services.runtime.errors import PermissionDenied
from services.runtime.identity import Authenticator, Caller, TokenVerifier
from services.runtime.server import GRACE, OPTIONS
from services.runtime.telemetry import Telemetry

logger = logging.getLogger(__name__)

PEER = "peer"
NEWCOMER = "newcomer"


class PeerListener:
    """Serves PeerService, and nothing else, to other nodes."""

    def __init__(
        self, *, listen: Address, servicer: object, ring: KeyRing, meshes: Meshes, telemetry: Telemetry
    ) -> None:
        self._listen = listen
        self._ring = ring
        self._meshes = meshes
        self._nobody = _nobody()
        self._configuration: tuple[object, ...] = ()
        chain = Chain(service="exchange", node="", authenticator=_no_clients(), telemetry=telemetry, admit=self._admit)
        contract = peer_pb2.DESCRIPTOR.services_by_name["PeerService"]
        self._server = grpc.aio.server(options=OPTIONS)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(contract.full_name, chain.handlers(contract, servicer)),)
        )
        initial = self._fresh()
        assert initial is not None
        credentials = grpc.dynamic_ssl_server_credentials(
            initial,
            self._fresh,  # type: ignore[arg-type]  # None means unchanged; the stub does not know
            require_client_authentication=True,
        )
        self.port = self._server.add_secure_port(str(listen), credentials)

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until `stop` is set, then ends the calls under way."""
        await self._server.start()
        logger.info("serving other nodes", extra={"listen": str(self._listen), "port": self.port})
        try:
            await stop.wait()
        finally:
            await self._server.stop(GRACE)

    def _fresh(self) -> grpc.ServerCertificateConfiguration | None:
        """Key and authorities as they are now; None where nothing has changed. Called in handshakes."""
        key, certificate = self._identity()
        authorities = self._meshes.tls_authorities() or [certificate]
        made_of = (certificate, tuple(authorities))
        if made_of == self._configuration:
            return None
        self._configuration = made_of
        roots = b"".join(keys.pem(authority) for authority in authorities)
        return grpc.ssl_server_certificate_configuration([(key, keys.pem(certificate))], root_certificates=roots)

    def _identity(self) -> tuple[bytes, bytes]:
        """Private key (PEM) and certificate (DER) of this node; until it has some, of nobody."""
        if self._meshes.joined:
            owner = self._meshes.node.rpartition("/")[0]
            own = self._ring.active(directory_pb2.KEY_USE_TLS, owner)
            if own is not None:
                return keys.private_pem(own.private), own.certificate
        return self._nobody

    def _admit(self, policy: Policy, connection: Mapping[str, Iterable[bytes]]) -> Caller:
        [pem] = connection.get("x509_pem_cert", [b""])
        node = self._meshes.tls_node(_fingerprint(pem))
        kind = PEER if node else NEWCOMER
        if kind not in policy.callers:
            raise PermissionDenied("PEER_NOT_AUTHORISED", "the certificate is not that of a node in the directory")
        return Caller(service=kind, node=node)


@functools.lru_cache(maxsize=1000)
def _fingerprint(pem: bytes) -> bytes:
    """SHA-256 of a certificate that was shown; of nothing where it cannot be read."""
    try:
        return x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256())
    except ValueError:
        return b""


def _no_clients() -> Authenticator:
    """No token counts on this listener."""

    async def nothing() -> str:
        return '{"keys": []}'

    return Authenticator(verifier=TokenVerifier(issuer="", fetch=nothing), revoked=lambda _: True)


def _nobody() -> tuple[bytes, bytes]:
    """A key that proves nothing, for a node that has none yet: without one nothing could listen."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node without a key")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2100, 1, 1, tzinfo=UTC))
        .sign(private, hashes.SHA256())
    )
    return keys.private_pem(private), certificate.public_bytes(serialization.Encoding.DER)
