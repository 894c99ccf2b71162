"""MeshService: joining with an anchor, files, and registrations."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from uuid import UUID

from google.api.httpbody_pb2 import HttpBody
from google.protobuf.internal import decoder, encoder
from google.protobuf.message import DecodeError
from solmu.exchange.v1 import directory_pb2, mesh_pb2
from solmu.exchange.v1.directory_document_pb2 import RegistrationDocument, SignedDocument

from services.exchange import directory_store, documents, names, publication, publication_store
from services.exchange.documents import Kind
from services.exchange.evidence import identifiers
from services.exchange.keys import KeyRing, OrganisationKey
from services.exchange.meshes import Mesh, Meshes, utc_now, view
from services.exchange.refreshing import Refresher
from services.exchange.servicers.timestamps import timestamp
from services.runtime import pages
from services.runtime.database import Database, Row
from services.runtime.errors import FailedPrecondition, Fault, InvalidArgument, not_found

State = mesh_pb2.Registration.State

MAX_ENTRY_BYTES = 2 << 20
"""Of a file with a directory: documents and parts have 1 MiB, and signatures."""

CHUNK_BYTES = 256 << 10
"""Of a file that is streamed down."""


class MeshServicer:
    """Joins and leaves meshes, and keeps this node's entries in the directory."""

    def __init__(
        self,
        *,
        database: Database,
        meshes: Meshes,
        ring: KeyRing,
        refresher: Refresher,
        abandon: Callable[[], Awaitable[int]],
    ) -> None:
        """`abandon` gives up the envelopes that wait for other nodes, and returns how many."""
        self._abandon = abandon
        self._database = database
        self._meshes = meshes
        self._ring = ring
        self._refresher = refresher

    async def InspectAnchor(self, request: mesh_pb2.InspectAnchorRequest) -> mesh_pb2.AnchorDescription:
        """What an anchor holds."""
        return describe(_signed(request.anchor))

    async def JoinMesh(self, request: mesh_pb2.JoinMeshRequest) -> directory_pb2.Directory:
        """Takes an anchor whose fingerprint came by another way, and gets its directory."""
        signed = _signed(request.anchor)
        check_fingerprint(signed, request.fingerprint)
        mesh = await self._meshes.join(signed, node=names.node(request.node), now=utc_now())
        return view(await self._refresher.refresh(mesh.instance), now=utc_now())

    async def LeaveMesh(self, request: mesh_pb2.LeaveMeshRequest) -> mesh_pb2.LeaveMeshResponse:
        """Leaves the node's own mesh; what waits for other nodes is given up, and its senders are told."""
        mesh = self._mesh(request.name)
        if request.confirm_instance != mesh.instance or not mesh.own:
            raise InvalidArgument(
                "FIELD_INVALID",
                "the instance to be left is another one",
                violations=[("confirm_instance", "is not the own mesh's instance")],
            )
        abandoned = await self._abandon()
        await self._meshes.leave(mesh.instance)
        return mesh_pb2.LeaveMeshResponse(abandoned_envelopes=abandoned)

    async def RefreshDirectory(self, request: mesh_pb2.RefreshDirectoryRequest) -> directory_pb2.Directory:
        """Looks for a newer anchor and directory now."""
        mesh = await self._refresher.refresh(self._mesh(request.name).instance)
        await self._refresher.bring_registrations(mesh.instance)
        await self._meshes.load()
        return view(self._meshes.mesh(mesh.instance), now=utc_now())

    async def ImportDirectory(
        self, requests: AsyncIterator[mesh_pb2.ImportDirectoryRequest]
    ) -> directory_pb2.Directory:
        """Takes anchors, a directory and its parts from a file."""
        anchors: list[SignedDocument] = []
        signed: SignedDocument | None = None
        parts: dict[bytes, bytes] = {}
        async for entry in _entries(requests):
            if entry.HasField("anchor"):
                anchors.append(entry.anchor)
            elif entry.HasField("directory"):
                signed = entry.directory
            else:
                parts[hashlib.sha256(entry.part).digest()] = entry.part
        if not anchors:
            raise InvalidArgument("DIRECTORY_MALFORMED", "the file has no anchor")
        mesh = self._meshes.mesh(documents.read_anchor(anchors[0]).document.instance)
        held = mesh.anchor.document.version
        newer = [one for one in anchors if documents.read_anchor(one).document.version > held]

        async def fetch(digests: Sequence[bytes]) -> list[bytes]:
            return [parts[digest] for digest in digests if digest in parts]

        await self._meshes.take(mesh.instance, anchors=newer, signed=signed, fetch_parts=fetch, now=utc_now())
        return view(self._meshes.mesh(mesh.instance), now=utc_now())

    async def ExportDirectory(self, request: mesh_pb2.ExportDirectoryRequest) -> AsyncIterator[HttpBody]:
        """Streams a directory down as signed."""
        mesh = self._mesh(request.name)
        anchors = await directory_store.anchors(self._database, mesh.instance, after=0, limit=None)
        entries = [mesh_pb2.DirectoryExportEntry(anchor=SignedDocument.FromString(anchor)) for anchor in anchors]
        if mesh.signed is not None and mesh.directory is not None:
            entries.append(mesh_pb2.DirectoryExportEntry(directory=mesh.signed))
            digests = [reference.sha256 for reference in mesh.directory.document.parts]
            held = await directory_store.held_parts(self._database, digests)
            entries += [mesh_pb2.DirectoryExportEntry(part=held[digest]) for digest in digests]
        for entry in entries:
            content = entry.SerializeToString()
            content = encoder._VarintBytes(len(content)) + content  # type: ignore[attr-defined]  # noqa: SLF001  # protobuf has no public name for it
            for first in range(0, len(content), CHUNK_BYTES):
                yield HttpBody(content_type="application/octet-stream", data=content[first : first + CHUNK_BYTES])

    async def CreateRegistration(self, request: mesh_pb2.CreateRegistrationRequest) -> mesh_pb2.Registration:
        """Signs what is asked for with the keys concerned, and brings it to the publisher."""
        registration = request.registration
        mesh = self._meshes.own
        request_id = request.request_id or str(uuid.uuid4())
        document = RegistrationDocument(instance=mesh.instance, request_id=request_id, remove=registration.remove)
        document.issue_time.FromDatetime(utc_now())
        subject = registration.WhichOneof("subject")
        assert subject is not None  # the contract requires it
        getattr(document, subject).CopyFrom(getattr(registration, subject))
        signed = documents.sign(
            Kind.REGISTRATION, document.SerializeToString(deterministic=True), self._signers(document, mesh)
        )
        row = await publication_store.insert_registration(
            self._database,
            registration_id=UUID(request_id),
            instance=mesh.instance,
            own=True,
            applicant=mesh.node,
            document=signed.SerializeToString(),
            state=State.STATE_SENDING,
        )
        if row is not None:
            await self._refresher.bring_registrations(mesh.instance)
        return await self._registration(UUID(request_id))

    async def GetRegistration(self, request: mesh_pb2.GetRegistrationRequest) -> mesh_pb2.Registration:
        """A registration."""
        return await self._registration(UUID(request.name.split("/")[1]))

    async def ListRegistrations(self, request: mesh_pb2.ListRegistrationsRequest) -> mesh_pb2.ListRegistrationsResponse:
        """Registrations, latest first."""
        size, question = pages.size(request.page_size), str(sorted(request.states))
        before = pages.key(request.page_token, question=question)
        rows = await publication_store.registrations(
            self._database, states=list(request.states), before=UUID(before) if before else None, limit=size + 1
        )
        response = mesh_pb2.ListRegistrationsResponse(registrations=[registration_view(row) for row in rows[:size]])
        if len(rows) > size:
            response.next_page_token = pages.token(str(rows[size - 1]["registration_id"]), question=question)
        return response

    async def WithdrawRegistration(self, request: mesh_pb2.WithdrawRegistrationRequest) -> mesh_pb2.Registration:
        """Takes a registration back that the publisher has not decided."""
        registration_id = UUID(request.name.split("/")[1])
        row = await publication_store.registration(self._database, registration_id)
        if row is None or not row["own"]:
            raise not_found(request.name)
        if row["state"] == State.STATE_SUBMITTED:
            await self._refresher.withdraw(row)
        among = (State.STATE_SENDING, State.STATE_SUBMITTED, State.STATE_WITHDRAWN)
        moved = await publication_store.set_state(
            self._database, registration_id, among=among, state=State.STATE_WITHDRAWN
        )
        if moved is None:
            raise decided(row)
        return registration_view(moved)

    async def _registration(self, registration_id: UUID) -> mesh_pb2.Registration:
        row = await publication_store.registration(self._database, registration_id)
        if row is None:
            raise not_found(f"registrations/{registration_id}")
        return registration_view(row)

    def _signers(self, document: RegistrationDocument, mesh: Mesh) -> list[OrganisationKey]:
        """The keys concerned: those to be entered, and one that the member has. Raises FailedPrecondition."""
        signers = {}
        if not document.remove:
            for key in publication.subject_keys(document):
                own = self._ring.by_certificate(key.certificate)
                if own is not None:
                    signers[own.public_key] = own
        holder = publication.holder(document)
        known = mesh.directory.members.get(holder) if mesh.directory is not None else None
        for key in known.keys if known is not None else ():
            own = self._ring.by_certificate(key.certificate)
            if own is not None and key.use == directory_pb2.KEY_USE_STATEMENTS:
                signers[own.public_key] = own
                break
        if not signers:
            raise FailedPrecondition("KEY_MISSING", "the node has no key with which to sign this", holder=holder)
        return list(signers.values())

    def _mesh(self, name: str) -> Mesh:
        instance = identifiers.decode(name.split("/")[1])
        for mesh in self._meshes.all():
            if mesh.instance == instance:
                return mesh
        raise not_found(name)


