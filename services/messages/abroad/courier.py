"""Says to other nodes what is to be said: errands become envelopes, once each.

An envelope has its errand's id as its message id, so that the exchange takes it
once, however often this process dies before it knows that it was taken.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

from solmu.exchange.v1 import envelopes_pb2, envelopes_pb2_grpc

from services.messages import attachment_store
from services.messages.abroad import parcels, store
from services.messages.abroad.hearing import Hearing
from services.messages.abroad.parcels import Parcel
from services.messages.abroad.saying import Saying
from services.messages.abroad.store import Kind
from services.messages.blobs import Blobs
from services.messages.servicers import names, views
from services.runtime.client import Peer
from services.runtime.database import Database, Row
from services.runtime.errors import Fault
from services.runtime.outbox import Outbox
from services.runtime.sealing import Vault

logger = logging.getLogger(__name__)

BATCH = 100
"""Errands that are looked at in one turn."""

LIFETIME = timedelta(days=14)
"""How long an envelope lives: longer than a week, for which an organisation may be offline."""

FIRST_BACKOFF = timedelta(seconds=1)
MAX_BACKOFF = timedelta(minutes=5)
"""Pauses while the exchange does not take what is said."""

NOBODY = frozenset({"MEMBER_UNKNOWN", "CONSUMER_NOT_REGISTERED"})
"""What the exchange says where a node is not in its meshes, or it is in none: nobody has a mailbox there."""

PIECE = 512 * 1024
"""Bytes of content in one message of a stream."""


class Courier:
    """Hands errands to the exchange."""

    def __init__(
        self, *, database: Database, outbox: Outbox, vault: Vault, blobs: Blobs, exchange: Peer, hearing: Hearing
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._vault = vault
        self._blobs = blobs
        self._exchange = exchange
        self._saying = Saying(database=database, vault=vault)
        self._hearing = hearing

    async def turn(self) -> bool:
        """Hands over what is due; says whether there was something."""
        rows = await store.due(self._database, now=datetime.now(UTC), limit=BATCH)
        for row in rows:
            await self._hand_over(row)
        return bool(rows)

    async def _hand_over(self, errand: Row) -> None:
        passage = await self._saying.passage(errand)
        parcel = await self._saying.parcel(errand, passage) if passage is not None else None
        if parcel is None or passage is None:  # it was withdrawn, or erased, meanwhile
            await store.drop(self._database, errand["errand_id"])
            return
        try:
            await self._send(errand, passage, parcel)
            await store.handed_over(self._database, errand["errand_id"])
        except Fault as fault:
            await self._failed(errand, fault)

    async def _failed(self, errand: Row, fault: Fault) -> None:
        if Kind(errand["kind"]) is Kind.ENQUIRY and fault.reason in NOBODY:
            async with self._database.transaction() as transaction:
                await store.drop(transaction, errand["errand_id"])
                await self._hearing.found(transaction, errand["message_id"], errand["subsystem"], reachable=False)
            self._outbox.wake()
            return
        logger.warning("an errand waits", extra={"errand": str(errand["errand_id"]), "reason": fault.reason})
        pause = min(MAX_BACKOFF, FIRST_BACKOFF * (1 << min(errand["attempts"], 20)))
        await store.postpone(self._database, errand["errand_id"], until=datetime.now(UTC) + pause)

    async def _send(self, errand: Row, passage: Row, parcel: Parcel) -> None:
        kind = Kind(errand["kind"])
        envelope = envelopes_pb2.Envelope(
            subsystem=errand["subsystem"],
            purpose=envelopes_pb2.PURPOSE_REQUEST if kind is Kind.ENQUIRY else envelopes_pb2.PURPOSE_EVENT,
            type=parcels.TYPE,
            message_id=str(errand["errand_id"]),
            ordering_key=str(passage["message_id"]),
            media_type=parcels.MEDIA_TYPE,
            expire_time=names.timestamp(errand["create_time"] + LIFETIME),
        )
        content = self._content(errand) if kind is Kind.ATTACHMENT else _nothing()
        await upload(self._exchange, envelope, parcels.packed(parcel), content)

    async def _content(self, errand: Row) -> AsyncIterator[bytes]:
        row = await attachment_store.attachment(self._database, errand["attachment_id"])
        assert row is not None
        sealer = views.blob_sealer(row, vault=self._vault)
        async for piece in self._blobs.read(row["blob_id"], sealer, offset=0, size=row["size_bytes"]):
            for start in range(0, len(piece), PIECE):
                yield piece[start : start + PIECE]


async def upload(
    exchange: Peer, envelope: envelopes_pb2.Envelope, beginning: bytes, rest: AsyncIterator[bytes]
) -> None:
    """Hands an envelope to the exchange, with the beginning of its body and the rest. Raises Fault."""

    async def requests() -> AsyncIterator[envelopes_pb2.UploadEnvelopeRequest]:
        request = envelopes_pb2.UploadEnvelopeRequest(parent="subsystems/-", envelope=envelope)
        for start in range(0, len(beginning), PIECE):
            request.content.data = beginning[start : start + PIECE]
            yield request
            request = envelopes_pb2.UploadEnvelopeRequest()
        async for piece in rest:
            request.content.data = piece
            yield request

    stub: envelopes_pb2_grpc.EnvelopeServiceAsyncStub = exchange.stub(envelopes_pb2_grpc.EnvelopeServiceStub)
    with exchange.faults():
        await stub.UploadEnvelope(requests(), metadata=exchange.metadata())


async def _nothing() -> AsyncIterator[bytes]:
    yield b""
