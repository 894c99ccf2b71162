"""MandateService: mandates of other nodes, for the services of this one."""

from __future__ import annotations

from solmu.exchange.v1 import mandates_pb2

from services.exchange.mandates import Mandates


class MandateServicer:
    """Asks other nodes."""

    def __init__(self, mandates: Mandates) -> None:
        self._mandates = mandates

    async def CheckMandate(self, request: mandates_pb2.CheckMandateRequest) -> mandates_pb2.CheckMandateResponse:
        """Asks for one mandate."""
        return await self._mandates.of_this_node(request)
