"""Makes archives of mailboxes: JSON and files in a zip archive, as an attachment of the owner.

    messages/<message>.json                       the message as the contract's Message
    messages/<message>/<attachment>/<file name>   its attachments
    contacts.json                                 where the owner is told (ListContactsResponse)
    accesses/<number>.json                        who looked, latest first (ListAccessesResponse)

The archive is written piece by piece and sealed as every attachment is; no file
of it lies in the clear, and memory does not grow with it.
"""

from __future__ import annotations

import asyncio
import logging
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import BinaryIO, cast
from uuid import UUID

from google.protobuf import json_format
from solmu.messages.v1 import contacts_pb2, mailboxes_pb2, messages_pb2

from services.messages import access_store, attachment_store, blob_store, digests, export_store, mailbox_store
from services.messages.blobs import Blobs, Writer
from services.messages.notifications import contact_store
from services.messages.servicers import accesses, contacts, views
from services.runtime.database import PASSING, Database, Row
from services.runtime.errors import Fault, Unavailable
from services.runtime.ids import new_id
from services.runtime.sealing import Sealer, Vault

logger = logging.getLogger(__name__)

State = mailboxes_pb2.MailboxExport.State

CLAIM = timedelta(minutes=30)
"""How long one archive may take before another process tries."""

MAX_ATTEMPTS = 3
"""Tries of one archive; the owner may ask again."""

KEPT = timedelta(days=7)
"""How long an archive waits to be downloaded."""

ABANDONED = timedelta(hours=24)
"""After this long, what was written of an archive that never became one is deleted."""

POLL_INTERVAL = 2.0
"""Seconds between two looks for exports that were asked for."""

PAGE = 100
"""Messages, or entries of the list of who looked, read at once."""

FILE_NAME = "mailbox.zip"
CLEAN = 4


