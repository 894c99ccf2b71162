"""ExchangeService and MonitoringService: what is remembered of calls, and how the exchange is doing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from solmu.exchange.v1 import exchanges_pb2, monitoring_pb2, peer_pb2
from solmu.exchange.v1.identifiers_pb2 import Requester

from services.exchange import backlog_store, exchange_store, names
from services.exchange.backlog import Backlogs
from services.exchange.meshes import Meshes
from services.exchange.peers import Circuit, Peers
from services.exchange.requesters import Requesters
from services.exchange.servicers.directory import page
from services.exchange.servicers.peer_calls import PROTOCOL
from services.exchange.servicers.timestamps import timestamp
from services.runtime import pages
from services.runtime.database import Database, Row
from services.runtime.errors import Fault, InvalidArgument, not_found

logger = logging.getLogger(__name__)

DEFAULT_SIZE = 100

GREET_WITHIN = 2.0
"""Seconds for a peer to say how it stands."""

Exchange = exchanges_pb2.Exchange


class Exchanges:
    """Looks up exchanges. A client sees those of its own subsystems."""

    def __init__(self, *, database: Database, requesters: Requesters) -> None:
        self._database = database
        self._requesters = requesters

    async def GetExchange(self, request: exchanges_pb2.GetExchangeRequest) -> exchanges_pb2.Exchange:
        """An exchange; where both sides were the caller's, as one."""
        rows = await exchange_store.exchange(
            self._database,
            UUID(request.name.split("/")[1]),
            subsystems=self._requesters.seen(request.requester),
        )
        if not rows:
            raise not_found(request.name)
        shown = view(rows[0])
        if len(rows) > 1:
            shown.side = exchanges_pb2.SIDE_BOTH
        return shown

    async def ListExchanges(self, request: exchanges_pb2.ListExchangesRequest) -> exchanges_pb2.ListExchangesResponse:
        """Exchanges, latest first; those within the node once for each side."""
        subsystems = self._requesters.seen(request.requester)
        question = f"{subsystems} {_filters(request)}"
        size, key = pages.size(request.page_size, DEFAULT_SIZE), pages.key(request.page_token, question=question)
        rows = await exchange_store.exchanges(
            self._database,
            subsystems=subsystems,
            side=request.side,
            counterpart=names.identifier(request.counterpart, 4) if request.counterpart else "",
            service=names.service(request.service) if request.service else "",
            message_id=request.message_id,
            outcomes=list(request.outcomes),
            start=_instant(request, "start_time"),
            end=_instant(request, "end_time"),
            before=_place(key) if key else None,
            limit=size + 1,
        )
        response = exchanges_pb2.ListExchangesResponse(exchanges=[view(row) for row in rows[:size]])
        if len(rows) > size:
            last = rows[size - 1]
            response.next_page_token = pages.token(_key(last, last["start_time"]), question=question)
        return response


@dataclass(frozen=True)
class Greeting:
    """How a peer has answered to a greeting: its word, and by how much its clock differs."""

    response: peer_pb2.GreetResponse
    clock_offset: timedelta


