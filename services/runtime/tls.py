"""Mutual TLS between the processes of a node, with certificates that can change while it runs.

Every process holds one certificate of the node's internal authority. Its URI
name `spiffe://<node>/service/<name>` says who it is (SPIFFE X.509-SVID); its
DNS name `<name>` is what a client expects of the server it calls. Files are
looked at again when they change, so rotation needs no restart.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc

Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Files:
    """A certificate chain, its key, and the authorities to trust, all PEM."""

    certificate: Path
    key: Path
    authorities: Path

    def stamp(self) -> Stamp:
        """Changes whenever one of the files does. Raises OSError while one is away."""
        stats = (path.stat() for path in (self.certificate, self.key, self.authorities))
        return tuple((stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in stats)

    def read(self) -> tuple[bytes, bytes, bytes]:
        """Key, certificate and authorities, in grpc's order."""
        return self.key.read_bytes(), self.certificate.read_bytes(), self.authorities.read_bytes()


def server_credentials(files: Files) -> grpc.ServerCredentials:
    """Credentials of a gRPC server that demands a client certificate, and follows its files."""
    stamp = files.stamp()

    def configuration() -> grpc.ServerCertificateConfiguration:
        key, certificate, authorities = files.read()
        return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=authorities)

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal stamp
        try:
            now = files.stamp()
            if now == stamp:
                return None
            check(files)
            fresh = configuration()
        except (OSError, ValueError):
            return None  # half a rotation: keep what works, look again at the next handshake
        stamp = now
        return fresh

    return grpc.dynamic_ssl_server_credentials(
        configuration(),
        changed,  # type: ignore[arg-type]  # None means unchanged; the stub does not know
        require_client_authentication=True,
    )


def channel_credentials(files: Files) -> grpc.ChannelCredentials:
    """Credentials of a gRPC channel, as the files are now."""
    key, certificate, authorities = files.read()
    return grpc.ssl_channel_credentials(authorities, key, certificate)


def client_context(files: Files) -> ssl.SSLContext:
    """A TLS context for clients other than gRPC (PostgreSQL, NATS, HTTP), as the files are now."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(files.authorities))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(str(files.certificate), str(files.key))
    return context


def server_context(files: Files) -> ssl.SSLContext:
    """A TLS context for servers other than gRPC that demand a client certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(str(files.certificate), str(files.key))
    context.load_verify_locations(cafile=str(files.authorities))
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def refresh(context: ssl.SSLContext, files: Files) -> None:
    """Puts changed files into a context that is in use; new handshakes see them."""
    context.load_cert_chain(str(files.certificate), str(files.key))
    context.load_verify_locations(cafile=str(files.authorities))


def peer_service(auth_context: Mapping[str, Iterable[bytes]], node: str) -> str | None:
    """The service that the peer of a gRPC call proved to be, or None where it proved nothing of the kind."""
    prefix = f"spiffe://{node}/service/".encode()
    names = [name for name in auth_context.get("peer_spiffe_id", ()) if name.startswith(prefix)]
    return names[0].removeprefix(prefix).decode("ascii") if len(names) == 1 else None


def check(files: Files) -> None:
    """Raises OSError or ValueError (ssl.SSLError is both) where key and certificate are not a pair, or not readable."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(str(files.certificate), str(files.key))
