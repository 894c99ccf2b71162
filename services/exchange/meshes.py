"""The meshes that this node takes part in, as it has verified their directories.

All processes of the service hold them in memory and follow the database. A
directory comes from the publisher, from any peer or from a file; `take` verifies
it the same way whoever brought it, and only then is it in force.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from solmu.exchange.v1 import directory_pb2, events_pb2
from solmu.exchange.v1.directory_document_pb2 import DirectoryDocument, SignedDocument

from services.exchange import directory as layout
from services.exchange import directory_store, documents, names
from services.exchange.directory import Directory
from services.exchange.documents import Anchor, Known
from services.exchange.evidence import identifiers
from services.exchange.evidence.signatures import PinnedKey
from services.runtime.database import PASSING, Database
from services.runtime.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound
from services.runtime.outbox import Outbox, event

logger = logging.getLogger(__name__)

FOLLOW_INTERVAL = 1.0
"""Seconds between two looks at what other processes have taken."""

FetchParts = Callable[[Sequence[bytes]], Awaitable[list[bytes]]]
"""Fetches parts by their digests, from whoever brought the directory; in any order."""


@dataclass(frozen=True)
class Mesh:
    """A mesh as this node holds it."""

    instance: str
    own: bool
    node: str
    """This node's identifier; of the own mesh only."""
    anchor: Anchor
    signed: SignedDocument | None
    directory: Directory | None
    """None: awaited."""
    refresh_time: datetime | None
    refresh_failure: str

    @property
    def known(self) -> Known | None:
        """The last directory that was taken."""
        if self.directory is None or self.signed is None:
            return None
        return Known(self.directory.version, hashlib.sha256(self.signed.document).digest())