class Monitoring:
    """Answers about traffic, peers and what waits."""

    def __init__(
        self, *, database: Database, requesters: Requesters, meshes: Meshes, peers: Peers, backlogs: Backlogs
    ) -> None:
        self._database = database
        self._requesters = requesters
        self._meshes = meshes
        self._peers = peers
        self._backlogs = backlogs

    async def GetBacklog(self, _: monitoring_pb2.GetBacklogRequest) -> monitoring_pb2.Backlog:
        """What waits."""
        return await self._backlogs.read()

    async def ExportExchanges(
        self, request: monitoring_pb2.ExportExchangesRequest
    ) -> AsyncIterator[monitoring_pb2.ExportedExchange]:
        """Exchanges that ended at an instant or later, oldest first."""
        rows = exchange_store.ended(
            self._database,
            subsystems=self._subsystems(request),
            start=_instant(request, "start_time"),
            end=_instant(request, "end_time"),
            after=_place(request.cursor) if request.cursor else None,
        )
        async for row in rows:
            yield monitoring_pb2.ExportedExchange(exchange=view(row), cursor=_key(row, row["end_time"]))

    async def SummariseTraffic(
        self, request: monitoring_pb2.SummariseTrafficRequest
    ) -> monitoring_pb2.SummariseTrafficResponse:
        """Traffic summed up by service, consumer or hour."""
        question = f"{request.requester} {request.side} {request.group_by} {request.start_time} {request.end_time}"
        size, key = pages.size(request.page_size, DEFAULT_SIZE), pages.key(request.page_token, question=question)
        skip = int(key or 0)
        rows = await exchange_store.traffic(
            self._database,
            subsystems=self._subsystems(request),
            side=request.side,
            start=request.start_time.ToDatetime(UTC),
            end=_instant(request, "end_time"),
            group_by=request.group_by,
            skip=skip,
            limit=size + 1,
        )
        response = monitoring_pb2.SummariseTrafficResponse(
            traffic=[_traffic(row, request.group_by) for row in rows[:size]]
        )
        if len(rows) > size:
            response.next_page_token = pages.token(str(skip + size), question=question)
        return response

    async def ListPeers(self, request: monitoring_pb2.ListPeersRequest) -> monitoring_pb2.ListPeersResponse:
        """Peer nodes: whether they answer, how they have answered this process's calls, and what waits for them."""
        nodes = {
            node: monitoring_pb2.Peer(node=names.resource("nodes", node))
            for mesh in self._meshes.all()
            if mesh.directory is not None
            for node in mesh.directory.nodes
            if node != self._meshes.node
        }
        found, token = page(list(nodes.items()), request.page_size, request.page_token)
        asked = [names.identifier(peer.node, 4) for peer in found]
        greetings = await asyncio.gather(*(self._greet(node) for node in asked))
        waiting, logs = await backlog_store.of_peers(self._database), await backlog_store.logs(self._database)
        for node, peer, greeting in zip(asked, found, greetings, strict=True):
            _show_circuit(peer, self._peers.known().get(node))
            peer.connections = self._peers.connections(node)
            if greeting is not None:
                _show_greeting(peer, greeting)
            if (log := logs.get(node)) is not None:
                peer.countersigned_tree_size, peer.log_contradicted = log["tree_size"], log["contradicted"]
            for subsystem, row in waiting.items():
                if self._meshes.serves(node, subsystem):
                    _show_waiting(peer, row)
        return monitoring_pb2.ListPeersResponse(peers=found, next_page_token=token)

    async def _greet(self, node: str) -> Greeting | None:
        """Asks a peer how it stands; None where it does not answer."""
        began = datetime.now(UTC)
        try:
            (stub, *_) = self._peers.stubs(node)
            response = await stub.Greet(peer_pb2.GreetRequest(protocols=[PROTOCOL]), timeout=GREET_WITHIN)
        except (Fault, grpc.RpcError, ValueError) as error:
            logger.info("a peer does not answer", extra={"peer": node, "error": type(error).__qualname__})
            return None
        halfway = began + (datetime.now(UTC) - began) / 2
        return Greeting(response, response.time.ToDatetime(UTC) - halfway)

    def _subsystems(
        self, request: monitoring_pb2.ExportExchangesRequest | monitoring_pb2.SummariseTrafficRequest
    ) -> Sequence[str] | None:
        """Whose traffic; None: the whole node's, where no requester is named."""
        named = request.requester.subsystem or request.requester.certificate_sha256
        return self._requesters.seen(request.requester) if named else None


def view(row: Row) -> exchanges_pb2.Exchange:
    """An exchange as the contract shows it."""
    return Exchange(
        name=f"exchanges/{row['exchange_id']}",
        side=row["side"],
        message_id=row["message_id"],
        consumer=names.resource("subsystems", row["consumer"]),
        service=names.service_resource(row["service"]),
        consumer_node=names.resource("nodes", row["consumer_node"]),
        provider_node=names.resource("nodes", row["provider_node"]),
        method=row["method"],
        status=row["status"],
        outcome=row["outcome"],
        reason=row["reason"],
        refused_by=row["refused_by"],
        on_behalf=row["on_behalf"],
        request_statement=_statement(row["request_sha256"]),
        response_statement=_statement(row["response_sha256"]),
        evidence_state=row["evidence_state"],
        measurement=Exchange.Measurement.FromString(row["measurement"]),
        start_time=timestamp(row["start_time"]),
        end_time=timestamp(row["end_time"]),
    )


