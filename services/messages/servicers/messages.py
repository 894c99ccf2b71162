"""MessageService: what a unit sends, and sees of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any
from uuid import UUID

from solmu.messages.v1 import events_pb2, messages_pb2

from services.messages import attachment_store, holding, mailboxes, store
from services.messages.servicers import names, views
from services.runtime import identity, outbox, pages, status
from services.runtime.database import Connection, Database, Row
from services.runtime.errors import AlreadyExists, Fault, InvalidArgument, Unimplemented, not_found
from services.runtime.ids import new_id
from services.runtime.outbox import Outbox
from services.runtime.parties import PartyNames
from services.runtime.sealing import Vault

Message = messages_pb2.Message
Delivery = messages_pb2.Delivery
Use = tuple[UUID, int, bool, str]
"""How a message uses an attachment: which, its role, whether it is left off paper, its language."""

NOT_YET = ("in_reply_to", "publish_time", "due_time", "paper", "notification", "template", "template_values")
"""Fields of the contract that this release would have to pass over: it refuses them instead."""


class Messages:
    """Sends messages and shows them to the unit that sent them."""

    def __init__(self, *, database: Database, outbox: Outbox, parties: PartyNames, vault: Vault) -> None:
        self._database = database
        self._outbox = outbox
        self._parties = parties
        self._vault = vault

    async def SendMessage(self, request: messages_pb2.SendMessageRequest) -> Message:
        """Accepts a message and delivers it; a repeat returns the first result. Two round trips to the database."""
        _available(request.message)
        unit_id, key = names.part(request.parent, 1), request.idempotency_key
        party, mailbox_id = self._recipient(request.message.recipient)
        look_up = partial(
            store.route, self._database, unit_id=unit_id, party=party, mailbox_id=mailbox_id, idempotency_key=key
        )
        route = await look_up()
        if route.organisation != identity.caller().party:
            raise not_found(request.parent)
        digest = self._vault.digest(_canonical(request))
        if route.first_id is not None:
            return await self._repeated(unit_id, route, digest)
        mailbox = mailboxes.receiving(_mailbox(route), now=names.now())
        message = self._new_message(request, unit_id, mailbox, digest)
        if not await self._keep(message, request.message):
            return await self._repeated(unit_id, await look_up(), digest)
        self._outbox.wake()
        if request.message.attachments:
            return await self._shown(unit_id, message.message_id)
        content = views.content(request.message)
        return views.message(message.row(), [], content=content, vault=self._vault)

    async def SendMessages(
        self, requests: AsyncIterator[messages_pb2.SendMessagesRequest]
    ) -> AsyncIterator[messages_pb2.SendMessagesResponse]:
        """Sends each message of a stream, with a result of its own."""
        index = 0
        async for request in requests:
            response = messages_pb2.SendMessagesResponse(index=index, idempotency_key=request.message.idempotency_key)
            try:
                response.message.CopyFrom(await self.SendMessage(request.message))
            except Fault as fault:
                response.refusal.CopyFrom(status.to_status(fault, service="messages"))
            yield response
            index += 1

    async def GetMessage(self, request: messages_pb2.GetMessageRequest) -> Message:
        """A message, for the unit that sent it."""
        unit_id = names.part(request.name, 1)
        await names.own_unit(self._database, unit_id)
        return await self._shown(unit_id, names.uid(request.name, 3))

    async def ListMessages(self, request: messages_pb2.ListMessagesRequest) -> messages_pb2.ListMessagesResponse:
        """A unit's messages, latest first, without their bodies."""
        unit_id = names.part(request.parent, 1)
        await names.own_unit(self._database, unit_id)
        if request.direction == Message.DIRECTION_INBOUND:
            return messages_pb2.ListMessagesResponse()
        question = f"{request.parent} {request.idempotency_key} {request.case_id}"
        key = pages.key(request.page_token, question=question)
        size = pages.size(request.page_size)
        rows = await store.messages_of_unit(
            self._database,
            unit_id,
            before=UUID(key) if key else None,
            idempotency_key=request.idempotency_key,
            case_id=request.case_id,
            limit=size + 1,
        )
        response = messages_pb2.ListMessagesResponse()
        for row in rows[:size]:
            message = self._view(row, [])
            message.ClearField("bodies")
            response.messages.append(message)
        if len(rows) > size:
            response.next_page_token = pages.token(str(rows[size - 1]["message_id"]), question=question)
        return response

    def _recipient(self, recipient: messages_pb2.Recipient) -> tuple[str | None, UUID | None]:
        if recipient.WhichOneof("address") == "identifier":
            return self._parties.name_of(recipient.identifier, field="message.recipient.identifier"), None
        return None, names.uid(recipient.mailbox, 1, field="message.recipient.mailbox")

    async def _repeated(self, unit_id: str, route: store.Route, digest: bytes) -> Message:
        """The first message that was sent with this key. Raises AlreadyExists where its content differs."""
        assert route.first_id is not None
        if route.first_digest != digest:
            raise AlreadyExists(
                "IDEMPOTENCY_KEY_REUSED",
                "the idempotency key was used for another content to the same recipient",
                message=f"units/{unit_id}/messages/{route.first_id}",
            )
        return await self._shown(unit_id, route.first_id)

    def _new_message(
        self, request: messages_pb2.SendMessageRequest, unit_id: str, mailbox: mailboxes.Mailbox, digest: bytes
    ) -> store.NewMessage:
        message_id, caller = new_id(), identity.caller()
        sealer = self._vault.sealer(mailbox.data_key, owner=f"mailboxes/{mailbox.mailbox_id}")
        return store.NewMessage(
            message_id=message_id,
            unit_id=unit_id,
            mailbox_id=mailbox.mailbox_id,
            kind=request.message.kind or Message.KIND_ORDINARY,
            idempotency_key=request.idempotency_key,
            content_digest=digest,
            content=sealer.seal(views.content(request.message), context=f"messages/{message_id}"),
            correlation_id=request.message.correlation_id,
            case_id=request.message.case_reference.case_id,
            thread=message_id,
            sender_party=caller.party,
            sender_client=caller.client,
            now=names.now(),
            delivery_id=new_id(),
        )

    async def _keep(self, message: store.NewMessage, asked: Message) -> bool:
        """Keeps the message with all that belongs to it, or nothing. False: its idempotency key is used by now."""
        reference = events_pb2.MessageReference(
            message=f"units/{message.unit_id}/messages/{message.message_id}",
            idempotency_key=message.idempotency_key,
            correlation_id=message.correlation_id,
        )
        delivery = Delivery(
            name=f"deliveries/{message.delivery_id}",
            channel=Delivery.CHANNEL_ELECTRONIC,
            state=Delivery.STATE_AVAILABLE,
            update_time=names.timestamp(message.now),
        )
        events = [
            outbox.event(events_pb2.MessageAccepted(reference=reference), now=message.now),
            outbox.event(events_pb2.DeliveryChanged(reference=reference, delivery=delivery), now=message.now),
        ]
        if not asked.attachments:
            return await store.send(self._database, message, events, trace=self._outbox.trace())
        wanted = _uses(asked)
        async with self._database.transaction() as transaction:
            waits = await self._wait(transaction, message.sender_party, wanted)
            if waits:
                events = events[:1]
            if not await store.send(transaction, message, events, trace=self._outbox.trace()):
                return False
            await attachment_store.attach(transaction, message_id=message.message_id, attachments=wanted)
            if waits:
                await attachment_store.hold(transaction, message.message_id)
            return True

    async def _wait(self, transaction: Connection, owner: str, wanted: list[Use]) -> bool:
        """Whether the message has to wait for one of its attachments; none is judged until the transaction ends."""
        states = await attachment_store.lock(transaction, [attachment_id for attachment_id, *_ in wanted], owner=owner)
        found = {attachment_id: holding.State(state) for attachment_id, state in states.items()}
        waiting = [
            attachment_id
            for attachment_id, *_ in wanted
            if holding.waits(found.get(attachment_id), attachment=f"attachments/{attachment_id}")
        ]
        return bool(waiting)

    async def _shown(self, unit_id: str, message_id: UUID) -> Message:
        row = await store.message_of_unit(self._database, unit_id, message_id)
        if row is None:
            raise not_found(f"units/{unit_id}/messages/{message_id}")
        return self._view(row, await store.attachments_of(self._database, [message_id]))

    def _view(self, row: Row, attachments: list[Row]) -> Message:
        return views.message(row, attachments, content=views.opened(row, vault=self._vault), vault=self._vault)


