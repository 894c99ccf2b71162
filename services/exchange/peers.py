"""Connections to other nodes: mutual TLS with the certificates that the directory pins, kept open.

A peer's certificate must be one that the directory has for the node that is
called: the pinned certificates themselves are what the handshake trusts, so
that no authority can speak for a node. The publisher of a mesh that was just
joined is known by its anchor only, and trusted by the authorities named there.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from cryptography import x509
from solmu.exchange.v1 import directory_pb2, peer_frames_pb2, peer_pb2_grpc

from services.exchange import keys
from services.exchange.documents import Anchor
from services.exchange.keys import KeyRing, OrganisationKey
from services.exchange.meshes import Meshes
from services.runtime.errors import Fault, Unavailable
from services.runtime.server import FLAT, MAX_HEADER_BYTES, MAX_MESSAGE_BYTES
from services.runtime.telemetry import Telemetry

logger = logging.getLogger(__name__)

OLD_CHANNEL_GRACE = 30.0
"""Seconds that calls on a replaced connection have to end."""

OPTIONS = [
    *FLAT,
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", MAX_HEADER_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.enable_retries", 0),
]

if TYPE_CHECKING:
    _Methods = peer_pb2_grpc.PeerServiceAsyncStub
else:
    _Methods = object  # they are looked up

_NOT_YET = frozenset({grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING})

_EXCHANGE = "/solmu.exchange.v1.PeerService/Exchange"


class PeerStub(_Methods):
    """The methods of a node at one of its addresses. Calls carry the trace that they belong to."""

    def __init__(self, channel: grpc.aio.Channel, telemetry: Telemetry) -> None:
        self._channel = channel
        self._telemetry = telemetry
        self._stub = peer_pb2_grpc.PeerServiceStub(channel)
        self._exchange_whole = channel.unary_stream(
            _EXCHANGE,
            request_serializer=peer_frames_pb2.ExchangeRequest.SerializeToString,
            response_deserializer=peer_frames_pb2.ExchangeResponse.FromString,
        )

    async def connected(self) -> bool:
        """Whether a connection is open, once one that was not has been tried."""
        while (state := self._channel.get_state(try_to_connect=True)) in _NOT_YET:
            await self._channel.wait_for_state_change(state)
        return state is grpc.ChannelConnectivity.READY

    def exchange_whole(self, request: peer_frames_pb2.ExchangeRequest) -> Any:
        """`Exchange` with the only frame of its request: what begins, carries and ends it goes out in one piece."""
        return self._exchange_whole(request, metadata=self._metadata())

    def __getattr__(self, method: str) -> Callable[..., Any]:
        call = getattr(self._stub, method)
        return lambda *given, **named: call(*given, metadata=self._metadata(), **named)

    def _metadata(self) -> list[tuple[str, str]]:
        return list(self._telemetry.outgoing().items())


@dataclass
class Circuit:
    """How a peer has answered of late. After so many failures in a row it is passed over for a while."""

    failures: int = 0
    passed_over_until: float = 0.0
    last_failure: str = ""
    last_answer: float = 0.0
    calls: int = 0

    @contextmanager
    def call(self) -> Iterator[None]:
        """A call under way."""
        self.calls += 1
        try:
            yield
        finally:
            self.calls -= 1

    def open(self) -> bool:
        """Whether the peer is to be passed over now."""
        return time.monotonic() < self.passed_over_until

    def failed(self, reason: str, *, most: int, pause: float) -> None:
        """Counts a failure. One call is let through after each pause; where it fails too, the next pause begins."""
        self.failures += 1
        self.last_failure = reason
        if self.failures >= most:
            self.passed_over_until = time.monotonic() + pause

    def answered(self) -> None:
        """Closes the circuit."""
        self.failures, self.passed_over_until, self.last_failure = 0, 0.0, ""
        self.last_answer = time.time()


@dataclass
class _Connection:
    """The channels of a node, one per address, and what they were made of."""

    made_of: tuple[object, ...]
    channels: list[grpc.aio.Channel]
    stubs: list[PeerStub]
    circuit: Circuit
    entry: directory_pb2.Node | None = None
    """The node's entry in the directory when it was last compared with `made_of`."""
    own: OrganisationKey | None = None
    """This node's key, likewise."""


