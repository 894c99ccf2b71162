"""The node's events over NATS JetStream: one stream per service, CloudEvents in protobuf.

JetStream carries, PostgreSQL remembers: a stream may be lost and is filled
again from the outbox. Streams are synced to disk with every write (a setting of
the server) and hold a week; each consumer of a service has a durable of its
name there, made by the stream's owner.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import api
from nats.js.errors import NotFoundError

from services.runtime import mesh, tls

logger = logging.getLogger(__name__)

STREAM_DAYS = 7
"""How long a stream holds events: as long as a consumer may be away and catch up by itself."""

DUPLICATE_WINDOW = 600.0
"""Seconds in which JetStream itself drops an event published twice; later ones meet the consumer's inbox."""

ACK_WAIT = 5.0
"""Seconds after which an event that was not acknowledged is delivered again: a batch takes milliseconds."""

MAX_PENDING = 2000
"""Events delivered to a consumer and not acknowledged; a few batches."""

RECONNECT_WAIT = 0.2
"""Seconds between two tries to reach NATS again; for ever."""

TYPE, TIME, SOURCE, ID = "ce-type", "ce-time", "ce-source", "ce-id"


@dataclass(frozen=True)
class Received:
    """An event as it came from the stream."""

    publisher: str
    """The service that published it."""
    event_id: uuid.UUID
    type: str
    """Full name of the payload's message: "solmu.messages.v1.MessageAccepted"."""
    payload: bytes
    time: datetime
    trace: str
    """The traceparent of what caused it; may be empty."""


def headers(
    *, node: str, service: str, event_id: uuid.UUID, event_type: str, time: datetime, trace: str
) -> dict[str, str]:
    """CloudEvents 1.0 in the binary mode of the NATS binding, and JetStream's key against duplicates."""
    values = {
        "Nats-Msg-Id": str(event_id),
        "ce-specversion": "1.0",
        ID: str(event_id),
        TYPE: event_type,
        SOURCE: f"//{node}/{service}",
        TIME: time.astimezone(UTC).isoformat(),
        "content-type": "application/protobuf",
    }
    return values | ({"traceparent": trace} if trace else {})


def received(publisher: str, message: Msg) -> Received:
    """Reads an event. Raises ValueError or KeyError where it is not one of ours."""
    values = message.headers or {}
    return Received(
        publisher=publisher,
        event_id=uuid.UUID(values[ID]),
        type=values[TYPE],
        payload=message.data,
        time=datetime.fromisoformat(values[TIME]),
        trace=values.get("traceparent", ""),
    )


def subject(service: str, event_type: str) -> str:
    """The subject of an event by its payload's full name: "evt.messages.MessageAccepted"."""
    return mesh.subject(service, event_type.rpartition(".")[2])


async def connect(address: str, *, service: str, files: tls.Files | None) -> Client:
    """Connects to NATS as this service, and stays connected. Publishing while NATS is away fails at once."""

    async def disconnected() -> None:
        logger.warning("nats away")

    async def reconnected() -> None:
        logger.info("nats back")

    async def failed(error: Exception) -> None:
        logger.debug("nats error", extra={"error": type(error).__qualname__})

    return await nats.connect(
        address,
        name=service,
        tls=tls.client_context(files) if files else None,
        tls_hostname="nats" if files else None,
        error_cb=failed,
        disconnected_cb=disconnected,
        reconnected_cb=reconnected,
        max_reconnect_attempts=-1,
        reconnect_time_wait=RECONNECT_WAIT,
        connect_timeout=2,
        pending_size=0,  # a publish while NATS is away fails at once; buffered ones would come out later as ghosts
    )


async def declare(client: Client, service: str, *, replicas: int) -> None:
    """Makes, or brings up to date, the service's stream and the durables of its consumers."""
    context = client.jetstream(timeout=5)
    stream = api.StreamConfig(
        name=mesh.stream(service),
        subjects=[mesh.subject(service, ">")],
        retention=api.RetentionPolicy.LIMITS,
        storage=api.StorageType.FILE,
        max_age=STREAM_DAYS * 86_400,
        duplicate_window=DUPLICATE_WINDOW,
        num_replicas=replicas,
        allow_atomic=True,
        deny_delete=True,
    )
    try:
        await context.stream_info(stream.name or "")
    except NotFoundError:
        await context.add_stream(stream)
    else:
        await context.update_stream(stream)
    for consumer in mesh.consumers(service):
        await context.add_consumer(
            mesh.stream(service),
            api.ConsumerConfig(
                durable_name=consumer,
                deliver_policy=api.DeliverPolicy.ALL,
                ack_policy=api.AckPolicy.EXPLICIT,
                ack_wait=ACK_WAIT,
                max_ack_pending=MAX_PENDING,
                num_replicas=replicas,
            ),
        )
