"""PeerService.ExchangeTreeHeads: other nodes show their heads."""

from __future__ import annotations

from solmu.exchange.v1 import peer_pb2

from services.exchange.peer_heads import PeerHeads
from services.runtime import identity


class PeerHeadServicer:
    """Answers peers that show their heads."""

    def __init__(self, *, heads: PeerHeads) -> None:
        self._heads = heads

    async def ExchangeTreeHeads(self, request: peer_pb2.ExchangeTreeHeadsRequest) -> peer_pb2.ExchangeTreeHeadsResponse:
        """Countersigns a peer's head, and shows this node's own."""
        return await self._heads.answer(identity.caller().node, request)
