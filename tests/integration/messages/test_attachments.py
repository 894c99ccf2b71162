"""Attachments: streamed, resumed, checked, sealed, deleted when never used."""

from __future__ import annotations

import asyncio
import hashlib
import os
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from google.api import httpbody_pb2
from solmu.messages.v1 import attachments_pb2, inbox_pb2, messages_pb2

from services.messages import attachment_store, housekeeping
from services.messages.servicers.attachments import MAX_PIECE
from services.runtime.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound
from tests.integration.messages.conftest import Service
from tests.integration.messages.test_sending import request

Attachment = attachments_pb2.Attachment
CONTENT = b"%PDF-1.7\n" + os.urandom(800_000)


async def reserve(service: Service, content: bytes = CONTENT, **fields) -> Attachment:
    service.act_as(service.city)
    asked = Attachment(
        file_name="päätös.pdf",
        media_type="application/pdf",
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    for field, value in fields.items():
        setattr(asked, field, value)
    return await service.attachments.CreateAttachment(attachments_pb2.CreateAttachmentRequest(attachment=asked))


async def pieces(name: str, content: bytes, *, offset: int = 0, size: int = 100_000) -> AsyncIterator:
    for start in range(offset, len(content), size):
        yield attachments_pb2.UploadAttachmentRequest(
            name=name if start == offset else "",
            offset=offset if start == offset else 0,
            content=httpbody_pb2.HttpBody(data=content[start : start + size]),
        )


async def upload(service: Service, attachment: Attachment, content: bytes = CONTENT, **options) -> Attachment:
    return await service.attachments.UploadAttachment(pieces(attachment.name, content, **options))


async def download(service: Service, name: str, *, offset: int = 0) -> bytes:
    asked = attachments_pb2.DownloadAttachmentRequest(name=name, offset=offset)
    return b"".join([body.data async for body in service.attachments.DownloadAttachment(asked)])


def unique() -> bytes:
    """Content that nobody else has."""
    return b"%PDF-1.7\n" + os.urandom(30_000)


async def each(*requests: attachments_pb2.UploadAttachmentRequest) -> AsyncIterator:
    for one in requests:
        yield one


async def test_what_goes_up_comes_down(service: Service):
    reserved = await reserve(service)
    assert (reserved.state, reserved.received_bytes) == (Attachment.STATE_RESERVED, 0)
    done = await upload(service, reserved)
    assert (done.state, done.received_bytes, done.file_name) == (Attachment.STATE_CLEAN, len(CONTENT), "päätös.pdf")
    assert await download(service, done.name) == CONTENT
    assert await download(service, done.name, offset=300_000) == CONTENT[300_000:]


async def test_content_of_unknown_size_is_whole_where_its_stream_ends(service: Service):
    reserved = await reserve(service, size_bytes=0, sha256="", media_type="")
    assert (reserved.media_type, reserved.size_bytes, reserved.sha256) == ("application/pdf", 0, "")
    done = await upload(service, reserved)
    assert (done.state, done.size_bytes) == (Attachment.STATE_CLEAN, len(CONTENT))
    assert done.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert await download(service, done.name) == CONTENT


async def test_nothing_is_no_content(service: Service):
    reserved = await reserve(service, size_bytes=0, sha256="")
    empty = attachments_pb2.UploadAttachmentRequest(name=reserved.name)
    with pytest.raises(InvalidArgument) as refused:
        await service.attachments.UploadAttachment(each(empty))
    assert refused.value.reason == "ATTACHMENT_SIZE_MISMATCH"


async def test_another_digest_is_refused_and_nothing_is_kept(service: Service):
    reserved = await reserve(service)
    changed = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with pytest.raises(InvalidArgument) as refused:
        await upload(service, reserved, changed)
    assert refused.value.reason == "ATTACHMENT_DIGEST_MISMATCH"
    assert await service.stored(reserved.name) == []
    assert (await upload(service, reserved)).state == Attachment.STATE_CLEAN


async def test_more_bytes_than_reserved_are_refused_as_they_come(service: Service):
    reserved = await reserve(service)
    with pytest.raises(InvalidArgument) as refused:
        await upload(service, reserved, CONTENT + b"x")
    assert refused.value.reason == "ATTACHMENT_SIZE_MISMATCH"
    assert await service.stored(reserved.name) == []


async def test_an_upload_goes_on_where_it_broke_off(service: Service):
    reserved = await reserve(service)

    async def breaks() -> AsyncIterator:
        sent = 0
        async for piece in pieces(reserved.name, CONTENT):
            if sent > 500_000:
                raise ConnectionResetError
            sent += len(piece.content.data)
            yield piece

    with pytest.raises(ConnectionResetError):
        await service.attachments.UploadAttachment(breaks())
    known = await service.attachments.GetAttachment(attachments_pb2.GetAttachmentRequest(name=reserved.name))
    assert known.received_bytes == 600_000
    with pytest.raises(FailedPrecondition) as refused:
        await upload(service, reserved, offset=0)
    assert refused.value.reason == "ATTACHMENT_OFFSET_MISMATCH"
    assert refused.value.metadata == {"received_bytes": str(known.received_bytes)}
    assert (await upload(service, reserved, offset=known.received_bytes)).state == Attachment.STATE_CLEAN
    assert await download(service, reserved.name) == CONTENT


async def test_two_uploads_at_once_do_not_mix(service: Service):
    reserved = await reserve(service)
    first = pieces(reserved.name, CONTENT)

    async def held() -> AsyncIterator:
        yield await anext(first)
        with pytest.raises(Aborted) as refused:
            await upload(service, reserved)
        assert refused.value.reason == "ATTACHMENT_BUSY"
        async for piece in first:
            yield piece

    assert (await service.attachments.UploadAttachment(held())).state == Attachment.STATE_CLEAN


async def test_a_message_of_the_stream_has_a_largest_size(service: Service):
    reserved = await reserve(service, os.urandom(MAX_PIECE + 1))
    with pytest.raises(InvalidArgument) as refused:
        await upload(service, reserved, os.urandom(MAX_PIECE + 1), size=MAX_PIECE + 1)
    assert refused.value.reason == "FIELD_INVALID"


async def test_content_and_name_lie_sealed_on_disk(service: Service):
    content = b"plain text that must not be found " * 20_000
    reserved = await reserve(service, content, file_name="päätös.txt", media_type="text/plain")
    await upload(service, reserved, content)
    blob = uuid.UUID(reserved.name.split("/")[1])
    stored = service.blobs._store.read(blob, 0)
    assert b"plain text" not in stored
    row = await service.database.fetchrow("select * from attachment where attachment_id = $1", blob)
    assert row is not None
    assert "päätös" not in repr(dict(row))


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "a/b.pdf", "a\\b.pdf", "a\x00.pdf", "CON.pdf", ".hidden", "evil\u202efdp.exe", " a.pdf", "a."],
)
async def test_names_with_tricks_are_refused(service: Service, name: str):
    with pytest.raises(InvalidArgument) as refused:
        await reserve(service, file_name=name)
    assert refused.value.reason == "FILE_NAME_INVALID"


