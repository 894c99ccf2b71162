"""Calls of other nodes (PeerService)."""

from __future__ import annotations

from collections.abc import AsyncIterator

from solmu.exchange.v1 import peer_frames_pb2, peer_pb2

from services.exchange.configuration import Configuration
from services.exchange.meshes import Meshes, utc_now
from services.exchange.providing import Providing
from services.runtime import identity
from services.runtime.chain import closed_by
from services.runtime.errors import Unavailable

PROTOCOL = "1"
"""The version of the protocol between nodes that this release speaks."""


class PeerCalls:
    """Greets other nodes, and serves their calls."""

    def __init__(self, *, providing: Providing, meshes: Meshes, configuration: Configuration) -> None:
        self._providing = providing
        self._meshes = meshes
        self._configuration = configuration

    async def Greet(self, request: peer_pb2.GreetRequest) -> peer_pb2.GreetResponse:
        """Says how this node stands."""
        if PROTOCOL not in request.protocols:
            raise Unavailable("PROTOCOL_UNSUPPORTED", "the nodes have no version of the protocol in common")
        own = self._meshes.own
        maintenance = self._configuration.current.maintenance
        response = peer_pb2.GreetResponse(
            protocol=PROTOCOL,
            directory_version=own.directory.version if own.directory is not None else 0,
            maintenance=maintenance.active,
        )
        response.time.FromDatetime(utc_now())
        if maintenance.HasField("expected_end_time"):
            response.maintenance_end_time.CopyFrom(maintenance.expected_end_time)
        return response

    @closed_by(lambda frame: frame.WhichOneof("frame") in {"end", "refusal"} or frame.head.HasField("body"))
    async def Exchange(
        self, requests: AsyncIterator[peer_frames_pb2.ExchangeRequest]
    ) -> AsyncIterator[peer_frames_pb2.ExchangeResponse]:
        """Carries one call and its answer."""
        async for response in self._providing.serve(requests, node=identity.caller().node):
            yield response