def _mailbox(route: store.Route) -> mailboxes.Mailbox | None:
    """The mailbox at the end of a route; None where there is none, or it has been erased."""
    if route.mailbox_id is None or route.mailbox_state is None or route.data_key is None:
        return None
    state = mailboxes.State(route.mailbox_state)
    return mailboxes.Mailbox(route.mailbox_id, state, route.data_key, route.opt_out_end_time)


def _uses(asked: Message) -> list[Use]:
    """The attachments that a message names, each once."""
    uses: list[Use] = [
        (
            names.uid(use.attachment, 1, field=f"message.attachments[{position}].attachment"),
            use.role,
            use.excluded_from_paper,
            use.language,
        )
        for position, use in enumerate(asked.attachments)
    ]
    if len({attachment_id for attachment_id, *_ in uses}) < len(uses):
        violations = [("message.attachments", "names an attachment twice")]
        raise InvalidArgument("FIELD_INVALID", "an attachment is named twice", violations=violations)
    return uses


def _available(message: Message) -> None:
    """Raises Unimplemented, FEATURE_NOT_AVAILABLE, for what this release does not carry out."""
    fields = [field for field in NOT_YET if _is_set(message, field)]
    if message.kind == Message.KIND_VERIFIABLE:
        fields.append("kind")
    if message.reply_policy.allowed == messages_pb2.ReplyPolicy.ALLOWED_READERS:
        fields.append("reply_policy")
    if message.recipient.HasField("postal_address"):
        fields.append("recipient.postal_address")
    if fields:
        raise Unimplemented(
            "FEATURE_NOT_AVAILABLE",
            f"this release does not carry out message.{fields[0]}",
            field=f"message.{fields[0]}",
        )
    if not message.bodies and not message.attachments:
        violations = [("message.bodies", "is empty, and there are no attachments")]
        raise InvalidArgument("FIELD_INVALID", "a message has a text or an attachment", violations=violations)


def _is_set(message: Message, field: str) -> bool:
    descriptor = message.DESCRIPTOR.fields_by_name[field]
    value: Any = getattr(message, field)
    return message.HasField(field) if descriptor.has_presence else bool(value)  # type: ignore[arg-type]


def _canonical(request: messages_pb2.SendMessageRequest) -> bytes:
    """The same bytes for the same content: what makes a repeat a repeat."""
    return request.SerializeToString(deterministic=True)