async def test_a_request_id_makes_one_attachment(service: Service):
    service.act_as(service.city)
    asked = attachments_pb2.CreateAttachmentRequest(
        attachment=Attachment(file_name="a.pdf", media_type="application/pdf", size_bytes=1, sha256="0" * 64),
        request_id=str(uuid.uuid4()),
    )
    first = await service.attachments.CreateAttachment(asked)
    assert await service.attachments.CreateAttachment(asked) == first


async def test_attachments_are_their_makers_alone(service: Service):
    reserved = await reserve(service)
    await upload(service, reserved)
    service.act_as("organisations/aaaaaaaaaaaaaaaaaaaaaaaaaa")
    with pytest.raises(NotFound):
        await service.attachments.GetAttachment(attachments_pb2.GetAttachmentRequest(name=reserved.name))
    with pytest.raises(NotFound):
        await download(service, reserved.name)


async def test_downloading_opens_the_message(service: Service):
    attachment = await upload(service, await reserve(service))
    unit = await service.unit()
    identifier, mailbox = await service.resident()
    service.act_as(service.city)
    asked = request(unit, identifier)
    asked.message.attachments.add(attachment=attachment.name)
    sent = await service.messages.SendMessage(asked)
    assert sent.attachments[0].sha256 == attachment.sha256

    service.act_as(service.parties.name_of(identifier))
    name = f"{mailbox}/messages/{sent.name.split('/')[3]}"
    assert await download(service, f"{name}/{attachment.name}") == CONTENT
    page = await service.inbox.ListInboxMessages(inbox_pb2.ListInboxMessagesRequest(parent=mailbox))
    assert page.messages[0].delivery_state == messages_pb2.Delivery.STATE_OPENED
    with pytest.raises(NotFound):
        await download(service, f"{name}/attachments/{uuid.uuid4()}")


async def test_an_attachment_that_nothing_uses_is_deleted_in_time(service: Service):
    used = await upload(service, await reserve(service))
    unused = await upload(service, await reserve(service, other := unique()), other)
    unit = await service.unit()
    identifier, _ = await service.resident()
    service.act_as(service.city)
    asked = request(unit, identifier)
    asked.message.attachments.add(attachment=used.name)
    await service.messages.SendMessage(asked)
    later = datetime.now(UTC) + timedelta(hours=25)
    await housekeeping.once(database=service.database, outbox=service.outbox, now=later)
    assert await download(service, used.name) == CONTENT
    with pytest.raises(NotFound):
        await download(service, unused.name)
    assert await service.stored(unused.name) == []


