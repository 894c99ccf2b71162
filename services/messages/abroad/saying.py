"""What an errand says, as a parcel, from what is known when it is said."""

from __future__ import annotations

from solmu.messages.v1 import attachments_pb2, messages_pb2, parcels_pb2
from solmu.types.v1 import types_pb2

from services.messages import attachment_store, deliveries, lifecycle, mailboxes, message_store, unit_store
from services.messages.abroad import store
from services.messages.abroad.parcels import Parcel
from services.messages.abroad.store import Kind
from services.messages.servicers import courses, names, units, views
from services.runtime.database import Database, Row
from services.runtime.sealing import Sealer, Vault

Message = messages_pb2.Message

CARRIED = ("title", "bodies", "visibility", "case_reference", "actions", "reply_policy", "notification")
"""What of a message goes to the other node: what concerns the recipient, and nothing of paper."""


class Saying:
    """Makes parcels."""

    def __init__(self, *, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault
        self._sayings = {
            Kind.ENQUIRY: self._enquiry,
            Kind.ATTACHMENT: self._attachment,
            Kind.MESSAGE: self._message,
            Kind.WITHDRAWAL: self._withdrawal,
            Kind.REPORT: self._report,
            Kind.REPLY: self._reply,
        }

    async def passage(self, errand: Row) -> Row | None:
        """The passage of the errand's message, or of the one that its reply answers; None once it cannot be opened."""
        passage = await store.passage(self._database, errand["message_id"])
        if passage is None:
            async with self._database.transaction() as transaction:
                answered = await store.answered_by(transaction, [errand["message_id"]])
            passage = answered.get(errand["message_id"])
        return None if passage is None or passage["data_key"] is None else passage

    async def parcel(self, errand: Row, passage: Row) -> Parcel | None:
        """What an errand says; None where there is nothing to say any more."""
        return await self._sayings[Kind(errand["kind"])](errand, passage)

    async def _enquiry(self, _: Row, passage: Row) -> Parcel | None:
        if passage["recipient"] is None:
            return None
        unit, recipient = await self._unit(passage["unit_id"]), self._recipient(passage)
        asked = parcels_pb2.Enquiry(message=str(passage["message_id"]), unit=unit, recipient=recipient)
        return Parcel(enquiry=asked)

    async def _attachment(self, errand: Row, passage: Row) -> Parcel | None:
        row = await attachment_store.attachment(self._database, errand["attachment_id"])
        reply = errand["message_id"] != passage["message_id"]
        if row is None or row["data_key"] is None or (not reply and passage["withdraw_time"] is not None):
            return None
        brought = parcels_pb2.ParcelAttachment(
            attachment=str(row["attachment_id"]),
            described=attachments_pb2.Attachment(
                file_name=views.file_name(row, vault=self._vault),
                media_type=row["media_type"],
                size_bytes=row["size_bytes"],
                sha256=row["sha256"],
            ),
            message=str(errand["message_id"]),
            in_reply_to=str(passage["foreign_id"]) if reply else "",
        )
        return Parcel(attachment=brought)

    async def _message(self, _: Row, passage: Row) -> Parcel | None:
        row = await message_store.message(self._database, passage["message_id"])
        if row is None or passage["recipient"] is None or passage["withdraw_time"] is not None:
            return None
        attachments = await attachment_store.attachments_of(self._database, [row["message_id"]])
        answered = await store.passage(self._database, row["in_reply_to"]) if row["in_reply_to"] else None
        content = Message.FromString(views.opened(row, vault=self._vault))
        for field, _ in content.ListFields():
            if field.name not in CARRIED:
                content.ClearField(field.name)  # type: ignore[arg-type]
        if content.HasField("reply_policy"):
            content.reply_policy.reply_to = ""
        content.MergeFrom(Message(kind=row["kind"], due_time=names.timestamp(row["due_time"])))
        in_reply_to = (answered["foreign_id"] if answered else None) or row["in_reply_to"]
        brought = parcels_pb2.ParcelMessage(
            message=str(row["message_id"]),
            unit=await self._unit(row["unit_id"]),
            recipient=self._recipient(passage),
            content=content,
            attachments=[_carried(attachment) for attachment in attachments],
            in_reply_to=str(in_reply_to) if in_reply_to else "",
            legal_profile=row["legal_profile"],
        )
        return Parcel(message=brought)

    async def _withdrawal(self, _: Row, passage: Row) -> Parcel | None:
        row = await message_store.message(self._database, passage["message_id"])
        if row is None:
            return None
        said = parcels_pb2.ParcelWithdrawal(message=str(passage["message_id"]))
        if row["withdrawal"] is not None:
            context = f"messages/{passage['message_id']}/withdrawal"
            explained = messages_pb2.WithdrawMessageRequest.FromString(
                self._sealer(passage).open(row["withdrawal"], context=context)
            )
            said.explanations.extend(explained.explanations)
        return Parcel(withdrawal=said)

    async def _report(self, _: Row, passage: Row) -> Parcel | None:
        row = await message_store.message(self._database, passage["message_id"])
        if row is None:
            return None
        (known,) = await courses.of(self._database, [row])
        way = known.electronic
        assert way is not None  # who comes from another node is known by identity code
        unreachable = way.state is deliveries.State.UNREACHABLE or known.state is lifecycle.State.REJECTED
        actor = types_pb2.Actor.FromString(way.actor or b"")
        said = parcels_pb2.ParcelReport(
            message=str(passage["foreign_id"]),
            unreachable=unreachable,
            available_time=names.timestamp(way.available_time),
            open_time=names.timestamp(way.open_time),
            receipt_time=names.timestamp(way.receipt_time),
            by_delegate=bool(actor.acting_party),
            mailbox_closed=_ground(row) if way.state is deliveries.State.AVAILABLE else "",
        )
        return Parcel(report=said)

    async def _reply(self, errand: Row, passage: Row) -> Parcel | None:
        row = await message_store.message(self._database, errand["message_id"])
        if row is None:
            return None
        said = Message.FromString(views.opened(row, vault=self._vault))
        attachments = await attachment_store.attachments_of(self._database, [row["message_id"]])
        brought = parcels_pb2.ParcelReply(
            reply=str(row["message_id"]),
            in_reply_to=str(passage["foreign_id"]),
            title=said.title,
            body=said.bodies[0],
            attachments=[_carried(attachment) for attachment in attachments],
            by_delegate=bool(views.sender(row).acting_party),
        )
        return Parcel(reply=brought)

    async def _unit(self, unit_id: str) -> parcels_pb2.ForeignUnit:
        row = await unit_store.unit(self._database, unit_id)
        assert row is not None  # units stay
        return parcels_pb2.ForeignUnit(
            unit=unit_id, display_names=units.display_names(row["display_names"]).display_names
        )

    def _recipient(self, passage: Row) -> types_pb2.NationalIdentifier:
        sealed = self._sealer(passage).open(passage["recipient"], context=f"messages/{passage['message_id']}/recipient")
        return types_pb2.NationalIdentifier.FromString(sealed)

    def _sealer(self, passage: Row) -> Sealer:
        return self._vault.sealer(passage["data_key"], owner=f"mailboxes/{passage['mailbox_id']}")


def _ground(row: Row) -> str:
    """On what ground another than its owner has closed the message's mailbox; empty: nobody has."""
    closed = row["mailbox_state"] == mailboxes.State.CLOSED and row["mailbox_close_reason"] > mailboxes.Closing.OWNER
    return mailboxes.Closing(row["mailbox_close_reason"]).name if closed else ""


def _carried(row: Row) -> parcels_pb2.CarriedAttachment:
    return parcels_pb2.CarriedAttachment(
        attachment=str(row["attachment_id"]), role=row["role"], language=row["language"]
    )