class Meshes:
    """The meshes of a process. `changed` is called whenever one was put into force."""

    def __init__(self, *, database: Database, outbox: Outbox | None) -> None:
        self._database = database
        self._outbox = outbox
        self._meshes: dict[str, Mesh] = {}
        self._stamp: tuple[tuple[str, datetime], ...] = ()
        self._loading = asyncio.Lock()
        self.changed: list[Callable[[], None]] = []

    # What they hold

    @property
    def own(self) -> Mesh:
        """The node's own mesh. Raises FailedPrecondition, DIRECTORY_AWAITED, where it has joined none."""
        for mesh in self._meshes.values():
            if mesh.own:
                return mesh
        raise FailedPrecondition("DIRECTORY_AWAITED", "the node has joined no mesh")

    @property
    def joined(self) -> bool:
        """Whether the node has a mesh of its own."""
        return any(mesh.own for mesh in self._meshes.values())

    @property
    def node(self) -> str:
        """This node's identifier."""
        return self.own.node

    def all(self) -> list[Mesh]:
        """All of them, the own one first."""
        return sorted(self._meshes.values(), key=lambda mesh: (not mesh.own, mesh.instance))

    def mesh(self, instance: str) -> Mesh:
        """A mesh by its instance. Raises NotFound, MEMBER_UNKNOWN."""
        try:
            return self._meshes[instance]
        except KeyError:
            raise NotFound("MEMBER_UNKNOWN", "the node knows no such mesh", subject=instance) from None

    def directory(self, instance: str) -> Directory:
        """The directory of a mesh. Raises NotFound, and FailedPrecondition, DIRECTORY_AWAITED."""
        directory = self.mesh(instance).directory
        if directory is None:
            raise FailedPrecondition("DIRECTORY_AWAITED", "the node has no directory of the mesh yet")
        return directory

    def directory_of(self, identifier: str) -> Directory:
        """The directory in which something with this identifier would be."""
        return self.directory(names.instance_of(identifier))

    def subsystem(self, identifier: str) -> directory_pb2.Subsystem:
        """A subsystem. Raises NotFound, MEMBER_UNKNOWN."""
        found = self.directory_of(identifier).subsystems.get(identifier)
        if found is None:
            raise NotFound("MEMBER_UNKNOWN", "the directory has no such subsystem", subject=identifier)
        return found

    def hosts(self, subsystem: str) -> bool:
        """Whether this node serves a subsystem."""
        own = next((mesh for mesh in self._meshes.values() if mesh.own), None)
        return own is not None and own.directory is not None and subsystem in own.directory.hosted.get(own.node, ())

    def serves(self, node: str, subsystem: str) -> bool:
        """Whether a node serves a subsystem."""
        mesh = self._meshes.get(names.instance_of(node))
        return mesh is not None and mesh.directory is not None and subsystem in mesh.directory.hosted.get(node, ())

    def groups(self, subsystem: str) -> set[str]:
        """The global groups of all meshes that a subsystem is in: a group may have subsystems of other meshes."""
        return {
            group
            for mesh in self._meshes.values()
            if mesh.directory is not None
            for group in mesh.directory.groups_of.get(subsystem, ())
        }

    def statement_key(self, certificate_sha256: bytes) -> PinnedKey | None:
        """The key for statements of a certificate."""
        for directory in self._directories():
            if (key := directory.statement_keys.get(certificate_sha256)) is not None:
                return key
        return None

    def tls_node(self, certificate_sha256: bytes) -> str:
        """The node that proves itself with a certificate; empty for none."""
        for directory in self._directories():
            if (node := directory.tls_nodes.get(certificate_sha256)) is not None:
                return node
        return ""

    def tls_authorities(self) -> list[bytes]:
        """Certificates (DER) of all authorities that certify nodes."""
        return [
            certificate
            for directory in self._directories()
            for certificate in directory.authorities(directory_pb2.KEY_USE_TLS)
        ]

    def has_key(self, certificate: bytes, use: int) -> bool:
        """Whether the own directory has a key, for this use."""
        own = next((mesh for mesh in self._meshes.values() if mesh.own), None)
        if own is None or own.directory is None or not certificate:
            return False
        entries = [one.keys for one in own.directory.members.values()]
        entries += [one.keys for one in own.directory.nodes.values()]
        return any(key.certificate == certificate and key.use == use for keys in entries for key in keys)

    def _directories(self) -> list[Directory]:
        return [mesh.directory for mesh in self._meshes.values() if mesh.directory is not None]

    # How they come

    async def load(self) -> None:
        """Takes the meshes as they are in the database now.

        One load goes after the other, so that none brings back what the next has replaced.
        """
        async with self._loading:
            rows = await directory_store.meshes(self._database)
            stamp = tuple((row["instance"], row["change_time"]) for row in rows)
            if stamp == self._stamp:
                return
            meshes = {}
            for row in rows:
                signed = SignedDocument.FromString(row["directory"]) if row["directory"] is not None else None
                anchors = await directory_store.anchors(self._database, row["instance"], after=0, limit=None)
                meshes[row["instance"]] = Mesh(
                    row["instance"],
                    row["own"],
                    row["node"],
                    documents.read_anchor(SignedDocument.FromString(anchors[-1])),
                    signed,
                    await self._laid_out(row["instance"], signed) if signed is not None else None,
                    row["refresh_time"],
                    row["refresh_failure"],
                )
            self._meshes, self._stamp = meshes, stamp
            for callback in self.changed:
                callback()

    async def follow(self) -> None:
        """Loads what other processes take, for as long as the process runs."""
        while True:
            await asyncio.sleep(FOLLOW_INTERVAL)
            try:
                await self.load()
            except PASSING as error:
                logger.warning("directories not read", extra={"error": type(error).__qualname__})

    async def join(self, signed: SignedDocument, *, node: str, now: datetime) -> Mesh:
        """Takes the first anchor of the node's own mesh, compared by its fingerprint already.

        Raises FailedPrecondition, MESH_JOINED, and what `verify_first_anchor` raises.
        """
        anchor = documents.verify_first_anchor(signed, now=now)
        if names.instance_of(node) != anchor.document.instance:
            raise InvalidArgument("DIRECTORY_MALFORMED", "the node's identifier is of another mesh")
        if not await self._enter(anchor, own=True, node=node):
            raise FailedPrecondition("MESH_JOINED", "a mesh was joined already")
        await self.load()
        return self.own

    async def leave(self, instance: str) -> None:
        """Leaves the node's own mesh, and with it those that came with it."""
        for mesh in self.all():
            if mesh.instance == instance or not mesh.own:
                await directory_store.delete_mesh(self._database, mesh.instance)
        await self.load()

    async def take(
        self,
        instance: str,
        *,
        anchors: Sequence[SignedDocument],
        signed: SignedDocument | None,
        fetch_parts: FetchParts,
        now: datetime,
    ) -> bool:
        """Verifies anchors and a directory, and puts them into force; False where there was nothing new.

        Raises as `documents` does; what was in force stays so then.
        """
        mesh = self.mesh(instance)
        anchor = documents.verify_next_anchors(mesh.anchor, anchors, now=now) if anchors else mesh.anchor
        parts: list[tuple[bytes, bytes]] = []
        document = None
        if signed is not None:
            document = documents.verify_directory(signed, anchor, known=mesh.known, now=now)
            parts = await self._parts(document, fetch_parts)
            references = zip(parts, document.parts, strict=True)
            found = layout.build(
                document, [documents.verify_part(part[1], reference) for part, reference in references]
            )
            self._check_federations(found)
        async with self._database.transaction() as transaction:
            for one in anchors:
                version = documents.read_anchor(one).document.version
                await directory_store.insert_anchor(
                    transaction, instance=instance, version=version, signed=one.SerializeToString()
                )
            if signed is not None and document is not None:
                await directory_store.insert_parts(transaction, parts)
                taken = await directory_store.set_directory(
                    transaction,
                    instance=instance,
                    version=document.version,
                    signed=signed.SerializeToString(),
                    now=now,
                )
                newer = mesh.known is None or document.version > mesh.known.version
                if taken and newer and self._outbox is not None:
                    await self._outbox.append(transaction, [event(_changed(document))])
        if document is not None and mesh.own:
            await self._federate(document, now=now)
        await self.load()
        if self._outbox is not None:
            self._outbox.wake()
        return bool(anchors) or document is not None

    async def _parts(self, document: DirectoryDocument, fetch_parts: FetchParts) -> list[tuple[bytes, bytes]]:
        digests = [reference.sha256 for reference in document.parts]
        held = await directory_store.held_parts(self._database, digests)
        missing = [digest for digest in digests if digest not in held]
        if missing:
            held |= {hashlib.sha256(content).digest(): content for content in await fetch_parts(missing)}
        try:
            return [(digest, held[digest]) for digest in digests]
        except KeyError:
            raise DataLoss("DIRECTORY_PART_MISMATCH", "a part of the directory did not come") from None

    async def _laid_out(self, instance: str, signed: SignedDocument) -> Directory:
        before = self._meshes.get(instance)
        if before is not None and before.directory is not None and before.signed == signed:
            return before.directory
        document = DirectoryDocument.FromString(signed.document)
        held = await directory_store.held_parts(self._database, [reference.sha256 for reference in document.parts])
        return layout.build(
            document, [documents.verify_part(held[reference.sha256], reference) for reference in document.parts]
        )

    def _check_federations(self, directory: Directory) -> None:
        for anchor in directory.document.federated_anchors:
            documents.read_anchor(SignedDocument.FromString(anchor))

    async def _federate(self, document: DirectoryDocument, *, now: datetime) -> None:
        """Enters the meshes with which the own one is federated, and leaves those with which it no longer is."""
        wanted = {}
        for serialised in document.federated_anchors:
            anchor = documents.verify_first_anchor(SignedDocument.FromString(serialised), now=now)
            wanted[anchor.document.instance] = anchor
        for mesh in self.all():
            if not mesh.own and mesh.instance not in wanted:
                await directory_store.delete_mesh(self._database, mesh.instance)
        for instance, anchor in wanted.items():
            if instance not in self._meshes:
                await self._enter(anchor, own=False, node="")

    async def _enter(self, anchor: Anchor, *, own: bool, node: str) -> bool:
        async with self._database.transaction() as transaction:
            return await directory_store.insert_mesh(
                transaction,
                instance=anchor.document.instance,
                own=own,
                node=node,
                anchor=anchor.signed.SerializeToString(),
                version=anchor.document.version,
            )


