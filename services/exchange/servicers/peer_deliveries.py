"""PeerService: what other nodes bring, ask for, and subscribe to."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from solmu.exchange.v1 import exchanges_pb2, peer_frames_pb2, peer_pb2, statements_pb2

from services.exchange import envelope_store, proving
from services.exchange.arriving import Arriving
from services.exchange.bodies_at_rest import IncomingBody
from services.exchange.evidence import statements
from services.exchange.evidence.statements import Statement
from services.exchange.journal import Journal
from services.exchange.meshes import Meshes
from services.exchange.subscribing import Subscribing
from services.exchange.words import DeliverResponse, refused, taken_word
from services.runtime import identity
from services.runtime.database import Database
from services.runtime.errors import Fault, InvalidArgument, PermissionDenied


class PeerDeliveries:
    """Takes what peers bring."""

    def __init__(
        self, *, database: Database, meshes: Meshes, arriving: Arriving, subscribing: Subscribing, journal: Journal
    ) -> None:
        self._database = database
        self._meshes = meshes
        self._arriving = arriving
        self._subscribing = subscribing
        self._journal = journal

    async def Deliver(self, requests: AsyncIterator[peer_frames_pb2.DeliverRequest]) -> AsyncIterator[DeliverResponse]:
        """Takes envelopes, receipts and rejections, and gives its word on each, in their order."""
        peer, items = identity.caller().node, _Items(requests)
        async for item in items:
            if item.WhichOneof("item") == "receipt":
                yield await self._receipt(peer, item)
            elif item.WhichOneof("item") == "envelope":
                yield await self._envelope(peer, item.envelope, items)
            else:
                raise InvalidArgument("FRAMES_INVALID", "bytes of a body come after an envelope only")

    async def Collect(self, request: peer_pb2.CollectRequest) -> peer_pb2.CollectResponse:
        """Has what waits, or what was sent in a time, be brought now."""
        if not self._meshes.serves(identity.caller().node, request.recipient):
            raise PermissionDenied("PEER_NOT_AUTHORISED", "the node does not serve the recipient")
        now = datetime.now(UTC)
        start = request.start_time.ToDatetime(UTC)
        end = request.end_time.ToDatetime(UTC) if request.HasField("end_time") else None
        if not request.topic and request.HasField("start_time"):
            count = await envelope_store.again(self._database, request.recipient, start=start, end=end)
            return peer_pb2.CollectResponse(count=count)
        if not request.topic:
            return peer_pb2.CollectResponse(
                count=await envelope_store.wake(self._database, [request.recipient], now=now)
            )
        self._subscribing.check_right(request.topic, request.recipient)
        count = await self._subscribing.again(request.topic, request.recipient, start=start, end=end)
        response = peer_pb2.CollectResponse(count=count)
        oldest = await envelope_store.oldest_of_topic(self._database, request.topic)
        if oldest is not None:
            response.oldest_time.FromDatetime(oldest)
        return response

    async def Subscribe(self, request: peer_pb2.SubscribeRequest) -> peer_pb2.SubscribeResponse:
        """Enters or ends a subscription."""
        entered = await self._subscribing.enter(identity.caller().node, request.subscriber, request.subscription)
        return peer_pb2.SubscribeResponse(subscription=entered)

    async def _receipt(self, peer: str, item: peer_frames_pb2.DeliverRequest) -> DeliverResponse:
        sha256 = hashlib.sha256(item.receipt.statement).digest()
        try:
            return taken_word(sha256, await self._arriving.take_receipt(peer, item.receipt))
        except Fault as fault:
            await self._keep_refused(peer, item.receipt, fault, side=exchanges_pb2.SIDE_CONSUMER)
            return refused(sha256, fault)

    async def _envelope(self, peer: str, brought: peer_frames_pb2.BroughtEnvelope, items: _Items) -> DeliverResponse:
        sha256 = hashlib.sha256(brought.proof.statement).digest()
        to, replayed = brought.recipients, brought.replayed
        body = None
        try:
            entry = self._arriving.admit(peer, brought.proof, recipients=to, replayed=replayed)
            await self._arriving.check_room(to)
            body = self._arriving.body_of(entry.statement, brought.on_behalf_of)
            await items.body(body, entry.statement)
            return taken_word(sha256, await self._arriving.take(entry, body, recipients=to, replayed=replayed))
        except Fault as fault:
            await items.skip()
            await self._keep_refused(peer, brought.proof, fault, side=exchanges_pb2.SIDE_PROVIDER)
            return refused(sha256, fault)
        finally:
            if body is not None:
                body.close()

    async def _keep_refused(
        self, peer: str, proof: statements_pb2.Proof, fault: Fault, *, side: exchanges_pb2.Side.ValueType
    ) -> None:
        """Keeps a proof that does not hold: it is evidence as well."""
        if proving.proves_nothing(fault):
            subject = _subject(proof.statement)
            await self._journal.refuse(exchange_id=subject, node=peer, reason=fault.reason, proof=proof, side=side)


def _subject(content: bytes) -> str:
    """The envelope that a statement says it is about; empty where it says nothing."""
    try:
        return statements.parse(content).lines["id"]
    except Fault:
        return ""


class _Items:
    """The frames of a stream, with a look at the next one."""

    def __init__(self, requests: AsyncIterator[peer_frames_pb2.DeliverRequest]) -> None:
        self._requests = requests
        self._next: peer_frames_pb2.DeliverRequest | None = None

    def __aiter__(self) -> _Items:
        return self

    async def __anext__(self) -> peer_frames_pb2.DeliverRequest:
        item, self._next = self._next, None
        return item if item is not None else await anext(self._requests)

    async def body(self, body: IncomingBody, statement: Statement) -> None:
        """Reads a body to its end: what is no bytes of it, or more than the statement says, ends it."""
        expected = int(statement.lines["body-bytes"])
        while body.size < expected:
            item = await anext(self, None)
            if item is None or item.WhichOneof("item") != "chunk":
                self._next = item
                return
            await body.write(item.chunk)

    async def skip(self) -> None:
        """Leaves out what is left of a body that nobody wants."""
        async for item in self:
            if item.WhichOneof("item") != "chunk":
                self._next = item
                return
