"""Has other nodes bring what they keep for this node's subsystems."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime

import grpc
from solmu.exchange.v1 import peer_pb2

from services.exchange.meshes import Meshes
from services.exchange.peers import Peers
from services.exchange.subscribing import Subscribing
from services.runtime.errors import Fault
from services.runtime.status import fault_of

logger = logging.getLogger(__name__)

COLLECT_WITHIN = 10.0
"""Seconds for a node to say what it will bring."""


class Collecting:
    """Asks publishers' nodes."""

    def __init__(self, *, meshes: Meshes, peers: Peers, subscribing: Subscribing) -> None:
        self._meshes = meshes
        self._peers = peers
        self._subscribing = subscribing

    async def again(self, subsystem: str, topic: str, *, start: datetime, end: datetime | None) -> bool:
        """Has what was sent to a topic in a time be brought; says whether anything will.

        Raises Fault where the publisher's node refuses.
        """
        publisher = topic.rpartition("/")[0]
        if self._meshes.hosts(publisher):
            return await self._subscribing.again(topic, subsystem, start=start, end=end) > 0
        request = _asked(subsystem, topic=topic, start=start, end=end)
        answer = await self._collect(publisher, request)
        return answer is not None and answer.count > 0

    async def sent(self, subsystem: str, *, start: datetime, end: datetime | None) -> bool:
        """Has what any node sent to the subsystem itself in a time be brought; says whether anything will.

        Nodes that are away, or of an older release, bring nothing.
        """
        request = _asked(subsystem, start=start, end=end)
        nodes = set(self._meshes.directory_of(subsystem).nodes) - {self._meshes.node}
        return any(await asyncio.gather(*(self._sent_by(node, request) for node in sorted(nodes))))

    async def _sent_by(self, node: str, request: peer_pb2.CollectRequest) -> bool:
        try:
            for stub in self._peers.stubs(node):
                return (await stub.Collect(request, timeout=COLLECT_WITHIN)).count > 0
        except (grpc.RpcError, Fault) as error:
            fault = fault_of(error) if isinstance(error, grpc.RpcError) else error
            logger.warning("a node brings nothing again", extra={"peer": node, "reason": fault.reason})
        return False

    async def _collect(self, publisher: str, request: peer_pb2.CollectRequest) -> peer_pb2.CollectResponse | None:
        """Asks the nodes that serve a subsystem, until one has answered; None where none is reached."""
        for served in self._meshes.directory_of(publisher).serving.get(publisher, []):
            try:
                for stub in self._peers.stubs(served.node):
                    return await stub.Collect(request, timeout=COLLECT_WITHIN)
            except grpc.RpcError as error:
                fault: Fault = fault_of(error)
                if fault.code not in {"UNAVAILABLE", "DEADLINE_EXCEEDED"}:
                    raise fault from None
        return None


def _asked(subsystem: str, *, topic: str = "", start: datetime, end: datetime | None) -> peer_pb2.CollectRequest:
    request = peer_pb2.CollectRequest(recipient=subsystem, topic=topic)
    request.start_time.FromDatetime(start)
    if end is not None:
        request.end_time.FromDatetime(end)
    return request
