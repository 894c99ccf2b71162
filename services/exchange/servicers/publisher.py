"""PublisherService: what the node does that publishes the directory of its mesh."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from solmu.exchange.v1 import directory_pb2, mesh_pb2, publishing_pb2
from solmu.exchange.v1.directory_document_pb2 import AnchorDocument, SignedDocument

from services.exchange import directory_store, documents, names, publication, publication_store
from services.exchange.documents import Kind
from services.exchange.evidence import identifiers
from services.exchange.keys import KeyRing
from services.exchange.meshes import Meshes, utc_now, view
from services.exchange.publication import Change, Entry, Key
from services.exchange.publishing import Publisher
from services.exchange.servicers.mesh import State, check_fingerprint, decided, describe, registration_view
from services.runtime.database import Database, Row
from services.runtime.errors import Aborted, FailedPrecondition, InvalidArgument, not_found

ANCHOR_LIFETIME = timedelta(days=3 * 365)
DIRECTORY_LIFETIME = timedelta(days=7)
"""Where the publisher does not say (publishing.proto)."""


class PublisherServicer:
    """Founds a mesh and keeps its directory."""

    def __init__(self, *, database: Database, meshes: Meshes, ring: KeyRing, publisher: Publisher) -> None:
        self._database = database
        self._meshes = meshes
        self._ring = ring
        self._publisher = publisher

    async def FoundMesh(self, request: publishing_pb2.FoundMeshRequest) -> mesh_pb2.AnchorDescription:
        """Makes the first anchor, and the first directory with this node's owner as its only member."""
        if self._meshes.joined:
            raise FailedPrecondition("MESH_JOINED", "a mesh was joined already")
        owner, node = names.member(request.owner.id), names.node(request.node.id)
        if names.instance_of(owner) != request.instance or names.member_of(node) != owner:
            raise InvalidArgument(
                "FIELD_INVALID",
                "owner and node are not of the mesh",
                violations=[("node.id", "is not the owner's, or not of the instance")],
            )
        document = _anchor(request.instance, 1, request.terms)
        signed = self._sign(document)
        await self._meshes.join(signed, node=node, now=utc_now())
        lifetime = request.directory_lifetime.ToTimedelta() if request.HasField("directory_lifetime") else None
        entries: dict[Key, bytes] = {
            (Entry.MEMBER, owner): request.owner.SerializeToString(),
            (Entry.NODE, node): request.node.SerializeToString(),
        }
        async with self._database.transaction() as transaction:
            await publication_store.insert_publication(
                transaction,
                instance=request.instance,
                lifetime=lifetime or DIRECTORY_LIFETIME,
                parameters=b"",
                entries=entries,
            )
        await self._publisher.publish(request.instance)
        return describe(signed)

    async def PublishDirectory(self, request: publishing_pb2.PublishDirectoryRequest) -> directory_pb2.Directory:
        """Publishes what waits, now."""
        mesh = await self._publisher.publish(_instance(request.name))
        return view(mesh, now=utc_now())

    async def CreateAnchor(self, request: publishing_pb2.CreateAnchorRequest) -> publishing_pb2.PendingAnchor:
        """Makes the next anchor; it takes effect once enough keys, before and after, have signed it."""
        instance = _instance(request.parent)
        await self._publisher.require(self._database, instance)
        current = self._meshes.mesh(instance).anchor.document
        document = _anchor(instance, current.version + 1, request.terms)
        signers = {
            key.public_key: key for key in (*self._publisher.signers(current), *self._publisher.signers(document))
        }
        signed = documents.sign(Kind.ANCHOR, document.SerializeToString(deterministic=True), signers.values())
        return await self._advance(instance, signed)

    async def SignAnchor(self, request: publishing_pb2.SignAnchorRequest) -> publishing_pb2.PendingAnchor:
        """Adds signatures that were made elsewhere."""
        instance, version = _instance(request.name), int(request.name.rpartition("/")[2])
        await self._publisher.require(self._database, instance)
        row = await publication_store.pending_anchor(self._database, instance, version)
        if row is None:
            raise not_found(request.name)
        signed = SignedDocument.FromString(row["signed"])
        known = {signature.key_sha256 for signature in signed.signatures}
        signed.signatures.extend(one for one in request.signatures if one.key_sha256 not in known)
        return await self._advance(instance, signed)

    async def ApproveRegistration(self, request: publishing_pb2.ApproveRegistrationRequest) -> mesh_pb2.Registration:
        """Agrees to a registration; it is in the next directory."""
        async with self._database.transaction() as transaction:
            row = await self._undecided(await publication_store.registration(transaction, _id(request.name)), request)
            await publication_store.lock(transaction, row["instance"])
            signed = SignedDocument.FromString(row["document"])
            document = documents.read_registration(signed, instance=row["instance"])
            publication.verify_registration(signed, document, self._meshes.directory(row["instance"]))
            entries = await publication_store.entries(transaction, row["instance"])
            await publication_store.apply(transaction, row["instance"], publication.effect(document, entries))
            moved = await publication_store.set_state(
                transaction, row["registration_id"], among=(State.STATE_SUBMITTED,), state=State.STATE_APPROVED
            )
        if moved is None:
            raise decided(row)
        return registration_view(moved)

    async def RejectRegistration(self, request: publishing_pb2.RejectRegistrationRequest) -> mesh_pb2.Registration:
        """Refuses a registration."""
        row = await self._undecided(await publication_store.registration(self._database, _id(request.name)), request)
        moved = await publication_store.set_state(
            self._database,
            row["registration_id"],
            among=(State.STATE_SUBMITTED,),
            state=State.STATE_REJECTED,
            rejection=request.rejection,
        )
        if moved is None:
            raise decided(row)
        return registration_view(moved)

    async def RemoveMember(self, request: publishing_pb2.RemoveMemberRequest) -> directory_pb2.Directory:
        """Takes a member out with all that is its own, at once."""
        member = names.identifier(request.name, 3)
        instance = names.instance_of(member)
        async with self._database.transaction() as transaction:
            await self._publisher.require(transaction, instance)
            entries = await publication_store.entries(transaction, instance)
            await publication_store.apply(transaction, instance, publication.removal(member, entries))
        return view(await self._publisher.publish(instance), now=utc_now())

    async def SetGlobalGroup(self, request: publishing_pb2.SetGlobalGroupRequest) -> directory_pb2.GlobalGroup:
        """Sets a global group."""
        instance = _instance(request.parent)
        identifier = publication.group_identifier(instance, request.global_group.group_code)
        group = directory_pb2.GlobalGroup()
        group.CopyFrom(request.global_group)
        group.ClearField("name")
        await self._apply(instance, Change({(Entry.GROUP, identifier): group.SerializeToString()}, frozenset()))
        group.name = f"{request.parent}/globalGroups/{identifier.partition('/')[2]}"
        return group

    async def DeleteGlobalGroup(self, request: publishing_pb2.DeleteGlobalGroupRequest) -> directory_pb2.GlobalGroup:
        """Deletes a global group."""
        instance, code = _instance(request.name), identifiers.decode(request.name.rpartition("/")[2])
        key = (Entry.GROUP, publication.group_identifier(instance, code))
        return directory_pb2.GlobalGroup.FromString(await self._remove(instance, key, request.name))

    async def SetTrustService(self, request: publishing_pb2.SetTrustServiceRequest) -> directory_pb2.TrustService:
        """Sets an authority that the mesh recognises."""
        instance = _instance(request.parent)
        service = directory_pb2.TrustService()
        service.CopyFrom(request.trust_service)
        service.ClearField("name")
        key = (Entry.TRUST_SERVICE, service.service_code)
        await self._apply(instance, Change({key: service.SerializeToString()}, frozenset()))
        service.name = f"{request.parent}/trustServices/{service.service_code}"
        return service

    async def DeleteTrustService(self, request: publishing_pb2.DeleteTrustServiceRequest) -> directory_pb2.TrustService:
        """Takes an authority out."""
        key = (Entry.TRUST_SERVICE, request.name.rpartition("/")[2])
        return directory_pb2.TrustService.FromString(await self._remove(_instance(request.name), key, request.name))

    async def SetMeshParameters(self, request: publishing_pb2.SetMeshParametersRequest) -> directory_pb2.MeshParameters:
        """Sets what all nodes go by."""
        instance = _instance(request.name)
        async with self._database.transaction() as transaction:
            await self._publisher.require(transaction, instance)
            await publication_store.set_parameters(transaction, instance, request.parameters.SerializeToString())
        return request.parameters

    async def AddFederation(self, request: publishing_pb2.AddFederationRequest) -> mesh_pb2.AnchorDescription:
        """Federates the mesh with another, by the other's anchor."""
        signed = SignedDocument.FromString(request.anchor)
        check_fingerprint(signed, request.fingerprint)
        anchor = documents.verify_first_anchor(signed, now=utc_now())
        instance = _instance(request.parent)
        if anchor.document.instance == instance:
            raise InvalidArgument("DIRECTORY_MALFORMED", "the anchor is that of the mesh itself")
        key = (Entry.FEDERATION, anchor.document.instance)
        await self._apply(instance, Change({key: request.anchor}, frozenset()))
        return describe(signed)

    async def RemoveFederation(
        self, request: publishing_pb2.RemoveFederationRequest
    ) -> publishing_pb2.RemoveFederationResponse:
        """Ends a federation."""
        other = identifiers.decode(request.name.rpartition("/")[2])
        await self._remove(_instance(request.name), (Entry.FEDERATION, other), request.name)
        return publishing_pb2.RemoveFederationResponse()

    async def _apply(self, instance: str, change: Change) -> None:
        async with self._database.transaction() as transaction:
            await self._publisher.require(transaction, instance)
            await publication_store.apply(transaction, instance, change)

    async def _remove(self, instance: str, key: Key, name: str) -> bytes:
        async with self._database.transaction() as transaction:
            await self._publisher.require(transaction, instance)
            entries = await publication_store.entries(transaction, instance)
            if key not in entries:
                raise not_found(name)
            await publication_store.apply(transaction, instance, Change({}, frozenset({key})))
        return entries[key]

    async def _undecided(
        self,
        row: Row | None,
        request: publishing_pb2.ApproveRegistrationRequest | publishing_pb2.RejectRegistrationRequest,
    ) -> Row:
        if row is None:
            raise not_found(request.name)
        await self._publisher.require(self._database, row["instance"])
        if row["state"] != State.STATE_SUBMITTED:
            raise decided(row)
        if isinstance(request, publishing_pb2.ApproveRegistrationRequest) and request.etag != str(row["revision"]):
            raise Aborted("ETAG_MISMATCH", "the registration has changed since it was looked at")
        return row

    def _sign(self, document: AnchorDocument) -> SignedDocument:
        return documents.sign(
            Kind.ANCHOR, document.SerializeToString(deterministic=True), self._publisher.signers(document)
        )

    async def _advance(self, instance: str, signed: SignedDocument) -> publishing_pb2.PendingAnchor:
        """Keeps a pending anchor with the signatures that it has; puts it into force where they are enough."""
        current, own = self._meshes.mesh(instance).anchor.document, documents.read_anchor(signed).document
        missing_previous = max(0, current.threshold - documents.signatures_of(Kind.ANCHOR, signed, current))
        missing_own = max(0, own.threshold - documents.signatures_of(Kind.ANCHOR, signed, own))
        pending = publishing_pb2.PendingAnchor(
            name=f"directories/{identifiers.encode(instance)}/anchors/{own.version}",
            document=signed,
            missing_previous=missing_previous,
            missing_own=missing_own,
        )
        effective = not missing_previous and not missing_own
        now = utc_now()
        async with self._database.transaction() as transaction:
            await publication_store.set_pending_anchor(
                transaction, instance, own.version, signed.SerializeToString(), effect_time=now if effective else None
            )
            if effective:
                documents.verify_next_anchors(self._meshes.mesh(instance).anchor, [signed], now=now)
                await directory_store.insert_anchor(
                    transaction, instance=instance, version=own.version, signed=signed.SerializeToString()
                )
                await directory_store.touch(transaction, instance)
        if effective:
            await self._publisher.publish(instance)
            pending.effect_time.FromDatetime(now)
        return pending


def _anchor(instance: str, version: int, terms: publishing_pb2.AnchorTerms) -> AnchorDocument:
    if terms.threshold > len({key.public_key for key in terms.keys}):
        raise InvalidArgument(
            "FIELD_INVALID", "there are fewer keys than must sign", violations=[("terms.threshold", "is too high")]
        )
    document = AnchorDocument(
        instance=instance,
        version=version,
        keys=terms.keys,
        threshold=terms.threshold,
        publisher=terms.publisher,
    )
    now = utc_now()
    lifetime = terms.lifetime.ToTimedelta() if terms.HasField("lifetime") else ANCHOR_LIFETIME
    document.issue_time.FromDatetime(now)
    document.expire_time.FromDatetime(now + lifetime)
    return document


def _instance(name: str) -> str:
    return identifiers.decode(name.split("/")[1])


def _id(name: str) -> UUID:
    return UUID(name.split("/")[1])