def describe(signed: SignedDocument) -> mesh_pb2.AnchorDescription:
    """What an anchor holds, and whether it may be used."""
    anchor = documents.read_anchor(signed)
    try:
        documents.verify_first_anchor(signed, now=utc_now())
        usable = True
    except Fault:
        usable = False
    return mesh_pb2.AnchorDescription(
        fingerprint=anchor.fingerprint,
        anchor=anchor.document,
        valid_signatures=documents.signatures_of(Kind.ANCHOR, signed, anchor.document),
        usable=usable,
    )


def check_fingerprint(signed: SignedDocument, expected: str) -> None:
    """Raises InvalidArgument, ANCHOR_FINGERPRINT_MISMATCH."""
    actual = hashlib.sha256(signed.document).hexdigest()
    if actual != expected:
        raise InvalidArgument(
            "ANCHOR_FINGERPRINT_MISMATCH",
            "the anchor is not the one whose fingerprint was given",
            expected=expected,
            actual=actual,
        )


def registration_view(row: Row) -> mesh_pb2.Registration:
    """A registration as the contract shows it."""
    signed = SignedDocument.FromString(row["document"])
    document = RegistrationDocument.FromString(signed.document)
    shown = mesh_pb2.Registration(
        name=f"registrations/{row['registration_id']}",
        remove=document.remove,
        state=row["state"],
        rejection=row["rejection"],
        document=signed,
        applicant=names.resource("nodes", row["applicant"]),
        create_time=timestamp(row["create_time"]),
        decide_time=timestamp(row["decide_time"]),
        directory_version=row["directory_version"],
        etag=str(row["revision"]),
    )
    subject = document.WhichOneof("subject")
    if subject is not None:
        getattr(shown, subject).CopyFrom(getattr(document, subject))
    return shown


