"""Attachments are scanned by a clamd, and messages wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from solmu.messages.v1 import attachments_pb2, inbox_pb2, mailboxes_pb2, messages_pb2

from services.messages import clamd, scanning
from services.messages.clamd import Clamd, ScannerAway, Verdict
from services.messages.scanning import Scanning
from services.messages.servicers.attachments import Attachments
from services.runtime.config import Address
from services.runtime.errors import FailedPrecondition, InvalidArgument, NotFound
from tests.integration.messages.conftest import Service
from tests.integration.messages.test_attachments import CONTENT, download, reserve, upload
from tests.integration.messages.test_feed import events_of
from tests.integration.messages.test_sending import request
from tests.integration.messages.test_writing import document, open_unit, written

Attachment = attachments_pb2.Attachment
Message = messages_pb2.Message
EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$" + rb"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
"""The harmless file that every scanner reports (eicar.org); in two parts, so that none reports this one."""


class Daemon:
    """Speaks INSTREAM as clamd(8) describes it, and knows one signature."""

    def __init__(self, *, limit: int = 1 << 20) -> None:
        self._limit = limit
        self.scanned = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            assert await reader.readuntil(b"\0") == b"zINSTREAM\0"
            writer.write(await self._answer(reader) + b"\0")
            await writer.drain()
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        content = b""
        while size := int.from_bytes(await reader.readexactly(4), "big"):
            content += await reader.readexactly(size)
            if len(content) > self._limit:
                return b"INSTREAM size limit exceeded. ERROR"
        self.scanned += 1
        return b"stream: Eicar-Signature FOUND" if EICAR in content else b"stream: OK"


@asynccontextmanager
async def listening(daemon: Daemon) -> AsyncIterator[Address]:
    server = await asyncio.start_server(daemon.serve, "127.0.0.1", 0)
    async with server:
        yield Address("127.0.0.1", server.sockets[0].getsockname()[1])


@asynccontextmanager
async def scanned(service: Service, daemon: Daemon) -> AsyncIterator[Scanning]:
    """Has the service's attachments scanned, one for each call of `next`."""
    async with listening(daemon) as address:
        made = wired(service, Clamd(address))
        unscanned, service.attachments = service.attachments, with_scanning(service, made)
        try:
            yield made
        finally:
            service.attachments = unscanned


def wired(service: Service, client: Clamd) -> Scanning:
    return Scanning(
        database=service.database,
        blobs=service.blobs,
        vault=service.messages._vault,
        outbox=service.messages._outbox,
        clamd=client,
    )


def with_scanning(service: Service, made: Scanning) -> Attachments:
    return Attachments(
        database=service.database,
        blobs=service.blobs,
        inbox=service.inbox,
        outbox=service.messages._outbox,
        vault=service.messages._vault,
        scanning=made,
    )


async def text(service: Service, content: bytes = b"harmless") -> Attachment:
    reserved = await reserve(service, content, file_name="note.txt", media_type="text/plain")
    return await upload(service, reserved, content)


async def state(service: Service, attachment: Attachment) -> int:
    service.act_as(service.city)
    asked = attachments_pb2.GetAttachmentRequest(name=attachment.name)
    return (await service.attachments.GetAttachment(asked)).state


async def judge_all(made: Scanning) -> None:
    while await made.next(now=datetime.now(UTC)):
        pass


async def send_with(service: Service, *attachments: Attachment):
    unit = await service.unit()
    identifier, mailbox = await service.resident()
    service.act_as(service.city)
    asked = request(unit, identifier)
    for attachment in attachments:
        asked.message.attachments.add(attachment=attachment.name)
    return await service.messages.SendMessage(asked), unit, identifier, mailbox, asked


async def inbox_of(service: Service, identifier, mailbox: str):
    service.act_as(service.parties.name_of(identifier))
    page = await service.inbox.ListInboxMessages(inbox_pb2.ListInboxMessagesRequest(parent=mailbox))
    return [message.delivery_state for message in page.messages]


