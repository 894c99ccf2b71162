"""One trace from a caller through gRPC, SQL and NATS into the service that takes the event."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from solmu.messages.v1 import units_pb2

from deploy import pki
from services.runtime import jetstream, outbox
from services.runtime.consumer import Consumer
from services.runtime.database import Connection, Database
from services.runtime.jetstream import Received
from services.runtime.outbox import Outbox
from services.runtime.telemetry import Telemetry
from tests.engines import NODE, Engines
from tests.integration.runtime.test_chain import calling, certificate, edge_metadata, get, serving
from tests.integration.runtime.test_events import at_work, nats_of, revoked, until


class Units:
    """Changes state and tells of it in one transaction, as any servicer does."""

    def __init__(self, database: Database, box: Outbox) -> None:
        self._database = database
        self._outbox = box

    async def GetUnit(self, request: units_pb2.GetUnitRequest) -> units_pb2.Unit:
        async with self._database.transaction() as transaction:
            await self._outbox.append(transaction, [outbox.event(revoked("traced"))])
        self._outbox.wake()
        return units_pb2.Unit(name=request.name)


async def test_a_call_can_be_followed_into_the_service_that_takes_its_event(
    engines: Engines,
    authorisations_database: Database,
    messages_database: Database,
    tmp_path_factory: pytest.TempPathFactory,
):
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry = Telemetry(provider)
    database = await Database.connect(
        engines.database("authorisations"), files=engines.identity("authorisations"), size=3, telemetry=telemetry
    )
    handled: list[Received] = []

    async def handle(_: Connection, events: Sequence[Received]) -> None:
        handled.extend(events)

    authority = pki.Authority.create(tmp_path_factory.mktemp("tracing"), "internal")
    async with nats_of(engines, "authorisations") as owner, nats_of(engines, "messages") as reader:
        await jetstream.declare(owner, "authorisations", replicas=1)
        box = Outbox(database=database, nats=owner, node=NODE, service="authorisations", telemetry=telemetry)
        consumer = Consumer(
            service="messages",
            publisher="authorisations",
            database=messages_database,
            nats=reader,
            handle=handle,
            telemetry=telemetry,
        )
        async with (
            at_work(box.relay(), consumer.run()),
            serving(certificate(authority, "messages"), telemetry, Units(database, box)) as listening,
            calling(listening, certificate(authority, "edge")) as channel,
        ):
            with telemetry.span("the caller"):
                carried = telemetry.outgoing()
                await get(channel, metadata=[*edge_metadata(), *carried.items()])

            async def taken() -> bool:
                return any(event.trace.split("-")[1:2] == carried["traceparent"].split("-")[1:2] for event in handled)

            await until(taken)
    await database.close()

    trace = int(carried["traceparent"].split("-")[1], 16)
    spans = [span for span in exporter.get_finished_spans() if span.context and span.context.trace_id == trace]
    path = ["the caller", "solmu.messages.v1.UnitService.GetUnit"]
    assert chain_of(spans, "postgresql transaction") == [*path, "postgresql transaction"]
    published = chain_of(spans, "publish solmu.authorisations.v1.ClientRevoked")
    assert published == [*path, "postgresql transaction", "publish solmu.authorisations.v1.ClientRevoked"]
    assert chain_of(spans, "process authorisations") == [*published, "process authorisations"]


def chain_of(spans: Sequence[ReadableSpan], name: str) -> list[str]:
    """The names from the root to the span of this name."""
    by_id = {span.context.span_id: span for span in spans if span.context}
    span = next(span for span in spans if span.name == name)
    names = [span.name]
    while span.parent is not None and span.parent.span_id in by_id:
        span = by_id[span.parent.span_id]
        names.insert(0, span.name)
    return names
