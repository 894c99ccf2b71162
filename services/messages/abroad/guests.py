"""What another node asks of this one: a foreign unit is a caller like any other, and sends by the same methods.

Each foreign unit has a unit here, which belongs to its member, so that rules,
idempotency, audit and records of access are those of every sender. No token
names such an owner: nobody else reads or sends in its name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from uuid import UUID

from solmu.messages.v1 import attachments_pb2, mailboxes_pb2, messages_pb2, parcels_pb2, units_pb2

from services.messages import attachment_store, message_store, profiles
from services.messages.abroad import parcels, store
from services.messages.abroad.parcels import Parcel
from services.messages.abroad.store import Kind
from services.messages.servicers import names
from services.messages.servicers.attachments import Attachments
from services.messages.servicers.mailboxes import Mailboxes
from services.messages.servicers.messages import Messages
from services.runtime import identity
from services.runtime.database import Database
from services.runtime.errors import FailedPrecondition

EXCHANGE = "exchange"
"""By whom what other nodes say comes here."""

PIECE = 512 * 1024
"""Bytes of content in one message of an upload."""


class Guests:
    """Takes what foreign units ask, in their name."""

    def __init__(
        self, *, database: Database, mailboxes: Mailboxes, attachments: Attachments, messages: Messages
    ) -> None:
        self._database = database
        self._mailboxes = mailboxes
        self._attachments = attachments
        self._messages = messages

    async def enquire(self, sender: str, asked: parcels_pb2.Enquiry) -> Parcel:
        """Says whether a party can be reached here; that this was asked is on record."""
        unit = await self._unit(sender, asked.unit, legal_profile="")
        request = mailboxes_pb2.LookUpMailboxesRequest(unit=f"units/{unit}", identifiers=[asked.recipient])
        (found,) = (await self._mailboxes.LookUpMailboxes(request)).results
        return Parcel(finding=parcels_pb2.Finding(message=asked.message, reachable=found.reachable))

    async def attachment(
        self, sender: str, brought: parcels_pb2.ParcelAttachment, content: AsyncIterator[bytes]
    ) -> None:
        """Takes an attachment, for the message that comes after it."""
        act_for(sender)
        await take_attachment(self._attachments, brought, content)

    async def message(self, sender: str, brought: parcels_pb2.ParcelMessage) -> None:
        """Delivers a message, and says what has become of it. Raises what SendMessage does."""
        unit = await self._unit(sender, brought.unit, legal_profile=brought.legal_profile)
        message = messages_pb2.Message()
        message.CopyFrom(brought.content)
        for field in ("template", "paper", "publish_time", "metadata", "in_reply_to"):
            message.ClearField(field)
        message.recipient.identifier.CopyFrom(brought.recipient)
        message.in_reply_to = await self._answered(sender, unit, brought.in_reply_to)
        del message.attachments[:]
        message.attachments.extend(await carried(self._database, brought.message, brought.attachments))
        request = messages_pb2.SendMessageRequest(
            parent=f"units/{unit}", message=message, idempotency_key=brought.message
        )
        sent = await self._messages.SendMessage(request)
        message_id = names.uid(sent.name, 3)
        async with self._database.transaction() as transaction:
            if await store.insert_incoming(transaction, message_id, subsystem=sender, foreign_id=UUID(brought.message)):
                await store.add(transaction, message_id, Kind.REPORT, sender)

    async def withdraw(self, sender: str, asked: parcels_pb2.ParcelWithdrawal) -> None:
        """Withdraws a message; one that never came needs no withdrawal."""
        message_id = await store.incoming(self._database, sender, UUID(asked.message))
        row = await message_store.message(self._database, message_id) if message_id is not None else None
        if row is None:
            return
        act_for(sender)
        name = f"units/{row['unit_id']}/messages/{message_id}"
        request = messages_pb2.WithdrawMessageRequest(name=name, explanations=asked.explanations)
        await self._messages.WithdrawMessage(request)

    async def _unit(self, sender: str, shown: parcels_pb2.ForeignUnit, *, legal_profile: str) -> str:
        """The foreign unit's unit here, as which the following is asked."""
        act_for(sender)
        unit_id = parcels.unit_id(sender, shown.unit)
        await store.keep_unit(
            self._database,
            unit_id,
            member=parcels.member(sender),
            display_names=units_pb2.Unit(display_names=shown.display_names).SerializeToString(),
            legal_profile=legal_profile if legal_profile in profiles.PROFILES else profiles.DEFAULT,
        )
        return unit_id

    async def _answered(self, sender: str, unit: str, foreign_id: str) -> str:
        """The name here of the message that another answers; empty where it is not, or no longer, known here."""
        if not foreign_id:
            return ""
        message_id = await store.incoming(self._database, sender, UUID(foreign_id)) or UUID(foreign_id)
        if await message_store.message_of_unit(self._database, unit, message_id) is None:
            return ""
        return f"units/{unit}/messages/{message_id}"


def act_for(sender: str) -> None:
    """Has what follows be done in the name of the member that a subsystem is of."""
    identity.set_caller(identity.Caller(service=EXCHANGE, party=parcels.member(sender), node=sender))


async def take_attachment(
    attachments: Attachments, brought: parcels_pb2.ParcelAttachment, content: AsyncIterator[bytes]
) -> None:
    """Makes an attachment of the caller's with content that comes as a stream; one that is there already stays."""
    request_id = parcels.attachment_request(brought.message, brought.attachment)
    request = attachments_pb2.CreateAttachmentRequest(attachment=brought.described, request_id=str(request_id))
    made = await attachments.CreateAttachment(request)
    if made.state != attachments_pb2.Attachment.STATE_RESERVED:
        return
    skip = made.received_bytes

    async def requests() -> AsyncIterator[attachments_pb2.UploadAttachmentRequest]:
        nonlocal skip
        upload = attachments_pb2.UploadAttachmentRequest(name=made.name, offset=skip)
        yield upload
        async for piece in content:
            for start in range(min(skip, len(piece)), len(piece), PIECE):
                upload = attachments_pb2.UploadAttachmentRequest()
                upload.content.data = piece[start : start + PIECE]
                yield upload
            skip -= min(skip, len(piece))

    await attachments.UploadAttachment(requests())


async def carried(
    database: Database, message: str, brought: Iterable[parcels_pb2.CarriedAttachment]
) -> list[messages_pb2.MessageAttachment]:
    """How a message of the caller's carries the attachments that came before it.

    Raises FailedPrecondition, ATTACHMENT_NOT_READY, where one did not come.
    """
    owner, found = identity.caller().party, []
    for one in brought:
        request_id = parcels.attachment_request(message, one.attachment)
        row = await attachment_store.attachment_by_request(database, owner, request_id)
        if row is None:
            raise FailedPrecondition("ATTACHMENT_NOT_READY", "an attachment of the message did not come")
        found.append(
            messages_pb2.MessageAttachment(
                attachment=f"attachments/{row['attachment_id']}", role=one.role, language=one.language
            )
        )
    return found
