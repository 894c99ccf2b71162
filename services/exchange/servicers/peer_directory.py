"""What other nodes ask about directories, and bring to the publisher (PeerService)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

from solmu.exchange.v1 import peer_pb2
from solmu.exchange.v1.directory_document_pb2 import SignedDocument

from services.exchange import directory_store, documents, publication, publication_store
from services.exchange.meshes import Meshes
from services.exchange.publishing import Publisher
from services.exchange.servicers.mesh import State
from services.runtime import identity
from services.runtime.database import Database
from services.runtime.errors import not_found

ANCHORS_AT_ONCE = 100
"""In one answer (peer.proto)."""


class PeerDirectory:
    """Gives directories to other nodes, and takes their registrations."""

    def __init__(self, *, database: Database, meshes: Meshes, publisher: Publisher) -> None:
        self._database = database
        self._meshes = meshes
        self._publisher = publisher

    async def GetSignedDirectory(
        self, request: peer_pb2.GetSignedDirectoryRequest
    ) -> peer_pb2.GetSignedDirectoryResponse:
        """What is newer than what the other node has."""
        await self._meshes.load()
        mesh = self._meshes.mesh(request.instance)
        anchors = await directory_store.anchors(
            self._database, mesh.instance, after=request.anchor_version, limit=ANCHORS_AT_ONCE
        )
        answer = peer_pb2.GetSignedDirectoryResponse(anchors=[SignedDocument.FromString(anchor) for anchor in anchors])
        if mesh.signed is not None and mesh.known is not None and mesh.known.version > request.directory_version:
            answer.directory.CopyFrom(mesh.signed)
        return answer

    async def GetDirectoryParts(
        self, request: peer_pb2.GetDirectoryPartsRequest
    ) -> AsyncIterator[peer_pb2.GetDirectoryPartsResponse]:
        """Those of the parts that this node has."""
        for digest in request.sha256:
            for part in (await directory_store.held_parts(self._database, [digest])).values():
                yield peer_pb2.GetDirectoryPartsResponse(part=part)

    async def SubmitRegistration(
        self, request: peer_pb2.SubmitRegistrationRequest
    ) -> peer_pb2.SubmitRegistrationResponse:
        """Takes a registration whose signatures hold, or says how far one is that was brought before."""
        instance = self._meshes.own.instance
        await self._publisher.require(self._database, instance)
        document = documents.read_registration(request.document, instance=instance)
        registration_id = UUID(document.request_id)
        row = await publication_store.registration(self._database, registration_id)
        if row is None:
            publication.verify_registration(request.document, document, self._meshes.directory(instance))
            row = await publication_store.insert_registration(
                self._database,
                registration_id=registration_id,
                instance=instance,
                own=False,
                applicant=identity.caller().node,
                document=request.document.SerializeToString(),
                state=State.STATE_SUBMITTED,
            )
        elif SignedDocument.FromString(row["document"]).document != request.document.document:
            raise not_found(f"registrations/{registration_id}")  # another's, under the same id
        elif row["own"] and row["state"] == State.STATE_SENDING:  # the publisher's own
            publication.verify_registration(request.document, document, self._meshes.directory(instance))
            row = await publication_store.set_state(
                self._database, registration_id, among=(State.STATE_SENDING,), state=State.STATE_SUBMITTED
            )
        if request.withdraw:
            row = (
                await publication_store.set_state(
                    self._database,
                    registration_id,
                    among=(State.STATE_SUBMITTED, State.STATE_WITHDRAWN),
                    state=State.STATE_WITHDRAWN,
                )
                or row
            )
        assert row is not None
        return peer_pb2.SubmitRegistrationResponse(
            state=row["state"], rejection=row["rejection"], directory_version=row["directory_version"]
        )
