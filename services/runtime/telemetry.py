"""Traces, metrics and logs of one process.

Logs are JSON lines on standard error. Metrics are Prometheus text on a port of
their own. Traces go out by OTLP where an address is set; without one a call
pays nothing for them. None of the three carries personal data, payload or a
secret: attributes are names of methods, statements and states.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import prometheus_client
from cryptography import x509
from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from services.runtime.config import Address, ProcessSettings

CALLS = prometheus_client.Counter("solmu_calls", "Calls served, by method and status", ["method", "code"])
CALL_SECONDS = prometheus_client.Histogram(
    "solmu_call_seconds",
    "Time to serve a call, in seconds",
    ["method"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15),
)
STREAMS_OPEN = prometheus_client.Gauge("solmu_streams_open", "Streaming calls being served", ["method"])
OUTBOX_WAITING = prometheus_client.Gauge("solmu_outbox_waiting", "Events decided and not yet published")
OUTBOX_LAG_SECONDS = prometheus_client.Histogram(
    "solmu_outbox_lag_seconds",
    "Time from an event's decision to its publication, in seconds",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5, 30, 300),
)
EVENTS_HANDLED = prometheus_client.Counter("solmu_events_handled", "Events dealt with", ["publisher", "outcome"])
NOTIFICATIONS = prometheus_client.Counter(
    "solmu_notifications", "Tries to tell a resident of a message, by channel and outcome", ["channel", "outcome"]
)
EXCHANGE_WAITING = prometheus_client.Gauge("solmu_exchange_waiting", "What waits in the exchange, by queue", ["queue"])
EXCHANGE_OLDEST_SECONDS = prometheus_client.Gauge(
    "solmu_exchange_oldest_seconds", "For how long the oldest in a queue of the exchange has waited", ["queue"]
)
CLOCK_HELD = prometheus_client.Gauge(
    "solmu_clock_held", "1 while nothing that waits for its time moves, since clocks disagree or one has jumped"
)
EVENTS_PENDING = prometheus_client.Gauge(
    "solmu_events_pending", "Events of a publisher that this service has not been given yet", ["publisher"]
)
TRANSACTIONS = prometheus_client.Counter(
    "solmu_transactions",
    "What was accepted and committed: messages, letters, calls and envelopes, by whether it left or came",
    ["channel", "direction"],
)
TIME_STAMPS_WAITING = prometheus_client.Gauge("solmu_time_stamps_waiting", "Statements without their time stamp yet")
TIME_STAMP_WAIT_SECONDS = prometheus_client.Gauge(
    "solmu_time_stamp_wait_seconds", "How long the oldest of those statements has waited"
)
DATABASE_CONNECTIONS = prometheus_client.Gauge(
    "solmu_database_connections", "Connections of this process to its database, by use", ["state"]
)
CERTIFICATE_EXPIRY = prometheus_client.Gauge(
    "solmu_certificate_expiry_seconds", "When the certificate of this process ends, as a Unix time; 0 if unreadable"
)

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and whatever `extra` holds.

    Of an exception it writes the types and the places in the code, never the
    texts: those of drivers quote rows.
    """

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = describe(record.exc_info[1])
        return json.dumps(line, default=str, ensure_ascii=False)


def describe(error: BaseException) -> list[str]:
    """An exception and its causes as types and places in the code, without their texts."""
    lines: list[str] = []
    current: BaseException | None = error
    while current is not None:
        kind = type(current)
        lines.append(f"{kind.__module__}.{kind.__qualname__}")
        lines += [
            f"  {frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(current.__traceback__)
        ]
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return lines


def start(service: str, settings: ProcessSettings, *, metrics: Address | None) -> Telemetry:
    """Sets up logs, metrics and traces for this process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(service))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    logging.getLogger("nats").setLevel(logging.CRITICAL)  # its reconnects are logged by ours, in one line each
    CERTIFICATE_EXPIRY.set_function(lambda: _expiry(settings.certificate))
    if metrics is not None:
        prometheus_client.start_http_server(metrics.port, metrics.host)
    provider = None
    if settings.otlp_endpoint:
        provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.trace_ratio)),
            resource=Resource.create({"service.name": service, "service.namespace": settings.node}),
        )
        exporter = OTLPSpanExporter(endpoint=settings.otlp_endpoint, insecure=True)
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
    return Telemetry(provider)


def _expiry(certificate: Path) -> float:
    """When the certificate in a file ends, as a Unix time. Read when it is asked for, as it changes on disk."""
    try:
        return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc.timestamp()
    except (OSError, ValueError):
        return 0.0


class Telemetry:
    """Spans of this process; without a provider every method is nearly free."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("solmu") if provider else None

    @contextmanager
    def span(
        self,
        name: str,
        kind: trace.SpanKind = trace.SpanKind.INTERNAL,
        *,
        carrier: Mapping[str, str] | None = None,
        **attributes: str | int,
    ) -> Iterator[None]:
        """A span around a block; its parent is the one in `carrier` (traceparent), else the current one."""
        if self._tracer is None:
            yield
            return
        parent = propagate.extract(carrier) if carrier is not None else None
        with self._tracer.start_as_current_span(
            name,
            context=parent,
            kind=kind,
            attributes={key.replace("_", "."): value for key, value in attributes.items()},
            record_exception=False,  # texts of exceptions may quote rows
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except Exception as error:
                span.set_status(trace.StatusCode.ERROR)
                span.set_attribute("error.type", type(error).__qualname__)
                raise

    def outgoing(self) -> dict[str, str]:
        """The current trace context as headers to send on; empty where nothing is traced."""
        carrier: dict[str, str] = {}
        if self._tracer is not None:
            propagate.inject(carrier, context=otel_context.get_current())
        return carrier

    def stop(self) -> None:
        """Sends what is left."""
        if self._provider is not None:
            self._provider.shutdown()