class Peers:
    """The connections of a process."""

    def __init__(self, *, ring: KeyRing, meshes: Meshes, telemetry: Telemetry) -> None:
        self._ring = ring
        self._telemetry = telemetry
        self._meshes = meshes
        self._connections: dict[str, _Connection] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def stubs(self, node: str) -> list[PeerStub]:
        """A stub per address of a node. Raises Unavailable, PEER_UNAVAILABLE, where it cannot be called."""
        return self._connected(node).stubs

    def circuit(self, node: str) -> Circuit:
        """How a node has answered of late."""
        connection = self._connections.get(node)
        return connection.circuit if connection is not None else Circuit()

    def connections(self, node: str) -> int:
        """How many connections to a node are open."""
        connection = self._connections.get(node)
        channels = connection.channels if connection is not None else []
        return sum(channel.get_state() is grpc.ChannelConnectivity.READY for channel in channels)

    def known(self) -> dict[str, Circuit]:
        """The nodes that were called, and how they have answered."""
        return {node: connection.circuit for node, connection in self._connections.items()}

    def publisher(self, anchor: Anchor) -> Iterator[tuple[grpc.aio.Channel, PeerStub]]:
        """A channel to each address of a publisher; who asked closes them."""
        publisher = anchor.document.publisher
        roots = b"".join(keys.pem(certificate) for certificate in publisher.authorities)
        for address in publisher.addresses:
            channel = self._channel(address, roots, name="")
            yield channel, PeerStub(channel, self._telemetry)

    async def close(self) -> None:
        """Closes all connections."""
        for connection in self._connections.values():
            for channel in connection.channels:
                await channel.close()

    def _connected(self, node: str) -> _Connection:
        entry = self._meshes.directory_of(node).nodes.get(node)
        if entry is None:
            raise Unavailable("PEER_UNAVAILABLE", "the directory has no such node")
        own = self._own_key()
        connection = self._connections.get(node)
        if connection is not None and connection.entry is entry and connection.own is own:
            return connection
        pinned = [key.certificate for key in entry.keys if key.use == directory_pb2.KEY_USE_TLS]
        made_of = (own.certificate, tuple(pinned), tuple(str(address) for address in entry.addresses))
        if connection is None or connection.made_of != made_of:
            if connection is not None:
                self._retire(connection.channels)
            roots = b"".join(keys.pem(certificate) for certificate in pinned)
            names = [_server_name(certificate) for certificate in pinned]
            channels = [
                self._channel(address, roots, name=address.host if address.host in names else next(iter(names), ""))
                for address in entry.addresses
            ]
            stubs = [PeerStub(channel, self._telemetry) for channel in channels]
            connection = _Connection(made_of, channels, stubs, connection.circuit if connection else Circuit())
            self._connections[node] = connection
        connection.entry, connection.own = entry, own
        return connection

    def _own_key(self) -> OrganisationKey:
        owner = self._meshes.node.rpartition("/")[0]
        own = self._ring.active(directory_pb2.KEY_USE_TLS, owner)
        if own is None:
            raise Unavailable("PEER_UNAVAILABLE", "this node has no key with which to prove itself to others")
        return own

    def _channel(self, address: directory_pb2.Node.Address, roots: bytes, *, name: str) -> grpc.aio.Channel:
        own = self._own_key()
        credentials = grpc.ssl_channel_credentials(roots, keys.private_pem(own.private), keys.pem(own.certificate))
        options = [*OPTIONS, ("grpc.ssl_target_name_override", name)] if name else OPTIONS
        return grpc.aio.secure_channel(f"{_bracketed(address.host)}:{address.port}", credentials, options=options)

    def _retire(self, channels: Sequence[grpc.aio.Channel]) -> None:
        for channel in channels:
            task = asyncio.create_task(channel.close(OLD_CHANNEL_GRACE))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def unreachable(error: grpc.RpcError | Fault) -> bool:
    """Whether an error says that nobody answered."""
    if isinstance(error, Fault):
        return error.reason == "PEER_UNAVAILABLE"
    code = error.code() if isinstance(error, grpc.aio.AioRpcError) else None
    return code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


def _server_name(certificate: bytes) -> str:
    """A name that a pinned certificate has: the handshake wants one, whatever the address is."""
    try:
        loaded = x509.load_der_x509_certificate(certificate)
        names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return ""
    for kind in (x509.DNSName, x509.IPAddress):
        for name in names.get_values_for_type(kind):
            return str(name)
    return ""


def _bracketed(host: str) -> str:
    try:
        return f"[{host}]" if ipaddress.ip_address(host).version == 6 else host
    except ValueError:
        return host
