"""Keeps directories fresh: asks the publisher, or any peer, whether there is a newer one.

Whoever answers, the signatures prove what they give. Registrations of this node
go to the publisher on the same occasion, until they are decided.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Sequence

import grpc
from solmu.exchange.v1 import peer_pb2_grpc
from solmu.exchange.v1.directory_document_pb2 import SignedDocument
from solmu.exchange.v1.mesh_pb2 import Registration
from solmu.exchange.v1.peer_pb2 import GetDirectoryPartsRequest, GetSignedDirectoryRequest, SubmitRegistrationRequest

from services.exchange import directory_store, publication_store
from services.exchange.meshes import Mesh, Meshes, utc_now
from services.exchange.peers import Peers
from services.runtime import status
from services.runtime.database import PASSING, Database, Row
from services.runtime.errors import Fault

logger = logging.getLogger(__name__)

INTERVAL = 60.0
"""Seconds between two looks for a newer directory, give or take a fifth, so that nodes do not look all at once."""

ANSWER_WITHIN = 10.0
"""Seconds that a publisher or peer has for an answer."""

PEERS_TRIED = 5
"""Peers that are asked where the publisher does not answer."""

PARTS_AT_ONCE = 1000
"""Parts asked for in one call (peer.proto)."""

ASKING = (Registration.STATE_SENDING, Registration.STATE_SUBMITTED, Registration.STATE_APPROVED)
"""States of a registration in which the publisher is asked about it."""


class Refresher:
    """Looks for newer directories and brings registrations to the publisher."""

    def __init__(self, *, database: Database, meshes: Meshes, peers: Peers) -> None:
        self._database = database
        self._meshes = meshes
        self._peers = peers

    async def run(self) -> None:
        """Looks again and again, in the process that leads."""
        while True:
            try:
                async with self._database.leading("refresher"):
                    while True:
                        for mesh in self._meshes.all():
                            await self.refresh(mesh.instance)
                            await self.bring_registrations(mesh.instance)
                        await asyncio.sleep(INTERVAL * random.uniform(0.8, 1.2))  # noqa: S311  # no secret
            except PASSING as error:
                logger.warning("refresher lost the database", extra={"error": type(error).__qualname__})
                await asyncio.sleep(1.0)

    async def refresh(self, instance: str) -> Mesh:
        """Looks for a newer anchor and directory now; what came of it stands in the mesh."""
        failure, answered = "DIRECTORY_UNREACHABLE", False
        async for stub in self._sources(self._meshes.mesh(instance)):
            try:
                await self._ask(instance, stub)
            except grpc.aio.AioRpcError as error:
                logger.info("no directory", extra={"instance": instance, "code": error.code().name})
                continue
            except Fault as fault:
                failure, answered = fault.reason, True
                logger.warning("directory refused", extra={"instance": instance, "reason": fault.reason})
                continue
            failure, answered = "", True
            break
        await directory_store.set_refreshed(
            self._database, instance, now=utc_now() if answered else None, failure=failure
        )
        await self._meshes.load()
        return self._meshes.mesh(instance)

    async def bring_registrations(self, instance: str) -> None:
        """Brings this node's registrations to the publisher, and learns how far they are."""
        for row in await publication_store.undecided(self._database, states=ASKING):
            if row["instance"] != instance:
                continue
            async for stub in self._publishers(self._meshes.mesh(instance)):
                if await self._bring(row, stub):
                    break

    async def withdraw(self, row: Row) -> bool:
        """Takes a registration back at the publisher; whether one was reached."""
        async for stub in self._publishers(self._meshes.mesh(row["instance"])):
            with contextlib.suppress(grpc.aio.AioRpcError):
                await stub.SubmitRegistration(
                    SubmitRegistrationRequest(document=SignedDocument.FromString(row["document"]), withdraw=True),
                    timeout=ANSWER_WITHIN,
                )
                return True
        return False

    async def _bring(self, row: Row, stub: peer_pb2_grpc.PeerServiceAsyncStub) -> bool:
        document = SignedDocument.FromString(row["document"])
        try:
            answer = await stub.SubmitRegistration(SubmitRegistrationRequest(document=document), timeout=ANSWER_WITHIN)
            state, rejection, version = answer.state, answer.rejection, answer.directory_version
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                return False
            fault = status.fault_of(error)
            state, rejection, version = Registration.STATE_REJECTED, f"{fault.reason}: {fault.message}", 0
        if state == Registration.STATE_PUBLISHED:
            mesh = self._meshes.mesh(row["instance"])
            if mesh.known is None or mesh.known.version < version:
                state = Registration.STATE_APPROVED  # published there, not in force here yet
        await publication_store.set_state(
            self._database,
            row["registration_id"],
            among=ASKING,
            state=state,
            rejection=rejection,
            directory_version=version,
        )
        return True

    async def _ask(self, instance: str, stub: peer_pb2_grpc.PeerServiceAsyncStub) -> None:
        mesh = self._meshes.mesh(instance)
        answer = await stub.GetSignedDirectory(
            GetSignedDirectoryRequest(
                instance=instance,
                anchor_version=mesh.anchor.document.version,
                directory_version=mesh.known.version if mesh.known is not None else 0,
            ),
            timeout=ANSWER_WITHIN,
        )

        async def fetch(digests: Sequence[bytes]) -> list[bytes]:
            parts = []
            for first in range(0, len(digests), PARTS_AT_ONCE):
                request = GetDirectoryPartsRequest(sha256=digests[first : first + PARTS_AT_ONCE])
                parts += [answer.part async for answer in stub.GetDirectoryParts(request, timeout=6 * ANSWER_WITHIN)]
            return parts

        signed = answer.directory if answer.HasField("directory") else None
        if answer.anchors or signed is not None:
            await self._meshes.take(
                instance, anchors=list(answer.anchors), signed=signed, fetch_parts=fetch, now=utc_now()
            )

    async def _sources(self, mesh: Mesh) -> AsyncIterator[peer_pb2_grpc.PeerServiceAsyncStub]:
        """The publisher, then peers at random: of the mesh itself and, of a federated one, of the own."""
        async for stub in self._publishers(mesh):
            yield stub
        nodes = [
            node
            for one in self._meshes.all()
            if one.directory is not None and (one.own or one.instance == mesh.instance)
            for node in one.directory.nodes
            if node != self._meshes.node
        ]
        for node in random.sample(nodes, min(PEERS_TRIED, len(nodes))):
            with contextlib.suppress(Fault):
                for stub in self._peers.stubs(node):
                    yield stub

    async def _publishers(self, mesh: Mesh) -> AsyncIterator[peer_pb2_grpc.PeerServiceAsyncStub]:
        with contextlib.suppress(Fault):
            for channel, stub in self._peers.publisher(mesh.anchor):
                try:
                    yield stub
                finally:
                    await channel.close()