async def test_a_message_waits_until_its_attachments_are_clean(service: Service):
    async with scanned(service, Daemon()) as made:
        await judge_all(made)
        one, other = await text(service), await text(service)
        assert one.state == Attachment.STATE_SCANNING
        sent, unit, identifier, mailbox, asked = await send_with(service, one, other)
        assert sent.state == Message.STATE_AWAITING_ATTACHMENTS
        assert [delivery.state for delivery in sent.deliveries] == [messages_pb2.Delivery.STATE_QUEUED]
        assert await service.messages.SendMessage(asked) == sent
        assert await inbox_of(service, identifier, mailbox) == []
        with pytest.raises(NotFound):
            await service.inbox.OpenInboxMessage(
                inbox_pb2.OpenInboxMessageRequest(name=f"{mailbox}/messages/{sent.name.split('/')[3]}")
            )

        assert await made.next(now=datetime.now(UTC))
        assert await inbox_of(service, identifier, mailbox) == []
        await judge_all(made)
        assert await inbox_of(service, identifier, mailbox) == [messages_pb2.Delivery.STATE_AVAILABLE]
        service.act_as(service.city)
        released = await service.messages.GetMessage(messages_pb2.GetMessageRequest(name=sent.name))
        assert released.state == Message.STATE_RELEASED
        assert released.HasField("release_time")
        told = await events_of(service, unit, 5)
        assert [(event.type, event.attachment) for event in told] == [
            ("message.accepted", ""),
            ("attachment.clean", one.name),
            ("attachment.clean", other.name),
            ("message.released", ""),
            ("delivery.available", ""),
        ]
        assert {event.message for event in told} == {sent.name}


async def test_what_was_found_clean_before_is_not_waited_for(service: Service):
    async with scanned(service, Daemon()) as made:
        attachment = await text(service)
        await judge_all(made)
        sent, *_ = await send_with(service, attachment)
        assert sent.state == Message.STATE_RELEASED


async def test_malware_stops_every_message_that_carries_it(service: Service):
    async with scanned(service, Daemon()) as made:
        clean, bad = await text(service), await text(service, EICAR)
        sent, unit, identifier, mailbox, asked = await send_with(service, clean, bad)
        await judge_all(made)
        assert await state(service, bad) == Attachment.STATE_INFECTED
        refused = await service.messages.GetMessage(messages_pb2.GetMessageRequest(name=sent.name))
        assert refused.state == Message.STATE_REJECTED
        assert b"ATTACHMENT_INFECTED" in refused.rejection.SerializeToString()
        events = await events_of(service, unit, 4)
        assert [(event.type, event.attachment, event.reason) for event in events] == [
            ("message.accepted", "", ""),
            ("attachment.clean", clean.name, ""),
            ("attachment.infected", bad.name, ""),
            ("message.rejected", "", "ATTACHMENT_INFECTED"),
        ]
        assert await inbox_of(service, identifier, mailbox) == []
        assert await service.stored(bad.name) == []

        service.act_as(service.city)
        asked.idempotency_key = "again"
        with pytest.raises(FailedPrecondition) as at_once:
            await service.messages.SendMessage(asked)
        assert at_once.value.reason == "ATTACHMENT_INFECTED"
        with pytest.raises(FailedPrecondition):
            await download(service, bad.name)


async def test_what_cannot_be_scanned_is_not_delivered(service: Service):
    async with scanned(service, Daemon(limit=100)) as made:
        attachment = await text(service, b"x" * 5000)
        sent, *_ = await send_with(service, attachment)
        await judge_all(made)
        assert await state(service, attachment) == Attachment.STATE_SCAN_FAILED
        refused = await service.messages.GetMessage(messages_pb2.GetMessageRequest(name=sent.name))
        assert b"ATTACHMENT_SCAN_FAILED" in refused.rejection.SerializeToString()


async def test_a_mailbox_closed_meanwhile_gets_nothing(service: Service):
    async with scanned(service, Daemon()) as made:
        sent, _, identifier, mailbox, _ = await send_with(service, await text(service))
        service.act_as(service.parties.name_of(identifier))
        await service.mailboxes.CloseMailbox(mailboxes_pb2.CloseMailboxRequest(name=mailbox))
        await judge_all(made)
        assert await inbox_of(service, identifier, mailbox) == []
        service.act_as(service.city)
        refused = await service.messages.GetMessage(messages_pb2.GetMessageRequest(name=sent.name))
        assert b"MAILBOX_NOT_ACTIVE" in refused.rejection.SerializeToString()


async def test_a_scanner_that_is_away_is_waited_for_but_not_for_ever(service: Service):
    async with scanned(service, Daemon()) as made:
        await judge_all(made)
        attachment = await text(service)
        away = wired(service, Clamd(Address("127.0.0.1", 1)))
        now = datetime.now(UTC)
        assert await away.next(now=now)
        assert await state(service, attachment) == Attachment.STATE_SCANNING
        assert not await away.next(now=now + scanning.RETRY / 2)
        assert await made.next(now=now + scanning.RETRY)
        assert await state(service, attachment) == Attachment.STATE_CLEAN

        forgotten = await text(service)
        assert await away.next(now=datetime.now(UTC) + scanning.PATIENCE + timedelta(seconds=1))
        assert await state(service, forgotten) == Attachment.STATE_SCAN_FAILED


