"""MessageService: what a unit sends, and sees of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

from solmu.messages.v1 import messages_pb2
from solmu.types.v1 import types_pb2

from services.messages import (
    attachment_store,
    course,
    deliveries,
    legal,
    letter_store,
    lifecycle,
    mailboxes,
    message_store,
)
from services.messages.blobs import Blobs
from services.messages.course import Course
from services.messages.deliveries import Delivery
from services.messages.message_store import Address
from services.messages.profiles import PROFILES
from services.messages.servicers import accesses, contents, courses, names, views
from services.messages.servicers.courses import Move
from services.messages.servicers.papers import Papers
from services.messages.servicers.sending import NewMessage, Sending
from services.runtime import identity, pages, status, validation
from services.runtime.database import Connection, Database, Row
from services.runtime.errors import AlreadyExists, Fault, not_found
from services.runtime.gathering import Gathering, in_order
from services.runtime.ids import new_id
from services.runtime.outbox import Outbox
from services.runtime.parties import PartyNames
from services.runtime.sealing import Vault
from services.runtime.telemetry import TRANSACTIONS

Message = messages_pb2.Message


class Messages:
    """Sends messages and shows them to the unit that sent them."""

    def __init__(
        self,
        *,
        database: Database,
        blobs: Blobs,
        outbox: Outbox,
        parties: PartyNames,
        vault: Vault,
        nodes: Sequence[str] = (),
    ) -> None:
        """`nodes` are those that are asked for mailboxes that are not here, by their subsystems."""
        self._database = database
        self._outbox = outbox
        self._parties = parties
        self._vault = vault
        self._papers = Papers(database=database, blobs=blobs, vault=vault)
        self._nodes = nodes
        self._sending = Sending(database=database, outbox=outbox, vault=vault, nodes=nodes)
        self._routing = Gathering(partial(message_store.routes, database))

    async def SendMessage(self, request: messages_pb2.SendMessageRequest) -> Message:
        """Accepts a message and delivers it; a repeat returns the first result. Two round trips to the database."""
        unit_id = names.part(request.parent, 1)
        address, route = await self._routed(request, unit_id)
        if route.organisation != identity.caller().party:
            raise not_found(request.parent)
        digest = self._vault.digest(_canonical(request))
        if route.first_id is not None:
            return await self._repeated(unit_id, route, digest)
        new = await self._new(request, address, route, digest)
        kept = await self._sending.keep(new)
        if kept is None:
            return await self._repeated(unit_id, await self._routing.ask(address), digest)
        TRANSACTIONS.labels("message", "out").inc()
        content = views.content(new.asked)
        return views.message(kept.row, kept.course, kept.attachments, content=content, vault=self._vault)

    async def SendMessages(
        self, requests: AsyncIterator[messages_pb2.SendMessagesRequest]
    ) -> AsyncIterator[messages_pb2.SendMessagesResponse]:
        """Sends each message of a stream, with a result of its own, in the stream's order."""
        index = 0
        async for response in in_order(self._sent, requests):
            response.index = index
            yield response
            index += 1

    async def _sent(self, request: messages_pb2.SendMessagesRequest) -> messages_pb2.SendMessagesResponse:
        response = messages_pb2.SendMessagesResponse(idempotency_key=request.message.idempotency_key)
        try:
            validation.check(request.message)
            message = await self.SendMessage(request.message)
            message.ClearField("bodies")
            response.message.CopyFrom(message)
        except Fault as fault:
            response.refusal.CopyFrom(status.to_status(fault, service="messages"))
        return response

    async def GetMessage(self, request: messages_pb2.GetMessageRequest) -> Message:
        """A message, for the unit that sent or received it."""
        unit_id = names.part(request.name, 1)
        await names.own_unit(self._database, unit_id)
        return await self._shown(unit_id, names.uid(request.name, 3), method="GetMessage")

    async def ListMessages(self, request: messages_pb2.ListMessagesRequest) -> messages_pb2.ListMessagesResponse:
        """A unit's messages, latest first, without their bodies."""
        unit_id = names.part(request.parent, 1)
        await names.own_unit(self._database, unit_id)
        question = f"{request.parent} {request.idempotency_key} {request.case_id} {request.direction}"
        key = pages.key(request.page_token, question=question)
        size = pages.size(request.page_size)
        rows = await message_store.messages_of_unit(
            self._database,
            unit_id,
            before=UUID(key) if key else None,
            idempotency_key=request.idempotency_key,
            case_id=request.case_id,
            direction=request.direction,
            limit=size + 1,
        )
        await accesses.record_page(self._database, unit_id, rows[:size], "ListMessages")
        response = messages_pb2.ListMessagesResponse()
        for row, known in zip(rows[:size], await courses.of(self._database, rows[:size]), strict=True):
            message = self._view(row, known, [])
            message.ClearField("bodies")
            response.messages.append(message)
        if len(rows) > size:
            response.next_page_token = pages.token(str(rows[size - 1]["message_id"]), question=question)
        return response

    async def WithdrawMessage(self, request: messages_pb2.WithdrawMessageRequest) -> Message:
        """Withdraws a message of the unit; withdrawing again changes nothing."""
        unit_id, now = names.part(request.name, 1), names.now()
        await names.own_unit(self._database, unit_id)
        message_id = names.uid(request.name, 3)
        async with self._database.transaction() as transaction:
            row, before = await _hold(transaction, request.name)
            after = course.withdrawn(before, now=now)
            if after is not before:
                await courses.keep(transaction, self._outbox, [Move(row, before, after)], now=now)
                if request.explanations and row["data_key"] is not None:
                    sealer = self._vault.sealer(row["data_key"], owner=f"mailboxes/{row['mailbox_id']}")
                    explained = messages_pb2.WithdrawMessageRequest(explanations=request.explanations)
                    sealed = sealer.seal(explained.SerializeToString(), context=f"messages/{message_id}/withdrawal")
                    await message_store.write_withdrawal(transaction, message_id, withdrawal=sealed)
        self._outbox.wake()
        return await self._shown(unit_id, message_id, method="WithdrawMessage")

    async def SendOnPaper(self, request: messages_pb2.SendOnPaperRequest) -> Message:
        """Has a message of the unit sent on paper now, or its letter tried again that failed; else changes nothing."""
        unit_id, message_id, now = names.part(request.name, 1), names.uid(request.name, 3), names.now()
        await names.own_unit(self._database, unit_id)
        async with self._database.transaction() as transaction:
            row, before = await _hold(transaction, request.name)
            after = course.sent_on_paper(before, now=now)
            if after is not before:
                again = before.letter is not None
                sealed = self._papers.address_for(request, row, before.profile, again=again)
                await courses.keep(transaction, self._outbox, [Move(row, before, after)], now=now)
                if sealed is not None:
                    await letter_store.set_address(transaction, message_id, address=sealed)
        self._outbox.wake()
        return await self._shown(unit_id, message_id, method="SendOnPaper")

    async def _new(
        self, request: messages_pb2.SendMessageRequest, address: Address, route: message_store.Route, digest: bytes
    ) -> NewMessage:
        """What is to be kept. Raises where the rules forbid it."""
        assert route.legal_profile is not None
        unit_id, message_id, now = address.unit_id, new_id(), names.now()
        kind, profile = legal.Kind(request.message.kind or Message.KIND_ORDINARY), PROFILES[route.legal_profile]
        asked = await contents.written_out(self._database, request.message, unit_id=unit_id)
        asked, policy = await self._papers.checked(asked, kind=kind, profile=profile)
        mailbox = _mailbox(route)
        sought = self._sought(asked, mailbox)
        if mailbox is None and (policy.any or sought) and address.party:
            mailbox = await self._papers.place(address.party)
        if mailbox is None or not (policy.any or sought):
            mailbox = mailboxes.receiving(mailbox, now=now)
        reachable = mailbox.reachable(now=now)
        if asked.reply_policy.reply_to:
            await names.own_unit(self._database, names.part(asked.reply_policy.reply_to, 1))
        thread, in_reply_to = message_id, None
        if asked.in_reply_to:
            answered = await self._answered(asked.in_reply_to, unit_id, mailbox.mailbox_id)
            thread, in_reply_to = answered["thread"], answered["message_id"]
            asked = _continued(asked, Message.FromString(views.opened(answered, vault=self._vault)))
        before = Course(
            message_id=message_id,
            kind=kind,
            profile=profile,
            state=lifecycle.State.ACCEPTED,
            electronic=_electronic(asked, sought=sought is not None, now=now),
            paper=policy,
            publish_time=_time(asked, "publish_time"),
            due_time=_time(asked, "due_time"),
        )
        return NewMessage(
            message_id=message_id,
            unit_id=unit_id,
            mailbox=mailbox,
            direction=Message.DIRECTION_OUTBOUND,
            asked=asked,
            idempotency_key=request.idempotency_key,
            digest=digest,
            before=before,
            course=course.accepted(before, reachable=reachable, now=now),
            thread=thread,
            in_reply_to=in_reply_to,
            now=now,
            sought=sought,
        )

    def _sought(self, asked: Message, mailbox: mailboxes.Mailbox | None) -> types_pb2.NationalIdentifier | None:
        """Whom to look for on other nodes: one who has left here, or never was; not on behalf of another node."""
        if not self._nodes or identity.caller().node or not asked.recipient.HasField("identifier"):
            return None
        return asked.recipient.identifier if mailbox is None or mailbox.state is mailboxes.State.CLOSED else None

    async def _answered(self, name: str, unit_id: str, mailbox_id: UUID) -> Row:
        """The message that a reply of the unit answers: of the same unit, to or from the same mailbox."""
        if names.part(name, 1) == unit_id:
            row = await message_store.message_of_unit(
                self._database, unit_id, names.uid(name, 3, field="message.in_reply_to")
            )
            if row is not None and row["mailbox_id"] == mailbox_id:
                return row
        raise not_found(name)

    async def _routed(
        self, request: messages_pb2.SendMessageRequest, unit_id: str
    ) -> tuple[Address, message_store.Route]:
        """Where a message goes. Of one whose mailbox was erased, the postal address is all that there is left."""
        party, mailbox_id = self._recipient(request.message.recipient)
        address = Address(unit_id=unit_id, idempotency_key=request.idempotency_key, party=party, mailbox_id=mailbox_id)
        route = await self._routing.ask(address)
        if route.mailbox_id is not None and route.data_key is None and request.message.paper.HasField("address"):
            postal = self._papers.party_of(request.message.paper.address)
            address = replace(address, party=postal, mailbox_id=None)
            route = await self._routing.ask(address)
        return address, route

    def _recipient(self, recipient: messages_pb2.Recipient) -> tuple[str | None, UUID | None]:
        if recipient.WhichOneof("address") == "postal_address":
            return self._papers.party_of(recipient.postal_address), None
        if recipient.WhichOneof("address") == "identifier":
            return self._parties.name_of(recipient.identifier, field="message.recipient.identifier"), None
        return None, names.uid(recipient.mailbox, 1, field="message.recipient.mailbox")

    async def _repeated(self, unit_id: str, route: message_store.Route, digest: bytes) -> Message:
        """The first message that was sent with this key. Raises AlreadyExists where its content differs."""
        assert route.first_id is not None
        if route.first_digest != digest:
            raise AlreadyExists(
                "IDEMPOTENCY_KEY_REUSED",
                "the idempotency key was used for another content to the same recipient",
                message=f"units/{unit_id}/messages/{route.first_id}",
            )
        return await self._shown(unit_id, route.first_id, method="SendMessage")

    async def _shown(self, unit_id: str, message_id: UUID, *, method: str) -> Message:
        """A message as it is now; that the unit looked at it is on record."""
        row = await message_store.message_of_unit(self._database, unit_id, message_id)
        if row is None:
            raise not_found(f"units/{unit_id}/messages/{message_id}")
        await accesses.record_unit(self._database, unit_id, row, method)
        (known,) = await courses.of(self._database, [row])
        return self._view(row, known, await attachment_store.attachments_of(self._database, [message_id]))

    def _view(self, row: Row, known: Course, attachments: list[Row]) -> Message:
        content = views.opened(row, vault=self._vault)
        return views.message(row, known, attachments, content=content, vault=self._vault)


