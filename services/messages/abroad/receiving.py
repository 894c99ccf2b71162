"""Takes what other nodes say: deliveries of the exchange, each with effect once, and then acknowledged.

What cannot be taken is refused with its reason, which its sender gets signed;
what cannot be taken now is given back, and handed out again. Everything that is
handed out has been verified by the exchange: who sent it, and that the operator
has given that member a right to write to this node's services.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator

import protovalidate
from google.protobuf.duration_pb2 import Duration
from solmu.exchange.v1 import deliveries_pb2, deliveries_pb2_grpc, envelopes_pb2

from services.messages.abroad import parcels
from services.messages.abroad.courier import upload
from services.messages.abroad.guests import Guests
from services.messages.abroad.news import News
from services.messages.abroad.parcels import Parcel
from services.runtime.client import Peer
from services.runtime.database import PASSING
from services.runtime.errors import Aborted, Fault, Internal, InvalidArgument, Unavailable

logger = logging.getLogger(__name__)

BATCH = 20
"""Deliveries in hand at once."""

LEASE = Duration(seconds=600)
"""For how long they are in hand: some gigabytes of attachments take their time."""

PAUSE = Duration(seconds=5)
"""Until what cannot be taken now is handed out again."""

WAITS: tuple[type[Exception], ...] = (Unavailable, Aborted, Internal, *PASSING)
"""What passes, or is this node's own fault: the parcel is taken later."""

Delivery = deliveries_pb2.Delivery


class Receiving:
    """Receives parcels."""

    def __init__(self, *, exchange: Peer, guests: Guests, news: News) -> None:
        self._exchange = exchange
        self._guests = guests
        self._news = news
        self._validator = protovalidate.Validator()

    async def turn(self) -> bool:
        """Takes what has come; says whether there was something. Raises Fault while the exchange is away."""
        request = deliveries_pb2.ReceiveDeliveriesRequest(
            parent="subsystems/-", types=[parcels.TYPE], max_deliveries=BATCH, lease=LEASE
        )
        stub = self._stub()
        with self._exchange.faults():
            answer = await stub.ReceiveDeliveries(request, metadata=self._exchange.metadata())
        for delivery in answer.deliveries:
            await self._take(delivery)
        return bool(answer.deliveries)

    async def _take(self, delivery: Delivery) -> None:
        pieces = self._body(delivery)
        try:
            parcel, behind = await parcels.unpacked(pieces)
            self._check(parcel)
            await self._deal_with(delivery, parcel, _rest(behind, pieces))
        except WAITS as error:
            why = error.reason if isinstance(error, Fault) else type(error).__qualname__
            logger.warning("a parcel waits", extra={"delivery": delivery.name, "reason": why})
            await self._give_back(delivery)
        except Fault as fault:
            logger.info("a parcel was refused", extra={"delivery": delivery.name, "reason": fault.reason})
            await self._refuse(delivery, fault.reason)
        else:
            await self._acknowledge(delivery)
        finally:
            await pieces.aclose()

    def _check(self, parcel: Parcel) -> None:
        violations = self._validator.collect_violations(parcel)
        if violations:
            raise InvalidArgument("FIELD_INVALID", "the parcel breaks the contract's rules")

    async def _deal_with(self, delivery: Delivery, parcel: Parcel, content: AsyncIterator[bytes]) -> None:
        sender = delivery.sender
        match parcel.WhichOneof("content"):
            case "enquiry":
                await self._answer(delivery, await self._guests.enquire(sender, parcel.enquiry))
            case "message":
                await self._guests.message(sender, parcel.message)
            case "withdrawal":
                await self._guests.withdraw(sender, parcel.withdrawal)
            case "attachment" if parcel.attachment.in_reply_to:
                await self._news.attachment(sender, parcel.attachment, content)
            case "attachment":
                await self._guests.attachment(sender, parcel.attachment, content)
            case "finding":
                await self._news.finding(sender, parcel.finding)
            case "report":
                await self._news.report(sender, parcel.report)
            case "reply":
                await self._news.reply(sender, parcel.reply)

    async def _answer(self, delivery: Delivery, parcel: Parcel) -> None:
        envelope = envelopes_pb2.Envelope(
            subsystem=delivery.sender,
            purpose=envelopes_pb2.PURPOSE_ANSWER,
            answers=delivery.name,
            type=parcels.TYPE,
            message_id=f"answer-{delivery.name.rpartition('/')[2]}-{parcel.finding.reachable}",
            media_type=parcels.MEDIA_TYPE,
        )
        await upload(self._exchange, envelope, parcels.packed(parcel), _rest(b""))

    async def _body(self, delivery: Delivery) -> AsyncGenerator[bytes]:
        if delivery.body or not delivery.body_bytes:
            yield delivery.body
            return
        request = deliveries_pb2.DownloadDeliveryRequest(name=delivery.name)
        with self._exchange.faults():
            async for piece in self._stub().DownloadDelivery(request, metadata=self._exchange.metadata()):
                yield piece.data

    async def _acknowledge(self, delivery: Delivery) -> None:
        one = deliveries_pb2.AcknowledgeDeliveriesRequest.Acknowledgement(
            name=delivery.name, lease_id=delivery.lease_id
        )
        request = deliveries_pb2.AcknowledgeDeliveriesRequest(parent="subsystems/-", acknowledgements=[one])
        with self._exchange.faults():
            await self._stub().AcknowledgeDeliveries(request, metadata=self._exchange.metadata())

    async def _refuse(self, delivery: Delivery, reason: str) -> None:
        request = deliveries_pb2.RefuseDeliveryRequest(name=delivery.name, lease_id=delivery.lease_id, reason=reason)
        with self._exchange.faults():
            await self._stub().RefuseDelivery(request, metadata=self._exchange.metadata())

    async def _give_back(self, delivery: Delivery) -> None:
        request = deliveries_pb2.ExtendLeaseRequest(name=delivery.name, lease_id=delivery.lease_id, lease=PAUSE)
        with self._exchange.faults():
            await self._stub().ExtendLease(request, metadata=self._exchange.metadata())

    def _stub(self) -> deliveries_pb2_grpc.DeliveryServiceAsyncStub:
        stub: deliveries_pb2_grpc.DeliveryServiceAsyncStub = self._exchange.stub(
            deliveries_pb2_grpc.DeliveryServiceStub
        )
        return stub


async def _rest(behind: bytes, pieces: AsyncIterator[bytes] | None = None) -> AsyncIterator[bytes]:
    """What follows the parcel in a body."""
    if behind:
        yield behind
    if pieces is not None:
        async for piece in pieces:
            yield piece
