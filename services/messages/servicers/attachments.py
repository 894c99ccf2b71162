"""AttachmentService: content up and down as streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

from google.api import httpbody_pb2
from solmu.messages.v1 import attachments_pb2

from services.messages import (
    attachment_store,
    blob_store,
    digests,
    export_store,
    files,
    formats,
    letter_store,
    message_store,
)
from services.messages.blobs import Blobs, Writer
from services.messages.scanning import Scanning
from services.messages.servicers import accesses, names, views
from services.messages.servicers.inbox import Inbox
from services.runtime import identity
from services.runtime.database import Database, Row
from services.runtime.errors import Aborted, FailedPrecondition, Fault, InvalidArgument, not_found
from services.runtime.ids import new_id
from services.runtime.outbox import Outbox
from services.runtime.sealing import Vault

Attachment = attachments_pb2.Attachment

UNUSED = timedelta(hours=24)
"""How long an attachment waits for a message that uses it."""

UNUSED_OF_NODE = timedelta(days=31)
"""The same where another node brings both: as long as an envelope may be under way."""

UPLOAD = timedelta(seconds=15)
"""How long an upload whose process died keeps others out; one that goes on renews it when a third of it is over."""

MAX_PIECE = 1024 * 1024
"""Bytes of content in one message of an upload."""


class Attachments:
    """Takes and gives attachments."""

    def __init__(
        self,
        *,
        database: Database,
        blobs: Blobs,
        inbox: Inbox,
        outbox: Outbox,
        vault: Vault,
        scanning: Scanning | None,
    ) -> None:
        """Without `scanning`, the node has no scanner, and what is whole is ready."""
        self._database = database
        self._scanning = scanning
        self._blobs = blobs
        self._inbox = inbox
        self._outbox = outbox
        self._vault = vault

    async def CreateAttachment(self, request: attachments_pb2.CreateAttachmentRequest) -> Attachment:
        """Reserves an attachment; a repeat of the request id returns the first."""
        asked, attachment_id, owner, now = request.attachment, new_id(), identity.caller().party, names.now()
        name = files.file_name(asked.file_name)
        media_type = asked.media_type or formats.media_type(name)
        formats.declared(name, media_type)
        data_key = self._vault.new_key(owner=f"attachments/{attachment_id}")
        sealer = self._vault.sealer(data_key, owner=f"attachments/{attachment_id}")
        request_id = UUID(request.request_id) if request.request_id else None
        row = await attachment_store.insert_attachment(
            self._database,
            {
                "attachment_id": attachment_id,
                "owner": owner,
                "request_id": request_id,
                "file_name": sealer.seal(name.encode(), context=f"attachments/{attachment_id}/name"),
                "media_type": media_type,
                "size_bytes": asked.size_bytes,
                "digest": digests.sealed(asked.sha256, attachment_id=attachment_id, sealer=sealer),
                "data_key": data_key,
                "create_time": now,
                "expire_time": now + (UNUSED_OF_NODE if identity.caller().node else UNUSED),
            },
        )
        if row is None and request_id is not None:
            row = await attachment_store.attachment_by_request(self._database, owner, request_id)
        if row is None:
            raise not_found(f"attachments/{attachment_id}")
        return await self._view(row)

    async def UploadAttachment(self, requests: AsyncIterator[attachments_pb2.UploadAttachmentRequest]) -> Attachment:
        """Takes content until the stream ends; checks it once all of it is there."""
        first = await anext(aiter(requests), None)
        if first is None or not first.name:
            violations = [("name", "is not set on the first message of the stream")]
            raise InvalidArgument("FIELD_INVALID", "the upload does not say what it is of", violations=violations)
        row = await self._own(names.uid(first.name, 1))
        if row["state"] != Attachment.STATE_RESERVED:
            raise FailedPrecondition("ATTACHMENT_COMPLETE", "all of the content is there already")
        sealer = views.blob_sealer(row, vault=self._vault)
        async with (
            self._uploading(row["attachment_id"]) as upload,
            self._blobs.writer(row["blob_id"], sealer, claim=upload.go_on) as writer,
        ):
            files.resumed_at(first.offset, received=writer.kept)
            await _take(writer, first, row)
            async for request in requests:
                await upload.go_on()
                await _take(writer, request, row)
            uploaded = await self._finish(writer, row, upload)
        return await self._view(uploaded)

    async def GetAttachment(self, request: attachments_pb2.GetAttachmentRequest) -> Attachment:
        """An attachment, for the party that made it."""
        return await self._view(await self._own(names.uid(request.name, 1)))

    async def DownloadAttachment(
        self, request: attachments_pb2.DownloadAttachmentRequest
    ) -> AsyncIterator[httpbody_pb2.HttpBody]:
        """Content, to a recipient (which opens the message), to a unit that has it, or to the party that made it."""
        row = await self._readable(request.name)
        if row["state"] != Attachment.STATE_CLEAN:
            raise FailedPrecondition(
                "ATTACHMENT_NOT_READY",
                "not all of the content is there, or it has not been found clean",
                attachment=f"attachments/{row['attachment_id']}",
            )
        if request.offset > row["size_bytes"]:
            raise InvalidArgument(
                "FIELD_INVALID", "the offset lies behind the end", violations=[("offset", "is too large")]
            )
        sealer = views.blob_sealer(row, vault=self._vault)
        media_type = row["media_type"]
        async for piece in self._blobs.read(row["blob_id"], sealer, offset=request.offset, size=row["size_bytes"]):
            yield httpbody_pb2.HttpBody(content_type=media_type, data=piece)
            media_type = ""  # in the first message only

    async def DeleteAttachment(self, request: attachments_pb2.DeleteAttachmentRequest) -> Attachment:
        """Deletes an attachment that no message uses."""
        attachment_id = names.uid(request.name, 1)
        await self._own(attachment_id)
        async with self._database.transaction() as transaction:
            row = await attachment_store.delete_attachment(transaction, attachment_id)
            if row is None:
                raise FailedPrecondition("ATTACHMENT_IN_USE", "the attachment goes with a message and stays")
            await blob_store.leave(transaction, [row["blob_id"]])
        return await self._view(row)

    async def _own(self, attachment_id: UUID) -> Row:
        row = await attachment_store.attachment(self._database, attachment_id)
        if row is None or row["owner"] != identity.caller().party or row["state"] == Attachment.STATE_PURGED:
            raise not_found(f"attachments/{attachment_id}")
        return row

    async def _readable(self, name: str) -> Row:
        if name.startswith("attachments/"):
            if identity.caller().actor:  # an archive of the mailbox is one, too
                raise not_found(name)
            attachment_id = names.uid(name, 1)
            use = await attachment_store.received_by(self._database, attachment_id, identity.caller().party)
            if use is not None:
                return await self._received(f"units/{use['unit_id']}/messages/{use['message_id']}/{name}")
            return await self._letter(attachment_id) or await self._file_of_own(attachment_id)
        if name.startswith("units/"):
            return await self._received(name)
        mailbox_id, message_id, attachment_id = (names.uid(name, position) for position in (1, 3, 5))
        async with self._database.transaction() as transaction:
            await names.own_mailbox(transaction, mailbox_id)
            await self._inbox.open(transaction, mailbox_id, message_id, method="DownloadAttachment")
            attached = await attachment_store.attachments_of(transaction, [message_id])
        self._outbox.wake()
        for row in attached:
            if row["attachment_id"] == attachment_id:
                return row
        raise not_found(name)

    async def _letter(self, attachment_id: UUID) -> Row | None:
        """A letter that the caller, a print house, is to print; that it looked is on the recipient's list."""
        row = await letter_store.file(self._database, attachment_id, claimant=identity.caller().party)
        if row is not None:
            await accesses.record(self._database, row["mailbox_id"], "DownloadAttachment", message_id=row["message_id"])
        return row

    async def _file_of_own(self, attachment_id: UUID) -> Row:
        """What the caller made. One's own file is no look at anybody's mailbox; an archive is, at all of it."""
        row = await self._own(attachment_id)
        mailbox_id = await export_store.mailbox_of(self._database, attachment_id)
        if mailbox_id is not None:
            await accesses.record(self._database, mailbox_id, "DownloadAttachment")
        return row

    async def _received(self, name: str) -> Row:
        """An attachment of a message that a unit has."""
        unit_id, message_id, attachment_id = names.part(name, 1), names.uid(name, 3), names.uid(name, 5)
        await names.own_unit(self._database, unit_id)
        message = await message_store.message_of_unit(self._database, unit_id, message_id)
        if message is not None:
            for row in await attachment_store.attachments_of(self._database, [message_id]):
                if row["attachment_id"] == attachment_id:
                    await accesses.record_unit(self._database, unit_id, message, "DownloadAttachment")
                    return row
        raise not_found(name)

    @asynccontextmanager
    async def _uploading(self, attachment_id: UUID) -> AsyncIterator[_Upload]:
        """An upload that nobody disturbs. Raises Aborted, ATTACHMENT_BUSY, while there is another."""
        upload = _Upload(self._database, attachment_id)
        await upload.go_on()
        try:
            yield upload
        finally:
            await attachment_store.end_upload(self._database, attachment_id, upload_id=upload.upload_id)

    async def _finish(self, writer: Writer, row: Row, upload: _Upload) -> Row:
        """Keeps and checks what has come; the attachment as it is then."""
        if writer.received < row["size_bytes"]:  # 0 where the size was not known: then the end is where it ends
            await writer.pause()
            return row
        await writer.finish()
        try:
            expected = digests.opened(row, vault=self._vault)
            files.complete(writer.received, writer.digest, size=row["size_bytes"], sha256=expected)
            await self._check_format(row, size=writer.received)
            return await self._uploaded(writer, row, upload)
        except Fault:
            await writer.discard()
            raise

    async def _check_format(self, row: Row, *, size: int) -> None:
        with self._blobs.opened(row["blob_id"], views.blob_sealer(row, vault=self._vault), size=size) as file:
            await asyncio.to_thread(
                formats.check,
                file,
                file_name=views.file_name(row, vault=self._vault),
                media_type=row["media_type"],
                attachment=f"attachments/{row['attachment_id']}",
            )

    async def _uploaded(self, writer: Writer, row: Row, upload: _Upload) -> Row:
        """The attachment with all of its content; where its owner has that content already, there is one blob of it."""
        attachment_id = row["attachment_id"]
        address = self._vault.digest(f"{row['owner']} {writer.digest}".encode())
        sealer = self._vault.sealer(row["data_key"], owner=f"attachments/{attachment_id}")
        async with self._database.transaction() as transaction:
            if await blob_store.share(transaction, attachment_id, address=address):
                await blob_store.leave(transaction, [attachment_id])
            uploaded = await attachment_store.set_uploaded(
                transaction,
                attachment_id,
                upload_id=upload.upload_id,
                size=writer.received,
                digest=digests.sealed(writer.digest, attachment_id=attachment_id, sealer=sealer),
                address=address,
                scanned=self._scanning is not None,
                now=names.now(),
            )
            if uploaded is None:
                raise not_found(f"attachments/{attachment_id}")
        if self._scanning is not None:
            self._scanning.wake()
        return uploaded

    async def _view(self, row: Row) -> Attachment:
        whole = row["state"] != Attachment.STATE_RESERVED
        received = row["size_bytes"] if whole else await self._blobs.size(row["attachment_id"])
        return views.attachment(row, vault=self._vault, received=received)


