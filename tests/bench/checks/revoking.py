"""How long it takes until a revocation is in effect: in the service, and in a consumer that holds the facts.

Asked without a pause while a mandate is revoked through the edge. One time is
from the instant which the revocation itself names, which lies before the
commit, to the beginning of the first check that is denied; the other from when
the owner asked for it, through the edge and the judgement of whether it may.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from solmu.authorisations.v1 import mandate_service_pb2, mandates_pb2
from solmu.authorisations.v1.mandate_service_pb2_grpc import MandateServiceStub
from solmu.authorisations.v1.parties_pb2 import Party, ValidityPeriod

from gateway.client import Client
from tests.bench.checks.ours import Embedded, Straight
from tests.bench.checks.world import THEME, Asked, name
from tests.bench.report import percentile

REVOCATIONS = 100
_FIRST_DELEGATE = 10**12


@dataclass
class Lags:
    """How long revocations took, in milliseconds."""

    of_instant: list[float] = field(default_factory=list)
    """From the instant that the revocation names."""
    of_request: list[float] = field(default_factory=list)
    """From the owner's request."""

    def __str__(self) -> str:
        ways = ("the instant that it names", self.of_instant), ("its request", self.of_request)
        return ", ".join(
            f"{percentile(lag, 0.5):.1f} ms (p99 {percentile(lag, 0.99):.1f}) after {since}" for since, lag in ways
        )


async def measure(owner: Client, service: Straight, consumer: Embedded) -> dict[str, Lags]:
    """How long it took, by where it was asked."""
    lags = {"in the service": Lags(), "in a consumer": Lags()}
    stub = owner.stub(MandateServiceStub)
    for number in range(REVOCATIONS):
        delegate = name("persons", _FIRST_DELEGATE + number)
        last = (datetime.now(UTC).date() + timedelta(days=30)).isoformat()
        mandate = mandates_pb2.Mandate(
            kind=mandates_pb2.Mandate.KIND_ACT,
            theme=f"themes/{THEME}",
            delegate=Party(name=delegate),
            validity=ValidityPeriod(last_day=last),
        )
        given = await owner.call(stub.CreateMandate, mandate_service_pb2.CreateMandateRequest(mandate=mandate))
        question = Asked(delegate, given.principal.name, allowed=True)
        await service.until(given.consistency_token)
        await consumer.until(given.consistency_token)
        denied = [asyncio.create_task(_denied(ask, question)) for ask in (service.one, consumer.one)]
        await asyncio.sleep(0.01)
        request, asked = mandate_service_pb2.RevokeMandateRequest(name=given.name), time.time()
        revoked = await owner.call(stub.RevokeMandate, request)
        for lag, began in zip(lags.values(), await asyncio.gather(*denied), strict=True):
            lag.of_instant.append((began - revoked.ending.end_time.ToNanoseconds() / 1e9) * 1000)
            lag.of_request.append((began - asked) * 1000)
    return lags


async def _denied(ask: Callable[[Asked], Awaitable[bool]], question: Asked) -> float:
    """When the first check began that was denied."""
    while True:
        began = time.time()
        if not await ask(question):
            return began
        await asyncio.sleep(0.0005)
