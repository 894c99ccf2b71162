"""Whom this node trusts for evidence, as its directories say: signers, authorities, responders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from cryptography import x509
from google.protobuf.duration_pb2 import Duration
from solmu.exchange.v1 import directory_pb2

from services.exchange import documents, names
from services.exchange.authorities import TimeStampAuthority
from services.exchange.directory import Directory, issued_by
from services.exchange.evidence import status
from services.exchange.evidence.signatures import Algorithm, PinnedKey
from services.exchange.evidence_store import Certificate
from services.exchange.meshes import Meshes
from services.exchange.statuses import Issuer
from services.runtime.errors import Fault

TIME_STAMP_INTERVAL = timedelta(seconds=60)
"""How long a signature may wait for its batch where the mesh does not say (`MeshParameters`)."""

TrustService = directory_pb2.TrustService


class Trusted:
    """Asks the directories in force."""

    def __init__(self, meshes: Meshes) -> None:
        self._meshes = meshes

    def certificate(self, sha256: bytes) -> Certificate | None:
        """A member's certificate for statements, with the authorities that issued it."""
        pinned = self._meshes.statement_key(sha256)
        if pinned is None:
            return None
        above = [
            authority
            for directory in self._directories()
            for authority in directory.authorities(directory_pb2.KEY_USE_STATEMENTS)
            if issued_by(pinned.certificate, [authority])
        ]
        return Certificate(sha256, pinned.certificate, tuple(dict.fromkeys(above)))

    def log_key(self, node: str, sha256: bytes) -> PinnedKey | None:
        """A node's key for its log, by its certificate."""
        try:
            directory = self._meshes.directory_of(node)
        except Fault:
            return None
        for key in directory.keys_of_node(node, directory_pb2.KEY_USE_LOG) if node in directory.nodes else ():
            if bytes.fromhex(key.certificate_sha256) == sha256:
                return _pinned(key, node)
        return None

    def time_stamp_authorities(self) -> Sequence[TimeStampAuthority]:
        """Those of the own mesh."""
        directory = self._own()
        if directory is None:
            return []
        parent = names.resource("directories", directory.document.instance)
        return [
            TimeStampAuthority(
                f"{parent}/trustServices/{service.service_code}", tuple(service.uris), tuple(service.certificates)
            )
            for service in directory.document.trust_services
            if service.kind == TrustService.KIND_TIME_STAMP
        ]

    def issuer(self, certificate: bytes) -> Issuer | None:
        """Who answers for the status of a certificate."""
        for directory in self._directories():
            for service in directory.document.trust_services:
                if service.kind == TrustService.KIND_STATUS and issued_by(certificate, service.certificates[:1]):
                    return Issuer(
                        x509.load_der_x509_certificate(service.certificates[0]),
                        tuple(service.uris),
                        tuple(service.certificates[1:]),
                    )
        return None

    def status_max_age(self) -> timedelta:
        """How old a certificate's status may be."""
        return self._agreed("status_max_age", status.MAX_AGE)

    def time_stamp_interval(self) -> timedelta:
        """How long a signature may wait for its time stamp in a batch."""
        return self._agreed("time_stamp_interval", TIME_STAMP_INTERVAL)

    def peers(self) -> Sequence[str]:
        """The other nodes that have a key for their log."""
        own = self._meshes.node if self._meshes.joined else ""
        return [
            node
            for directory in self._directories()
            for node in directory.nodes
            if node != own and directory.keys_of_node(node, directory_pb2.KEY_USE_LOG)
        ]

    def _directories(self) -> Iterator[Directory]:
        return (mesh.directory for mesh in self._meshes.all() if mesh.directory is not None)

    def _own(self) -> Directory | None:
        return self._meshes.own.directory if self._meshes.joined else None

    def _agreed(self, name: str, default: timedelta) -> timedelta:
        directory = self._own()
        if directory is None or not directory.document.parameters.HasField(name):  # type: ignore[arg-type]
            return default
        value: Duration = getattr(directory.document.parameters, name)
        return value.ToTimedelta()


def _pinned(key: directory_pb2.DirectoryKey, holder: str) -> PinnedKey | None:
    try:
        return PinnedKey(
            key.certificate,
            Algorithm(key.algorithm),
            holder,
            documents.instant(key.start_time) if key.HasField("start_time") else None,
            documents.instant(key.end_time) if key.HasField("end_time") else None,
        )
    except (Fault, ValueError):
        return None  # a key that cannot be read proves nothing