async def test_a_dead_processs_scan_is_done_by_another(service: Service):
    daemon = Daemon()
    async with scanned(service, daemon) as made:
        await judge_all(made)
        attachment = await text(service)
        now = datetime.now(UTC)
        await service.database.execute("update attachment set scan_time = $1 where state = 3", now + scanning.CLAIM)
        assert not await made.next(now=now)
        assert await made.next(now=now + scanning.CLAIM)
        assert await state(service, attachment) == Attachment.STATE_CLEAN


async def test_uploads_wake_the_scanner(service: Service):
    async with scanned(service, Daemon()) as made:
        running = asyncio.create_task(made.run())
        try:
            attachment = await text(service)
            while await state(service, attachment) != Attachment.STATE_CLEAN:
                await asyncio.sleep(0.02)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def pieces(*given: bytes) -> AsyncIterator[bytes]:
    for piece in given:
        yield piece


async def test_clamd_is_asked_over_a_unix_socket(tmp_path: Path):
    socket = tmp_path / "clamd.sock"
    async with await asyncio.start_unix_server(Daemon().serve, socket):
        client = Clamd(socket)
        assert await client.scan(pieces(b"a", b"b")) is Verdict.CLEAN
        assert await client.scan(pieces(EICAR[:20], EICAR[20:])) is Verdict.INFECTED
    with pytest.raises(ScannerAway):
        await client.scan(pieces(b"a"))


@pytest.mark.parametrize("answer", [b"", b"stream: ", b"PONG\0", b"x" * 10_000])
async def test_an_answer_that_is_none_is_no_verdict(answer: bytes):
    async def odd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(odd, "127.0.0.1", 0) as server:
        with pytest.raises(ScannerAway):
            await Clamd(Address("127.0.0.1", server.sockets[0].getsockname()[1])).scan(pieces(b"a"))


def test_a_place_is_an_address_or_a_socket():
    assert clamd.place("unix:/run/clamd.sock") == Path("/run/clamd.sock")
    assert clamd.place("localhost:3310") == Address("localhost", 3310)
    with pytest.raises(ValueError, match="host:port"):
        clamd.place("localhost")


async def test_content_of_another_type_is_refused_and_thrown_away(service: Service):
    reserved = await reserve(service, b"MZ" + CONTENT)
    with pytest.raises(InvalidArgument) as refused:
        await upload(service, reserved, b"MZ" + CONTENT)
    assert refused.value.reason == "ATTACHMENT_TYPE_REFUSED"
    assert refused.value.metadata == {"attachment": reserved.name, "defect": "CONTENT_DIFFERS"}
    assert await service.stored(reserved.name) == []
    with pytest.raises(InvalidArgument) as refused:
        await reserve(service, file_name="decision.exe", media_type="application/octet-stream")
    assert refused.value.metadata == {"defect": "EXTENSION_NOT_ALLOWED"}


async def test_a_scheduled_message_whose_attachments_are_clean_waits_on_for_its_publish_time(service: Service):
    async with scanned(service, Daemon()) as made:
        await judge_all(made)
        attachment = await text(service)
        unit = await service.unit()
        identifier, mailbox = await service.resident()
        service.act_as(service.city)
        asked = request(unit, identifier)
        asked.message.attachments.add(attachment=attachment.name)
        asked.message.publish_time.FromDatetime(datetime.now(UTC) + timedelta(days=1))
        sent = await service.messages.SendMessage(asked)
        assert sent.state == Message.STATE_AWAITING_ATTACHMENTS
        await judge_all(made)
        cleared = await service.messages.GetMessage(messages_pb2.GetMessageRequest(name=sent.name))
        assert cleared.state == Message.STATE_SCHEDULED
        await service.pass_time(datetime.now(UTC) + timedelta(days=1, hours=1))
        assert await inbox_of(service, identifier, mailbox) == [messages_pb2.Delivery.STATE_AVAILABLE]


async def test_a_message_that_waited_is_withdrawn_for_good(service: Service):
    async with scanned(service, Daemon()) as made:
        await judge_all(made)
        sent, _, identifier, mailbox, _ = await send_with(service, await text(service))
        withdrawn = await service.messages.WithdrawMessage(messages_pb2.WithdrawMessageRequest(name=sent.name))
        assert withdrawn.state == Message.STATE_WITHDRAWN
        await judge_all(made)
        assert await inbox_of(service, identifier, mailbox) == []


async def test_a_resident_sends_documents_once_they_are_clean(service: Service):
    async with scanned(service, Daemon()) as made:
        await judge_all(made)
        unit = await open_unit(service)
        _, mailbox = await service.resident()
        use = messages_pb2.MessageAttachment(attachment=await document(service))
        with pytest.raises(FailedPrecondition) as refused:
            await written(service, mailbox, unit=unit, attachments=[use])
        assert refused.value.reason == "ATTACHMENT_NOT_READY"
        await judge_all(made)
        assert (await written(service, mailbox, unit=unit, attachments=[use])).attachments[0].file_name == "drawing.txt"
