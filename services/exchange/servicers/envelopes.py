"""EnvelopeService: envelopes sent, and what becomes of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from uuid import UUID

from solmu.exchange.v1 import envelopes_pb2

from services.exchange import envelope_store, names
from services.exchange.requesters import Requesters
from services.exchange.sending import Sending, envelope_name, recipient_view
from services.exchange.subscribing import topic_name
from services.runtime import identity, pages
from services.runtime.database import Database, Row
from services.runtime.errors import InvalidArgument, not_found

Envelope = envelopes_pb2.Envelope

PAGE = 100
LOOK_INTERVAL = 0.5
"""Seconds between two looks for what is new while a stream is open."""


class Envelopes:
    """Sends envelopes."""

    def __init__(
        self, *, database: Database, requesters: Requesters, sending: Sending, revoked: Callable[[str], bool]
    ) -> None:
        self._database = database
        self._requesters = requesters
        self._sending = sending
        self._revoked = revoked

    async def SendEnvelope(self, request: envelopes_pb2.SendEnvelopeRequest) -> Envelope:
        """Sends an envelope whose body fits into one message."""

        async def body() -> AsyncIterator[bytes]:
            yield request.body

        return _view(await self._sending.send(self._requesters.of(request.parent), request.envelope, body()))

    async def UploadEnvelope(self, requests: AsyncIterator[envelopes_pb2.UploadEnvelopeRequest]) -> Envelope:
        """Sends an envelope of any size."""
        first = await anext(requests, None)
        if first is None or not first.parent or not first.HasField("envelope"):
            raise InvalidArgument(
                "FIELD_INVALID", "the first message names sender and envelope", violations=[("envelope", "is missing")]
            )

        async def body() -> AsyncIterator[bytes]:
            yield first.content.data
            async for request in requests:
                yield request.content.data

        return _view(await self._sending.send(self._requesters.of(first.parent), first.envelope, body()))

    async def GetEnvelope(self, request: envelopes_pb2.GetEnvelopeRequest) -> Envelope:
        """An envelope, to its sender."""
        return _view(await self._own(request.name))

    async def ListEnvelopes(self, request: envelopes_pb2.ListEnvelopesRequest) -> envelopes_pb2.ListEnvelopesResponse:
        """The envelopes that a subsystem sent, latest first."""
        sender, size = self._requesters.of(request.parent), pages.size(request.page_size, PAGE)
        question = f"{sender} {request.message_id} {request.unsettled_only}"
        before = pages.key(request.page_token, question=question)
        rows = await envelope_store.envelopes(
            self._database,
            sender,
            message_id=request.message_id,
            unsettled=request.unsettled_only,
            before=UUID(before) if before else None,
            limit=size + 1,
        )
        response = envelopes_pb2.ListEnvelopesResponse(envelopes=[_view(row) for row in rows[:size]])
        if len(rows) > size:
            response.next_page_token = pages.token(str(rows[size - 1]["envelope_id"]), question=question)
        return response

    async def ListRecipients(
        self, request: envelopes_pb2.ListRecipientsRequest
    ) -> envelopes_pb2.ListRecipientsResponse:
        """To whom an envelope goes, and how far it has come with each."""
        envelope, size = await self._own(request.parent), pages.size(request.page_size, PAGE)
        after = pages.key(request.page_token, question=request.parent)
        rows = await envelope_store.recipients(self._database, envelope["envelope_id"], after=after, limit=size + 1)
        views = [recipient_view(row, envelope["sender"]) for row in rows[:size]]
        response = envelopes_pb2.ListRecipientsResponse(recipients=views)
        if len(rows) > size:
            response.next_page_token = pages.token(rows[size - 1]["subsystem"], question=request.parent)
        return response

    async def CancelEnvelope(self, request: envelopes_pb2.CancelEnvelopeRequest) -> Envelope:
        """Stops an envelope where it has not arrived yet."""
        await self._sending.cancel(await self._own(request.name))
        return _view(await self._own(request.name))

    async def ListReceipts(self, request: envelopes_pb2.ListReceiptsRequest) -> envelopes_pb2.ListReceiptsResponse:
        """What became of a subsystem's envelopes after a cursor."""
        sender = self._requesters.of(request.parent)
        after = _sequence(request.cursor, sender)
        rows = await envelope_store.receipts(
            self._database, sender, after=after, limit=pages.size(request.page_size, PAGE)
        )
        last = rows[-1]["seq"] if rows else after
        return envelopes_pb2.ListReceiptsResponse(
            receipts=[_receipt(row, sender) for row in rows], next_cursor=_cursor(sender, last)
        )

    async def StreamReceipts(
        self, request: envelopes_pb2.StreamReceiptsRequest
    ) -> AsyncIterator[envelopes_pb2.Receipt]:
        """What became of them after a cursor, and then each as it happens."""
        sender, caller = self._requesters.of(request.parent), identity.caller()
        after = _sequence(request.cursor, sender)
        while True:
            if fault := identity.still_valid(caller, revoked=self._revoked):
                raise fault
            rows = await envelope_store.receipts(self._database, sender, after=after, limit=PAGE)
            for row in rows:
                yield _receipt(row, sender)
                after = row["seq"]
            if len(rows) < PAGE:
                await asyncio.sleep(LOOK_INTERVAL)

    async def _own(self, name: str) -> Row:
        sender = self._requesters.of(name)
        row = await envelope_store.envelope(self._database, UUID(name.split("/")[3]))
        if row is None or row["sender"] != sender:
            raise not_found("/".join(name.split("/")[:4]))
        return row


def _view(row: Row) -> Envelope:
    view = Envelope(
        name=envelope_name(row),
        purpose=row["purpose"],
        type=row["type"],
        message_id=row["message_id"],
        lane=row["lane"],
        place=row["place"],
        media_type=row["media_type"],
        body_sha256=row["body_sha256"].hex(),
        body_bytes=row["body_bytes"],
        statement=f"statements/{row['statement_sha256'].hex()}",
        recipient_count=row["recipient_count"],
        settled_count=row["settled_count"],
    )
    kind, _, identifier = row["target"].partition(" ")
    if kind == "subsystem":
        view.subsystem = names.resource("subsystems", identifier)
    elif kind == "topic":
        view.topic = topic_name(identifier)
    else:
        view.group = group_name(identifier)
    if row["answers"] is not None:
        view.answers = f"{names.resource('subsystems', row['sender'])}/deliveries/{row['answers']}"
    view.expire_time.FromDatetime(row["expire_time"])
    view.create_time.FromDatetime(row["create_time"])
    return view


def group_name(identifier: str) -> str:
    """The resource name of a group, global or local."""
    owner, _, code = identifier.rpartition("/")
    if "/" in owner:
        return f"{names.resource('subsystems', owner)}/localGroups/{code}"
    return f"directories/{owner}/globalGroups/{code}"


def _receipt(row: Row, sender: str) -> envelopes_pb2.Receipt:
    return envelopes_pb2.Receipt(
        id=str(row["receipt_id"]),
        cursor=_cursor(sender, row["seq"]),
        envelope=f"{names.resource('subsystems', sender)}/envelopes/{row['envelope_id']}",
        message_id=row["message_id"],
        recipient=envelopes_pb2.Recipient.FromString(row["content"]),
    )


def _cursor(sender: str, sequence: int) -> str:
    return pages.token(str(sequence), question=sender)


def _sequence(cursor: str, sender: str) -> int:
    try:
        return int(pages.key(cursor, question=sender) or 0)
    except InvalidArgument:
        raise InvalidArgument("CURSOR_INVALID", "the cursor is not one of this feed") from None