def view(mesh: Mesh, *, now: datetime) -> directory_pb2.Directory:
    """A mesh's directory as the contract shows it."""
    State = directory_pb2.Directory.State  # noqa: N806  # the contract's enum
    shown = directory_pb2.Directory(
        name=f"directories/{identifiers.encode(mesh.instance)}",
        instance=mesh.instance,
        own=mesh.own,
        state=State.STATE_AWAITED,
        anchor_version=mesh.anchor.document.version,
        refresh_failure=mesh.refresh_failure,
    )
    if mesh.refresh_time is not None:
        shown.refresh_time.FromDatetime(mesh.refresh_time)
    if mesh.directory is not None:
        document = mesh.directory.document
        shown.state = State.STATE_CURRENT if mesh.directory.expires > now else State.STATE_EXPIRED
        shown.version = document.version
        shown.issue_time.CopyFrom(document.issue_time)
        shown.expire_time.CopyFrom(document.expire_time)
        shown.parameters.CopyFrom(document.parameters)
    return shown


def _changed(document: DirectoryDocument) -> events_pb2.DirectoryChanged:
    return events_pb2.DirectoryChanged(
        directory=f"directories/{identifiers.encode(document.instance)}",
        state=directory_pb2.Directory.STATE_CURRENT,
        version=document.version,
        expire_time=document.expire_time,
    )


def utc_now() -> datetime:
    """The time by which directories are judged."""
    return datetime.now(UTC)
