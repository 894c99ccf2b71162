"""A verified directory, laid out to be asked: who is a member, who serves what, and which keys count.

Pure. A key for statements or TLS counts only while its certificate was issued
by an authority that the directory recognises for that use.
"""

from __future__ import annotations

import functools
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from google.protobuf.duration_pb2 import Duration
from solmu.exchange.v1 import directory_pb2
from solmu.exchange.v1.directory_document_pb2 import DirectoryDocument, DirectoryPart

from services.exchange import documents, names
from services.exchange.evidence import identifiers
from services.exchange.evidence.signatures import Algorithm, PinnedKey
from services.runtime.errors import Fault, InvalidArgument

Entry = TypeVar("Entry")

REQUEST_LIFETIME = timedelta(minutes=5)
CLOCK_SKEW = timedelta(seconds=10)
"""Where the mesh has not agreed on others (directory.proto, MeshParameters)."""


@dataclass(frozen=True)
class Served:
    """A node that serves a subsystem."""

    node: str
    priority: int
    weight: int


@dataclass(frozen=True)
class Directory:
    """A directory. Identifiers are spelt with "/"."""

    document: DirectoryDocument
    members: dict[str, directory_pb2.Member] = field(default_factory=dict)
    subsystems: dict[str, directory_pb2.Subsystem] = field(default_factory=dict)
    nodes: dict[str, directory_pb2.Node] = field(default_factory=dict)
    groups: dict[str, directory_pb2.GlobalGroup] = field(default_factory=dict)
    serving: dict[str, list[Served]] = field(default_factory=lambda: defaultdict(list))
    """By subsystem: the nodes that serve it."""
    hosted: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """By node: the subsystems that it serves."""
    statement_keys: dict[bytes, PinnedKey] = field(default_factory=dict)
    """By SHA-256 of the certificate: members' keys that count."""
    tls_nodes: dict[bytes, str] = field(default_factory=dict)
    """By SHA-256 of the certificate: nodes whose keys for TLS count."""
    groups_of: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """By subsystem: the global groups that it is in, "FI/group"."""

    @property
    def version(self) -> int:
        """Its version."""
        return self.document.version

    @property
    def line(self) -> str:
        """How statements name it: instance "/" version."""
        return f"{identifiers.encode(self.document.instance)}/{self.document.version}"

    @property
    def expires(self) -> datetime:
        """Until when it holds."""
        return documents.instant(self.document.expire_time)

    @property
    def request_lifetime(self) -> timedelta:
        """For how long a request is accepted after it was signed."""
        return _span(self.document.parameters, "request_lifetime", REQUEST_LIFETIME)

    @property
    def clock_skew(self) -> timedelta:
        """By how much clocks may differ."""
        return _span(self.document.parameters, "clock_skew", CLOCK_SKEW)

    def authorities(self, use: directory_pb2.KeyUse.ValueType) -> tuple[bytes, ...]:
        """Certificates (DER) of the authorities that certify keys for a use."""
        return tuple(
            certificate
            for service in self.document.trust_services
            if service.kind == directory_pb2.TrustService.KIND_CERTIFICATION and use in service.uses
            for certificate in service.certificates
        )

    def keys_of_node(self, node: str, use: directory_pb2.KeyUse.ValueType) -> list[directory_pb2.DirectoryKey]:
        """A node's keys of a use, that count now or will."""
        return [key for key in self.nodes[node].keys if key.use == use]


def build(document: DirectoryDocument, parts: Iterable[DirectoryPart]) -> Directory:
    """Lays out verified parts. Raises InvalidArgument, DIRECTORY_MALFORMED, where they do not make a directory."""
    directory = Directory(document)
    try:
        for part in parts:
            for member in part.members:
                _put(directory.members, _own(names.member(member.id), document), member)
            for subsystem in part.subsystems:
                _put(directory.subsystems, _own(names.subsystem(subsystem.id), document), subsystem)
            for node in part.nodes:
                _put(directory.nodes, _own(names.node(node.id), document), node)
            for group in part.global_groups:
                instance = identifiers.encode(document.instance)
                _put(directory.groups, f"{instance}/{identifiers.encode(group.group_code)}", group)
    except Fault as fault:
        raise InvalidArgument("DIRECTORY_MALFORMED", fault.message) from None
    _pin_members(directory)
    _pin_nodes(directory)
    for name, group in directory.groups.items():
        for identifier in group.subsystems:
            directory.groups_of[names.subsystem(identifier)].add(name)
    return directory


