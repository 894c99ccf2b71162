"""DeliveryService: envelopes handed out, and the receiver's word on them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from google.api import httpbody_pb2
from solmu.exchange.v1 import deliveries_pb2, envelopes_pb2
from solmu.exchange.v1.mandates_pb2 import CheckMandateResponse

from services.exchange import bodies_at_rest, delivery_store, names
from services.exchange.arriving import answer_lines
from services.exchange.collecting import Collecting
from services.exchange.evidence.statements import Kind
from services.exchange.recording import Recorder
from services.exchange.requesters import Requesters
from services.exchange.servicers.envelopes import group_name
from services.exchange.subscribing import topic_identifier, topic_name
from services.runtime import identity, pages
from services.runtime.database import Connection, Database, Row
from services.runtime.errors import FailedPrecondition, Fault, not_found
from services.runtime.sealing import Vault

Delivery = deliveries_pb2.Delivery
State = envelopes_pb2.DeliveryState

PAGE = 100
HANDED_OUT = 10
LEASE = timedelta(minutes=1)
INLINE = 256 * 1024
"""Bytes of a body that is handed out with its delivery."""

MOST_INLINE = 3 * 1024 * 1024
"""Bytes of bodies in one answer: the rest is downloaded."""

LOOK_INTERVAL = 0.25
"""Seconds between two looks for what has come, while somebody waits."""


class Deliveries:
    """Hands out what came."""

    def __init__(
        self,
        *,
        database: Database,
        vault: Vault,
        requesters: Requesters,
        recorder: Recorder,
        collecting: Collecting,
        revoked: Callable[[str], bool],
    ) -> None:
        self._database = database
        self._vault = vault
        self._requesters = requesters
        self._recorder = recorder
        self._collecting = collecting
        self._revoked = revoked

    async def ReceiveDeliveries(
        self, request: deliveries_pb2.ReceiveDeliveriesRequest
    ) -> deliveries_pb2.ReceiveDeliveriesResponse:
        """Hands out envelopes; waits for the first where it is asked to."""
        subsystem = self._requesters.of(request.parent)
        until = asyncio.get_running_loop().time() + request.wait.ToTimedelta().total_seconds()
        lease = request.lease.ToTimedelta() if request.HasField("lease") else LEASE
        while True:
            found = await self._lease(
                subsystem, request.topic, request.types, lease, limit=request.max_deliveries or HANDED_OUT
            )
            if found or asyncio.get_running_loop().time() >= until:
                return deliveries_pb2.ReceiveDeliveriesResponse(deliveries=found)
            await asyncio.sleep(LOOK_INTERVAL)

    async def StreamDeliveries(self, request: deliveries_pb2.StreamDeliveriesRequest) -> AsyncIterator[Delivery]:
        """Hands out envelopes as they come, so many in hand at once."""
        subsystem, caller = self._requesters.of(request.parent), identity.caller()
        lease = request.lease.ToTimedelta() if request.HasField("lease") else LEASE
        most, in_hand = request.max_leased or HANDED_OUT, set[str]()
        while True:
            if fault := identity.still_valid(caller, revoked=self._revoked):
                raise fault
            in_hand = {lease_id for lease_id in in_hand if await self._is_leased(lease_id)}
            found: Sequence[Delivery] = ()
            if len(in_hand) < most:
                found = await self._lease(subsystem, request.topic, request.types, lease, limit=most - len(in_hand))
            for delivery in found:
                in_hand.add(delivery.lease_id)
                yield delivery
            if not found:
                await asyncio.sleep(LOOK_INTERVAL)

    async def GetDelivery(self, request: deliveries_pb2.GetDeliveryRequest) -> Delivery:
        """A delivery."""
        return view(await self._own(self._database, request.name))

    async def ListDeliveries(
        self, request: deliveries_pb2.ListDeliveriesRequest
    ) -> deliveries_pb2.ListDeliveriesResponse:
        """What came for a subsystem, latest first."""
        subsystem, size = self._requesters.of(request.parent), pages.size(request.page_size, PAGE)
        question = f"{subsystem} {sorted(request.states)}"
        before = pages.key(request.page_token, question=question)
        rows = await delivery_store.listed(
            self._database,
            subsystem,
            states=list(request.states),
            start=request.start_time.ToDatetime(UTC) if request.HasField("start_time") else None,
            end=request.end_time.ToDatetime(UTC) if request.HasField("end_time") else None,
            before=int(before) if before else None,
            limit=size + 1,
        )
        response = deliveries_pb2.ListDeliveriesResponse(deliveries=[view(row) for row in rows[:size]])
        if len(rows) > size:
            response.next_page_token = pages.token(str(rows[size - 1]["seq"]), question=question)
        return response

    async def DownloadDelivery(
        self, request: deliveries_pb2.DownloadDeliveryRequest
    ) -> AsyncIterator[httpbody_pb2.HttpBody]:
        """The body."""
        row = await self._own(self._database, request.name)
        media_type = row["media_type"]
        async for piece in bodies_at_rest.read(self._database, self._vault, row["envelope_id"], offset=request.offset):
            yield httpbody_pb2.HttpBody(content_type=media_type, data=piece)
            media_type = ""  # in the first message only

    async def AcknowledgeDeliveries(
        self, request: deliveries_pb2.AcknowledgeDeliveriesRequest
    ) -> deliveries_pb2.AcknowledgeDeliveriesResponse:
        """Acknowledges deliveries, all or none: a signed receipt of each goes to its sender."""
        subsystem = self._requesters.of(request.parent)
        async with self._database.transaction() as transaction:
            for one in request.acknowledgements:
                row = await self._locked(transaction, subsystem, one.name)
                if row["state"] != State.DELIVERY_STATE_ACKNOWLEDGED:
                    _check_lease(row, one.lease_id)
                    await self._settle(transaction, row, State.DELIVERY_STATE_ACKNOWLEDGED)
        rows = [await self._own(self._database, one.name) for one in request.acknowledgements]
        return deliveries_pb2.AcknowledgeDeliveriesResponse(deliveries=[view(row) for row in rows])

    async def RefuseDelivery(self, request: deliveries_pb2.RefuseDeliveryRequest) -> Delivery:
        """Refuses a delivery for good, with a signed rejection."""
        subsystem = self._requesters.of(request.name)
        async with self._database.transaction() as transaction:
            row = await self._locked(transaction, subsystem, request.name)
            if row["state"] != State.DELIVERY_STATE_REFUSED:
                _check_lease(row, request.lease_id)
                await self._settle(transaction, row, State.DELIVERY_STATE_REFUSED, reason=request.reason)
        return view(await self._own(self._database, request.name))

    async def ExtendLease(self, request: deliveries_pb2.ExtendLeaseRequest) -> Delivery:
        """Prolongs a lease, or gives the delivery back."""
        row = await self._own(self._database, request.name)
        _check_lease(row, request.lease_id)
        span = request.lease.ToTimedelta()
        await delivery_store.set_lease_end(
            self._database, row["envelope_id"], row["subsystem"], datetime.now(UTC) + span if span else None
        )
        return view(await self._own(self._database, request.name))

    async def ReplayDeliveries(
        self, request: deliveries_pb2.ReplayDeliveriesRequest
    ) -> deliveries_pb2.ReplayDeliveriesResponse:
        """Has what was sent since an instant handed out again."""
        subsystem = self._requesters.of(request.parent)
        start = request.start_time.ToDatetime(UTC)
        end = request.end_time.ToDatetime(UTC) if request.HasField("end_time") else None
        topic = topic_identifier(request.topic) if request.topic else ""
        count = await delivery_store.replay(self._database, subsystem, start=start, end=end, topic=topic)
        if topic:
            asked = await self._collecting.again(subsystem, topic, start=start, end=end)
        else:
            asked = await self._collecting.sent(subsystem, start=start, end=end)
        return deliveries_pb2.ReplayDeliveriesResponse(count=count, more_asked_for=asked)

    async def _lease(
        self, subsystem: str, topic: str, types: Sequence[str], lease: timedelta, *, limit: int
    ) -> list[Delivery]:
        now = datetime.now(UTC)
        rows = await delivery_store.lease(
            self._database,
            subsystem,
            topic=topic_identifier(topic) if topic else "",
            types=list(types),
            now=now,
            until=now + lease,
            limit=limit,
        )
        handed_out, room = [], MOST_INLINE
        for row in rows:
            delivery = view(row, handed_out=True)
            self._tell_behalf(delivery, row)
            if row["body_bytes"] <= min(INLINE, room):
                delivery.body = b"".join(
                    [piece async for piece in bodies_at_rest.read(self._database, self._vault, row["envelope_id"])]
                )
                room -= row["body_bytes"]
            handed_out.append(delivery)
        return handed_out

    def _tell_behalf(self, delivery: Delivery, row: Row) -> None:
        """Who acts for whom, and by what right."""
        if row["finding"] is None:
            return
        delivery.on_behalf_of.ParseFromString(bodies_at_rest.on_behalf_of(self._vault, row))
        found = CheckMandateResponse.FromString(row["finding"])
        delivery.mandates.extend(found.mandates)
        delivery.mandate_basis = found.basis
        delivery.mandate_judge_time.CopyFrom(found.judge_time)

    async def _is_leased(self, lease_id: str) -> bool:
        return await delivery_store.is_leased(self._database, lease_id, now=datetime.now(UTC))

    async def _settle(self, transaction: Connection, row: Row, state: State.ValueType, *, reason: str = "") -> None:
        """Ends a delivery with a signed receipt or rejection; one that was given stands."""
        receipt = None
        if row["receipt_sha256"] is None:
            kind = Kind.REJECTION if reason else Kind.RECEIPT
            lines = answer_lines(str(row["envelope_id"]), row["statement_sha256"], row["sender"], reason)
            entry = await self._recorder.sign(kind, lines, subsystem=row["subsystem"])
            await self._recorder.write(transaction, entry)
            receipt = entry.statement.sha256
        await delivery_store.settle(
            transaction, row["envelope_id"], row["subsystem"], state=state, reason=reason, receipt=receipt
        )

    async def _own(self, source: Database, name: str) -> Row:
        subsystem = self._requesters.of(name)
        row = await delivery_store.one(source, UUID(name.split("/")[3]), subsystem)
        if row is None:
            raise not_found("/".join(name.split("/")[:4]))
        return row

    async def _locked(self, transaction: Connection, subsystem: str, name: str) -> Row:
        row = await delivery_store.one(transaction, UUID(name.split("/")[3]), subsystem, lock=True)
        if row is None or name.split("/")[1] not in {"-", subsystem.replace("/", "~")}:
            raise not_found(name)
        return row


def view(row: Row, *, handed_out: bool = False) -> Delivery:
    """A delivery as the contract shows it; the lease is for whom it was handed out to."""
    delivery = Delivery(
        name=f"{names.resource('subsystems', row['subsystem'])}/deliveries/{row['envelope_id']}",
        sender=names.resource("subsystems", row["sender"]),
        purpose=row["purpose"],
        type=row["type"],
        message_id=row["message_id"],
        lane=row["lane"],
        place=row["place"],
        media_type=row["media_type"],
        body_sha256=row["body_sha256"].hex(),
        body_bytes=row["body_bytes"],
        state=row["state"],
        attempt=row["attempt"],
        replayed=row["replayed"],
        statement=f"statements/{row['statement_sha256'].hex()}",
    )
    kind, _, identifier = row["target"].partition(" ")
    if kind == "topic":
        delivery.topic = topic_name(identifier)
    elif kind == "group":
        delivery.group = group_name(identifier)
    if row["answers"] is not None:
        delivery.answers = f"{names.resource('subsystems', row['subsystem'])}/envelopes/{row['answers']}"
    if row["receipt_sha256"] is not None:
        delivery.receipt_statement = f"statements/{row['receipt_sha256'].hex()}"
    if handed_out:
        delivery.lease_id = row["lease_id"]
        delivery.lease_end_time.FromDatetime(row["lease_end_time"])
    for name in ("send_time", "arrive_time", "settle_time", "expire_time"):
        if row[name] is not None:
            getattr(delivery, name).FromDatetime(row[name])
    return delivery


def _check_lease(row: Row, lease_id: str) -> None:
    """Raises FailedPrecondition: DELIVERY_SETTLED, ENVELOPE_EXPIRED, LEASE_LOST."""
    name = f"{names.resource('subsystems', row['subsystem'])}/deliveries/{row['envelope_id']}"
    if row["state"] in {State.DELIVERY_STATE_ACKNOWLEDGED, State.DELIVERY_STATE_REFUSED}:
        raise FailedPrecondition(
            "DELIVERY_SETTLED", "another word was given on this delivery", state=State.Name(row["state"])
        )
    if row["state"] == State.DELIVERY_STATE_EXPIRED or (
        row["expire_time"] <= datetime.now(UTC) and not row["replayed"]
    ):
        raise FailedPrecondition("ENVELOPE_EXPIRED", "the envelope's time was over before")
    if row["state"] != State.DELIVERY_STATE_LEASED or row["lease_id"] != lease_id:
        raise _lost(name)


def _lost(name: str) -> Fault:
    return FailedPrecondition("LEASE_LOST", "the lease is over, and it may have been handed out again", delivery=name)