class _Upload:
    """The right to upload an attachment, which ends by itself where its process dies."""

    def __init__(self, database: Database, attachment_id: UUID) -> None:
        self._database = database
        self._attachment_id = attachment_id
        self._until = datetime.min.replace(tzinfo=UTC)
        self.upload_id = new_id()

    async def go_on(self) -> None:
        """Keeps the right for a while longer. Raises Aborted, ATTACHMENT_BUSY, where another has it."""
        now = names.now()
        if self._until - now > UPLOAD * 2 / 3:
            return
        until = now + UPLOAD
        if not await attachment_store.claim_upload(
            self._database, self._attachment_id, upload_id=self.upload_id, now=now, until=until
        ):
            raise Aborted("ATTACHMENT_BUSY", "another upload of this attachment is under way")
        self._until = until


async def _take(writer: Writer, request: attachments_pb2.UploadAttachmentRequest, row: Row) -> None:
    data = request.content.data
    if len(data) > MAX_PIECE:
        violations = [("content.data", f"is over {MAX_PIECE} bytes")]
        raise InvalidArgument("FIELD_INVALID", "a message of the stream is too large", violations=violations)
    try:
        files.not_beyond(writer.received + len(data), size=row["size_bytes"])
    except InvalidArgument:
        await writer.discard()
        raise
    await writer.append(data)
