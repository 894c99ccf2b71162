"""What the configuration is rendered from, and the limits of the edge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.routes import Door, Endpoint, Route
from services.runtime.config import Address, Instances

Json = dict[str, Any]
"""A message of Envoy's API in its JSON form."""

ADAPTERS = "gateway"
"""Upstream that serves the foreign protocols: the gateway process itself."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the edge takes before it refuses. Each guards the memory or the time of the one process that all share."""

    connections: int = 10_000
    """Open connections. At some 50 kB each with TLS this is half a gigabyte; `heap_bytes` may end it sooner."""
    heap_bytes: int = 384 << 20
    """Memory of Envoy, short of which it sheds (`bootstrap.SHEDDING`); three quarters of what containers give it."""
    calls_per_second: int = 20_000
    """Calls of all clients together; several times what one core of Envoy carries, so that it stops floods only."""
    client_calls_per_second: int = 2000
    """Calls of one client in the long run: a case system sends a city's decisions of a year in minutes with that."""
    client_burst: int = 4000
    """Calls that one client may make at once after a pause."""
    counted_clients: int = 10_000
    """Clients whose calls are counted at a time, some 200 bytes each; who has not called for longest makes room."""
    browser_calls_per_second: int = 500
    """Calls of all browsers together, who are strangers: some 50 people who begin to log in each second."""
    connection_seconds: int = 300
    """Age at which a connection is asked to close, in seconds. A CRL is looked at in handshakes only, so a revoked
    certificate works at most this long; equal to the life of a token, whose binding it would otherwise outlive."""
    idle_seconds: int = 300
    """Time without any call after which a connection is closed, in seconds."""
    stalled_seconds: int = 60
    """Time without a byte after which a call is given up, in seconds; streams from the server are excepted."""
    headers_seconds: int = 10
    """Time in which all request headers must have come, in seconds (slowloris)."""
    handshake_seconds: int = 5
    """Time in which the TLS handshake must be done, in seconds."""
    header_kilobytes: int = 32
    """All request headers together, in KiB. A token takes 1 to 2."""
    headers: int = 64
    """Number of request headers. A browser sends some 20."""
    streams_per_connection: int = 128
    """Calls at once on one connection; a client that needs more opens another."""
    stream_window_bytes: int = 256 << 10
    """Bytes of one request that a client may have under way: 5 MB/s at a round trip of 50 ms."""
    connection_window_bytes: int = 1 << 20
    """Bytes of all requests of a connection that may be under way."""
    buffer_bytes: int = 1 << 20
    """Bytes that one connection may hold in Envoy's buffers before it is no longer read from."""
    json_bytes: int = 4 << 20
    """A JSON body, which has to be held whole to be translated; gRPC's own limit for one message."""
    json_answer_bytes: int = 16 << 20
    """A JSON answer, held whole too: that limit, and what escapes and names add to it."""
    token_bytes: int = 4096
    """An access token that may be cached. Ours have some 900 bytes."""
    cached_tokens: int = 1000
    """Tokens whose signature is not verified again while they last: about the clients of one node, some 2 kB each."""
    upstream_streams: int = 100
    """Calls at once on one connection to an instance of a service; RFC 9113, section 6.5.2, recommends no less. Calls
    on one connection are written together: with 32, fifty callers cost the edge 7 % more. Where processes of a
    service share a port, a connection belongs to one of them, and this is when the next is called."""
    upstream_calls: int = 4096
    """Calls at once to one service, streams among them; what is over it is told to come back later."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that Envoy's configuration depends on, but for keys and certificates."""

    node: str
    """Name of the node, the trust domain of its SPIFFE identities."""
    issuer: str
    """Issuer and audience of the tokens accepted: the origin of the edge."""
    listen: Address
    """The public port, for information systems."""
    folder: Path
    """Absolute path of the folder from which Envoy reads its files."""
    upstreams: Mapping[str, Instances]
    """Where the processes of each service are, by name; `gateway` for the adapters."""
    routes: tuple[Route, ...]
    endpoints: tuple[Endpoint, ...]
    descriptors: str
    """Name of the file in `folder` with the descriptor set of the routes."""
    browser_listen: Address | None = None
    """The public port for browsers; None where the node has none."""
    traces: Address | None = None
    """Where spans go by OTLP; None for nowhere."""
    trace_ratio: float = 0.01
    """Share of calls traced that did not come with a decision of their own, 0 to 1."""
    limits: Limits = field(default_factory=Limits)

    @property
    def doors(self) -> dict[Door, Address]:
        """The public ports that there are."""
        browsers = {Door.BROWSERS: self.browser_listen} if self.browser_listen else {}
        return {Door.SYSTEMS: self.listen, **browsers}