def _mailbox(route: message_store.Route) -> mailboxes.Mailbox | None:
    """The mailbox at the end of a route; None where there is none, or it has been erased."""
    if route.mailbox_id is None or route.mailbox_state is None or route.data_key is None:
        return None
    state = mailboxes.State(route.mailbox_state)
    return mailboxes.Mailbox(route.mailbox_id, state, route.data_key, route.opt_out_end_time)


async def _hold(transaction: Connection, name: str) -> tuple[Row, Course]:
    """A message that the unit in its name has sent, locked, and where it is. Raises NotFound."""
    row = await message_store.hold(transaction, names.uid(name, 3))
    if row is None or row["unit_id"] != names.part(name, 1) or row["direction"] != Message.DIRECTION_OUTBOUND:
        raise not_found(name)
    (before,) = await courses.of(transaction, [row])
    return row, before


def _electronic(asked: Message, *, sought: bool, now: datetime) -> Delivery | None:
    """The delivery to a mailbox, here or elsewhere; none to one who is known by postal address only."""
    if sought:
        return deliveries.abroad(new_id(), now=now)
    return None if asked.recipient.HasField("postal_address") else deliveries.electronic(new_id(), now=now)


def _canonical(request: messages_pb2.SendMessageRequest) -> bytes:
    """The same bytes for the same content: what makes a repeat a repeat."""
    return request.SerializeToString(deterministic=True)


def _time(message: Message, field: str) -> datetime | None:
    time: datetime | None = getattr(message, field).ToDatetime(UTC) if message.HasField(field) else None  # type: ignore[arg-type]
    return time


def _continued(message: Message, answered: Message) -> Message:
    """The message with the case and the visibility of its conversation, where it has none of its own."""
    result = Message()
    result.CopyFrom(message)
    if not message.HasField("case_reference") and answered.HasField("case_reference"):
        result.case_reference.CopyFrom(answered.case_reference)
    result.visibility = message.visibility or answered.visibility
    return result
