"""How long after its commit a revocation is in effect: in the service, and in a consumer that holds the facts.

Asked without a pause while a mandate is revoked through the edge: the time is
that from the instant which the revocation itself names, which lies before the
commit, to the beginning of the first check that is denied.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
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


async def measure(owner: Client, service: Straight, consumer: Embedded) -> dict[str, tuple[float, float]]:
    """Median and 99th percentile in milliseconds, by where it was asked."""
    lags: dict[str, list[float]] = {"in the service": [], "in a consumer": []}
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
        request = mandate_service_pb2.RevokeMandateRequest(name=given.name)
        revoked = await owner.call(stub.RevokeMandate, request)
        for lag, began in zip(lags.values(), await asyncio.gather(*denied), strict=True):
            lag.append((began - revoked.ending.end_time.ToNanoseconds() / 1e9) * 1000)
    return {where: (percentile(lag, 0.5), percentile(lag, 0.99)) for where, lag in lags.items()}


async def _denied(ask: Callable[[Asked], Awaitable[bool]], question: Asked) -> float:
    """When the first check began that was denied."""
    while True:
        began = time.time()
        if not await ask(question):
            return began
        await asyncio.sleep(0.0005)