async def deleted(service: Service, attachment: Attachment) -> None:
    await service.attachments.DeleteAttachment(attachments_pb2.DeleteAttachmentRequest(name=attachment.name))


async def test_the_same_content_of_one_owner_lies_there_once(service: Service):
    content = os.urandom(50_000).hex().encode()
    names = {"file_name": "a.txt", "media_type": "text/plain"}
    first, second, third = [await upload(service, await reserve(service, content, **names), content) for _ in range(3)]
    blob = await service.blob_of(first.name)
    assert {await service.blob_of(each.name) for each in (second, third)} == {blob}
    assert service.blobs._store.sizes(uuid.UUID(second.name.split("/")[1])) != []
    assert len(await service.stored(second.name)) == 1
    assert service.blobs._store.sizes(uuid.UUID(second.name.split("/")[1])) == []

    await deleted(service, first)
    assert len(await service.stored(second.name)) == 1
    assert await download(service, second.name) == await download(service, third.name) == content
    await deleted(service, second)
    fourth = await upload(service, await reserve(service, content, **names), content)
    assert await service.blob_of(fourth.name) == blob
    await deleted(service, third)
    await deleted(service, fourth)
    assert await service.stored(fourth.name) == []
    again = await upload(service, await reserve(service, content, **names), content)
    assert await service.blob_of(again.name) != blob
    assert await download(service, again.name) == content


async def test_the_same_content_of_two_owners_has_nothing_in_common(service: Service):
    content = os.urandom(1_000).hex().encode()
    names = {"file_name": "a.txt", "media_type": "text/plain"}
    first = await upload(service, await reserve(service, content, **names), content)
    await service.resident()
    asked = Attachment(file_name="a.txt", size_bytes=len(content))
    other = await service.attachments.CreateAttachment(attachments_pb2.CreateAttachmentRequest(attachment=asked))
    await upload(service, other, content)
    ids = [uuid.UUID(each.name.split("/")[1]) for each in (first, other)]
    rows = await service.database.fetch(
        "select blob_id, address from attachment where attachment_id = any($1::uuid[])", ids
    )
    assert [row["blob_id"] for row in rows] == [None, None]
    assert len({row["address"] for row in rows}) == 2
    assert service.blobs._store.read(ids[0], 0)[12:] != service.blobs._store.read(ids[1], 0)[12:]


async def test_an_upload_that_died_lets_the_next_one_in_after_a_while(
    service: Service, monkeypatch: pytest.MonkeyPatch
):
    reserved = await reserve(service)
    attachment_id, now = uuid.UUID(reserved.name.split("/")[1]), datetime.now(UTC)
    assert await attachment_store.claim_upload(
        service.database, attachment_id, upload_id=uuid.uuid4(), now=now, until=now + timedelta(seconds=0.5)
    )
    with pytest.raises(Aborted) as refused:
        await upload(service, reserved)
    assert refused.value.reason == "ATTACHMENT_BUSY"
    await asyncio.sleep(0.6)
    assert (await upload(service, reserved)).state == Attachment.STATE_CLEAN


async def test_an_upload_goes_on_as_long_as_it_likes_and_ends_where_another_took_over(
    service: Service, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("services.messages.servicers.attachments.UPLOAD", timedelta(seconds=0.2))
    reserved, content = await reserve(service), CONTENT

    async def slowly() -> AsyncIterator:
        async for piece in pieces(reserved.name, content):
            await asyncio.sleep(0.05)
            yield piece

    assert (await service.attachments.UploadAttachment(slowly())).state == Attachment.STATE_CLEAN
    reserved = await reserve(service, CONTENT[:-1])

    async def stalls() -> AsyncIterator:
        requests = pieces(reserved.name, CONTENT[:-1])
        yield await anext(requests)
        await asyncio.sleep(0.3)
        assert (await upload(service, reserved, CONTENT[:-1])).state == Attachment.STATE_CLEAN
        async for piece in requests:
            yield piece

    with pytest.raises(Aborted) as refused:
        await service.attachments.UploadAttachment(stalls())
    assert refused.value.reason == "ATTACHMENT_BUSY"
    assert await download(service, reserved.name) == CONTENT[:-1]


async def test_deleting_spares_what_a_message_uses(service: Service):
    attachment = await upload(service, await reserve(service))
    unit = await service.unit()
    identifier, _ = await service.resident()
    service.act_as(service.city)
    asked = request(unit, identifier)
    asked.message.attachments.add(attachment=attachment.name)
    await service.messages.SendMessage(asked)
    with pytest.raises(FailedPrecondition) as refused:
        await service.attachments.DeleteAttachment(attachments_pb2.DeleteAttachmentRequest(name=attachment.name))
    assert refused.value.reason == "ATTACHMENT_IN_USE"