def _statement(sha256: bytes | None) -> str:
    return f"statements/{sha256.hex()}" if sha256 is not None else ""


def _traffic(row: Row, group_by: int) -> monitoring_pb2.Traffic:
    GroupBy = monitoring_pb2.SummariseTrafficRequest.GroupBy  # noqa: N806  # the contract's enum
    shown = monitoring_pb2.Traffic(
        count=row["count"],
        answered=row["answered"],
        backend_errors=row["backend_errors"],
        refused=row["refused"],
        broken=row["broken"],
        request_bytes=row["request_bytes"],
        response_bytes=row["response_bytes"],
        backend_share=row["backend_share"],
    )
    shown.median.FromTimedelta(timedelta(seconds=row["seconds"][0]))
    shown.p99.FromTimedelta(timedelta(seconds=row["seconds"][1]))
    if group_by == GroupBy.GROUP_BY_SERVICE:
        shown.service = names.service_resource(row["heading"])
    elif group_by == GroupBy.GROUP_BY_CONSUMER:
        shown.consumer = names.resource("subsystems", row["heading"])
    elif group_by == GroupBy.GROUP_BY_HOUR:
        shown.hour.FromDatetime(datetime.fromisoformat(row["heading"]))
    return shown


def _show_waiting(peer: monitoring_pb2.Peer, row: Row) -> None:
    peer.envelopes_waiting += row["number"]
    if not peer.HasField("oldest_envelope_time") or row["oldest"] < peer.oldest_envelope_time.ToDatetime(UTC):
        peer.oldest_envelope_time.FromDatetime(row["oldest"])


def _show_greeting(peer: monitoring_pb2.Peer, greeting: Greeting) -> None:
    State = monitoring_pb2.Peer.State  # noqa: N806  # the contract's enum
    peer.directory_version = greeting.response.directory_version
    peer.clock_offset.FromTimedelta(greeting.clock_offset)
    if greeting.response.maintenance:
        peer.state = State.STATE_MAINTENANCE
    elif peer.state in (State.STATE_UNSPECIFIED, State.STATE_UNREACHABLE):
        peer.state = State.STATE_REACHABLE
    peer.last_answer_time.GetCurrentTime()


def _show_circuit(shown: monitoring_pb2.Peer, circuit: Circuit | None) -> None:
    State = monitoring_pb2.Peer.State  # noqa: N806  # the contract's enum
    if circuit is None:
        return
    shown.calls = circuit.calls
    shown.last_failure = circuit.last_failure
    if circuit.last_answer:
        shown.last_answer_time.FromSeconds(int(circuit.last_answer))
    if circuit.last_failure == "NODE_IN_MAINTENANCE":
        shown.state = State.STATE_MAINTENANCE
    elif circuit.passed_over_until > time.monotonic():
        shown.state = State.STATE_PASSED_OVER
    elif circuit.failures:
        shown.state = State.STATE_UNREACHABLE
    elif circuit.last_answer:
        shown.state = State.STATE_REACHABLE


def _filters(request: exchanges_pb2.ListExchangesRequest) -> str:
    """What a list was asked for, without its page."""
    asked = exchanges_pb2.ListExchangesRequest()
    asked.CopyFrom(request)
    asked.ClearField("page_size")
    asked.ClearField("page_token")
    asked.requester.CopyFrom(Requester())
    return asked.SerializeToString(deterministic=True).hex()


def _instant(
    request: exchanges_pb2.ListExchangesRequest
    | monitoring_pb2.ExportExchangesRequest
    | monitoring_pb2.SummariseTrafficRequest,
    name: str,
) -> datetime | None:
    value: Timestamp = getattr(request, name)
    return value.ToDatetime(UTC) if request.HasField(name) else None  # type: ignore[arg-type]  # a time of all three


def _key(row: Row, at: datetime) -> str:
    return f"{at.isoformat()} {row['exchange_id']} {row['side']}"


def _place(key: str) -> tuple[datetime, UUID, int]:
    try:
        at, exchange_id, side = key.split(" ")
        return datetime.fromisoformat(at), UUID(exchange_id), int(side)
    except ValueError:
        raise InvalidArgument("CURSOR_INVALID", "the cursor is not one of this export") from None