def decided(row: Row) -> Fault:
    """The refusal of what is too late for a registration."""
    return FailedPrecondition(
        "REGISTRATION_STATE", "the registration has been decided or taken back", state=State.Name(row["state"])
    )


def _signed(content: bytes) -> SignedDocument:
    try:
        return SignedDocument.FromString(content)
    except DecodeError:
        raise InvalidArgument("DIRECTORY_MALFORMED", "the anchor is no signed document") from None


async def _entries(
    requests: AsyncIterator[mesh_pb2.ImportDirectoryRequest],
) -> AsyncIterator[mesh_pb2.DirectoryExportEntry]:
    """The entries of a file, each after its length as a varint. Raises InvalidArgument, DIRECTORY_MALFORMED."""
    waiting = b""
    async for request in requests:
        waiting += request.content.data
        while waiting:
            try:
                length, begin = decoder._DecodeVarint(waiting, 0)  # type: ignore[attr-defined]  # noqa: SLF001  # as above
            except (IndexError, DecodeError):
                break
            if length > MAX_ENTRY_BYTES:
                raise InvalidArgument("DIRECTORY_MALFORMED", "the file has an entry that is too large")
            if len(waiting) < begin + length:
                break
            try:
                yield mesh_pb2.DirectoryExportEntry.FromString(waiting[begin : begin + length])
            except DecodeError:
                raise InvalidArgument("DIRECTORY_MALFORMED", "the file has an entry that cannot be read") from None
            waiting = waiting[begin + length :]
        if len(waiting) > 2 * MAX_ENTRY_BYTES:
            raise InvalidArgument("DIRECTORY_MALFORMED", "the file has an entry that is too large")
    if waiting:
        raise InvalidArgument("DIRECTORY_MALFORMED", "the file ends in the middle of an entry")
