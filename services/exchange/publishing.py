"""Publishes the directory of the mesh: composes it, signs it, and has it taken like any other.

A directory is signed again before half of its time is over, changed or not, by
whichever process leads.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from datetime import datetime

from solmu.exchange.v1 import directory_pb2
from solmu.exchange.v1.directory_document_pb2 import AnchorDocument
from solmu.exchange.v1.mesh_pb2 import Registration

from services.exchange import documents, publication, publication_store
from services.exchange.documents import Kind
from services.exchange.keys import KeyRing, OrganisationKey
from services.exchange.meshes import Mesh, Meshes, utc_now
from services.runtime.database import PASSING, Connection, Database, Row
from services.runtime.errors import FailedPrecondition, Fault

logger = logging.getLogger(__name__)

LOOK_INTERVAL = 10.0
"""Seconds between two looks whether the directory is to be signed again."""


class Publisher:
    """Publishes on the node whose work that is."""

    def __init__(self, *, database: Database, ring: KeyRing, meshes: Meshes) -> None:
        self._database = database
        self._ring = ring
        self._meshes = meshes

    def signers(self, anchor: AnchorDocument) -> list[OrganisationKey]:
        """The keys of an anchor that this node holds."""
        found = (self._ring.by_public_key(key.public_key) for key in anchor.keys)
        return [key for key in found if key is not None]

    async def require(self, transaction: Connection | Database, instance: str) -> Row:
        """How the mesh is published. Raises FailedPrecondition, NOT_PUBLISHER."""
        row = await publication_store.publication(transaction, instance)
        if row is None:
            raise FailedPrecondition("NOT_PUBLISHER", "this node does not publish the directory")
        return row

    async def publish(self, instance: str) -> Mesh:
        """Publishes what waits, now. Raises FailedPrecondition, NOT_PUBLISHER, and what `Meshes.take` raises."""
        now = utc_now()
        mesh = self._meshes.mesh(instance)
        async with self._database.transaction() as transaction:
            row = await publication_store.lock(transaction, instance)
            if row is None:
                raise FailedPrecondition("NOT_PUBLISHER", "this node does not publish the directory")
            await self._meshes.load()  # what the process that held the lock before has published
            mesh = self._meshes.mesh(instance)
            version = (mesh.known.version if mesh.known is not None else 0) + 1
            document, parts = publication.compose(
                anchor=mesh.anchor.document,
                version=version,
                entries=await publication_store.entries(transaction, instance),
                parameters=directory_pb2.MeshParameters.FromString(row["parameters"]),
                lifetime=row["lifetime"],
                now=now,
            )
            content = document.SerializeToString(deterministic=True)
            signed = documents.sign(Kind.DIRECTORY, content, self.signers(mesh.anchor.document))
            by_digest = {hashlib.sha256(part).digest(): part for part in parts}

            async def fetch(digests: Sequence[bytes]) -> list[bytes]:
                return [by_digest[digest] for digest in digests]

            await self._meshes.take(instance, anchors=(), signed=signed, fetch_parts=fetch, now=now)
            await publication_store.set_published(
                transaction,
                instance,
                version=version,
                approved=Registration.STATE_APPROVED,
                published=Registration.STATE_PUBLISHED,
            )
        logger.info("directory published", extra={"instance": instance, "version": version})
        return self._meshes.mesh(instance)

    async def run(self) -> None:
        """Signs the directory again in time, for as long as the process runs."""
        while True:
            try:
                async with self._database.leading("publisher"):
                    while True:
                        await self._publish_due(utc_now())
                        await asyncio.sleep(LOOK_INTERVAL)
            except PASSING as error:
                logger.warning("publisher lost the database", extra={"error": type(error).__qualname__})
            except Fault as fault:
                logger.error("directory not published", extra={"reason": fault.reason})
            await asyncio.sleep(LOOK_INTERVAL)

    async def _publish_due(self, now: datetime) -> None:
        for mesh in self._meshes.all():
            if mesh.own and mesh.directory is not None:
                row = await publication_store.publication(self._database, mesh.instance)
                issued = documents.instant(mesh.directory.document.issue_time)
                if row is not None and now > issued + (mesh.directory.expires - issued) / 2:
                    await self.publish(mesh.instance)