def issued_by(certificate: bytes, authorities: Sequence[bytes]) -> bool:
    """Whether one of the authorities has issued a certificate (DER)."""
    return _issued(certificate, tuple(authorities))


def _pin_members(directory: Directory) -> None:
    authorities = directory.authorities(directory_pb2.KEY_USE_STATEMENTS)
    for identifier, member in directory.members.items():
        for key in member.keys:
            if key.use == directory_pb2.KEY_USE_STATEMENTS and issued_by(key.certificate, authorities):
                period = _seconds(key, "start"), _seconds(key, "end")
                pinned = _pinned(key.certificate, key.algorithm, identifier, *period)
                if pinned is not None:
                    directory.statement_keys[pinned.sha256] = pinned


def _pin_nodes(directory: Directory) -> None:
    authorities = directory.authorities(directory_pb2.KEY_USE_TLS)
    for identifier, node in directory.nodes.items():
        for hosting in node.hostings:
            subsystem = names.subsystem(hosting.subsystem)
            directory.serving[subsystem].append(Served(identifier, hosting.priority, hosting.weight or 1))
            directory.hosted[identifier].add(subsystem)
        for key in node.keys:
            if key.use == directory_pb2.KEY_USE_TLS and issued_by(key.certificate, authorities):
                directory.tls_nodes[hashlib.sha256(key.certificate).digest()] = identifier


@functools.lru_cache(maxsize=20_000)
def _pinned(certificate: bytes, algorithm: int, holder: str, start: float, end: float) -> PinnedKey | None:
    try:
        return PinnedKey(certificate, Algorithm(algorithm), holder, start=_moment(start), end=_moment(end))
    except (Fault, ValueError):
        return None  # a key that cannot be read proves nothing


@functools.lru_cache(maxsize=20_000)
def _issued(certificate: bytes, authorities: tuple[bytes, ...]) -> bool:
    try:
        loaded = x509.load_der_x509_certificate(certificate)
    except ValueError:
        return False
    for authority in authorities:
        try:
            loaded.verify_directly_issued_by(x509.load_der_x509_certificate(authority))
        except (ValueError, TypeError, InvalidSignature):
            continue
        return True
    return False


def _seconds(key: directory_pb2.DirectoryKey, end: str) -> float:
    name = f"{end}_time"
    return documents.instant(getattr(key, name)).timestamp() if key.HasField(name) else 0.0  # type: ignore[arg-type]


def _moment(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def _own(identifier: str, document: DirectoryDocument) -> str:
    if names.instance_of(identifier) != document.instance:
        raise InvalidArgument("DIRECTORY_MALFORMED", "an entry is of another mesh")
    return identifier


def _put(entries: dict[str, Entry], identifier: str, entry: Entry) -> None:
    if identifier in entries:
        raise InvalidArgument("DIRECTORY_MALFORMED", "an entry stands in the directory twice")
    entries[identifier] = entry


def _span(parameters: directory_pb2.MeshParameters, name: str, default: timedelta) -> timedelta:
    value: Duration = getattr(parameters, name)
    return value.ToTimedelta() if parameters.HasField(name) else default  # type: ignore[arg-type]


@functools.lru_cache(maxsize=20_000)
def public_key(certificate: bytes) -> bytes:
    """SubjectPublicKeyInfo (DER) of a certificate (DER); empty where it cannot be read."""
    try:
        found = x509.load_der_x509_certificate(certificate).public_key()
    except (ValueError, UnsupportedAlgorithm):
        return b""
    return found.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