class Exporting:
    """Makes the archives that were asked for."""

    def __init__(self, *, database: Database, blobs: Blobs, vault: Vault) -> None:
        self._database = database
        self._blobs = blobs
        self._vault = vault

    async def run(self) -> None:
        """Makes archives for as long as the process runs, one at a time."""
        while True:
            try:
                while await self.next(now=datetime.now(UTC)):
                    pass
            except PASSING as error:
                logger.warning("exports wait", extra={"error": type(error).__qualname__})
            await asyncio.sleep(POLL_INTERVAL)

    async def next(self, *, now: datetime) -> bool:
        """Makes the archive that has waited longest. False: none waits."""
        export = await export_store.claim(self._database, now=now, until=now + CLAIM)
        if export is None:
            return False
        if export["attempts"] > MAX_ATTEMPTS or export["data_key"] is None:
            await self._give_up(export)
            return True
        try:
            await self._make(export)
        except Unavailable:
            logger.warning("an export waits for the store", extra={"export": str(export["export_id"])})
        except Fault:  # what is stored does not open
            logger.error("an export failed", extra={"export": str(export["export_id"])})
            await self._give_up(export)
        return True

    async def _make(self, export: Row) -> None:
        attachment_id, blob_id = export["attachment_id"], new_id()
        owner, blob_owner = f"attachments/{attachment_id}", f"attachments/{blob_id}"
        data_key, blob_key = self._vault.new_key(owner=owner), self._vault.new_key(owner=blob_owner)
        sealer = self._vault.sealer(data_key, owner=owner)
        await blob_store.leave(self._database, [blob_id], since=datetime.now(UTC) + ABANDONED)
        async with self._blobs.writer(blob_id, self._vault.sealer(blob_key, owner=blob_owner)) as writer:
            await self._write(export, writer)
            await writer.finish()
        now = datetime.now(UTC)
        async with self._database.transaction() as transaction:
            mailbox = await mailbox_store.lock_mailbox(transaction, export["mailbox_id"])
            if mailbox is None or mailbox["data_key"] is None:  # erased meanwhile
                return
            await export_store.insert_archive(
                transaction,
                attachment_id=attachment_id,
                owner=export["party"],
                file_name=sealer.seal(FILE_NAME.encode(), context=f"{owner}/name"),
                size=writer.received,
                digest=digests.sealed(writer.digest, attachment_id=attachment_id, sealer=sealer),
                data_key=data_key,
                blob_id=blob_id,
                blob_key=blob_key,
                now=now,
                expire_time=now + KEPT,
            )
            await export_store.finish(transaction, export["export_id"], state=State.STATE_READY, expire_time=now + KEPT)

    async def _write(self, export: Row, writer: Writer) -> None:
        sink = _Sink()
        mailbox = self._vault.sealer(export["data_key"], owner=f"mailboxes/{export['mailbox_id']}")
        with zipfile.ZipFile(cast("BinaryIO", sink), "w", zipfile.ZIP_DEFLATED) as archive:
            after = UUID(int=0)
            while rows := await export_store.messages(self._database, export["mailbox_id"], after=after, limit=PAGE):
                attached = await attachment_store.attachments_of(self._database, [row["message_id"] for row in rows])
                for row in rows:
                    own = [one for one in attached if one["message_id"] == row["message_id"]]
                    archive.writestr(f"messages/{row['message_id']}.json", _json(row, mailbox))
                    await self._write_files(archive, row, own, sink, writer)
                after = rows[-1]["message_id"]
            rows = await contact_store.contacts_of(self._database, export["mailbox_id"])
            found = contacts_pb2.ListContactsResponse(contacts=[contacts.contact(row, mailbox) for row in rows])
            archive.writestr("contacts.json", json_format.MessageToJson(found, ensure_ascii=False))
            await self._write_accesses(archive, export["mailbox_id"], sink, writer)
        await writer.append(sink.taken())

    async def _write_accesses(self, archive: zipfile.ZipFile, mailbox_id: UUID, sink: _Sink, writer: Writer) -> None:
        before, number = None, 0
        while rows := await access_store.of_mailbox(self._database, mailbox_id, before=before, limit=PAGE):
            before, number = rows[-1]["access_id"], number + 1
            looks = [accesses.access(f"mailboxes/{mailbox_id}", row) for row in rows]
            page = mailboxes_pb2.ListAccessesResponse(accesses=looks)
            archive.writestr(f"accesses/{number}.json", json_format.MessageToJson(page))
            await writer.append(sink.taken())

    async def _write_files(
        self, archive: zipfile.ZipFile, message: Row, attached: Sequence[Row], sink: _Sink, writer: Writer
    ) -> None:
        await writer.append(sink.taken())
        for row in attached:
            if row["state"] != CLEAN:
                continue
            name, sealer = views.file_name(row, vault=self._vault), views.blob_sealer(row, vault=self._vault)
            path = f"messages/{message['message_id']}/{row['attachment_id']}/{name}"
            with archive.open(path, "w", force_zip64=True) as file:
                async for piece in self._blobs.read(row["blob_id"], sealer, offset=0, size=row["size_bytes"]):
                    file.write(piece)
                    await writer.append(sink.taken())

    async def _give_up(self, export: Row) -> None:
        async with self._database.transaction() as transaction:
            await export_store.finish(transaction, export["export_id"], state=State.STATE_FAILED, expire_time=None)


class _Sink:
    """Takes what zipfile writes, which goes forward only, and gives it away."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def write(self, data: bytes, /) -> int:
        self._pending += data
        return len(data)

    def flush(self) -> None:
        """Nothing waits elsewhere."""

    def taken(self) -> bytes:
        taken = bytes(self._pending)
        self._pending.clear()
        return taken


def _json(row: Row, mailbox: Sealer) -> str:
    message = messages_pb2.Message.FromString(mailbox.open(row["content"], context=f"messages/{row['message_id']}"))
    message.name = f"units/{row['unit_id']}/messages/{row['message_id']}"
    message.direction = row["direction"]
    message.kind = row["kind"]
    message.thread = f"threads/{row['thread']}"
    message.create_time.FromDatetime(row["create_time"])
    message.release_time.FromDatetime(row["release_time"])
    return json_format.MessageToJson(message, ensure_ascii=False)
