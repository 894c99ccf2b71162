"""Attachments as streams from and to files: a piece in memory at a time, and a break goes on where it broke off."""

from __future__ import annotations

import asyncio
import hashlib
import mimetypes
import os
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import grpc
from google.api import httpbody_pb2
from solmu.messages.v1 import attachments_pb2
from solmu.messages.v1.attachments_pb2 import Attachment

from services.runtime import status
from services.runtime.errors import Aborted, DataLoss, DeadlineExceeded, FailedPrecondition, Unavailable

if TYPE_CHECKING:
    from gateway.client.client import Client

PIECE = 256 * 1024
"""Bytes of an attachment in one message of the stream."""

RESUMPTIONS = 8
"""Breaks in a row, without a byte between them, after which a transfer is given up."""

FIRST_PAUSE, MAX_PAUSE = 0.2, 5.0
"""Seconds before going on after a break: doubling from the first to the largest."""

UNKNOWN_TYPE = "application/octet-stream"

Progress = Callable[[int, int], None]
"""Told how many bytes are over, and of how many; 0 where that is not known."""

_BREAKS = (Unavailable, DeadlineExceeded, Aborted)
"""What ends a stream without its being wrong; Aborted while the node has not noticed the end of the one before."""


class Source(Protocol):
    """What is sent."""

    @property
    def size(self) -> int:
        """Bytes in all."""

    def read(self, offset: int, size: int) -> bytes:
        """At most so many bytes from a place on."""


class Bytes:
    """Content in memory."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size = len(content)

    def read(self, offset: int, size: int) -> bytes:
        """See Source."""
        return self._content[offset : offset + size]


class File:
    """Content of a file, opened for each piece, so that nothing has to be closed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size = path.stat().st_size

    def read(self, offset: int, size: int) -> bytes:
        """See Source."""
        with self._path.open("rb") as file:
            file.seek(offset)
            return file.read(size)


def media_type(file: Path) -> str:
    """The type that a file's name stands for."""
    return mimetypes.guess_type(file.name)[0] or UNKNOWN_TYPE


def digest(source: Source) -> str:
    """SHA-256 of all of it, hexadecimal."""
    sha256 = hashlib.sha256()
    for offset in range(0, source.size, PIECE):
        sha256.update(source.read(offset, PIECE))
    return sha256.hexdigest()


async def upload(
    client: Client,
    source: Source,
    *,
    file_name: str,
    media_type: str,
    attempts: int | None = None,
    progress: Progress | None = None,
) -> Attachment:
    """Reserves, sends, and goes on after breaks. Raises Fault where the node refuses, or stays away."""
    asked = Attachment(
        file_name=file_name,
        media_type=media_type,
        size_bytes=source.size,
        sha256=await asyncio.to_thread(digest, source),
    )
    reserve = attachments_pb2.CreateAttachmentRequest(attachment=asked, request_id=str(uuid.uuid4()))
    attachment = await client.call(client.attachments.CreateAttachment, reserve, attempts=attempts)
    name, offset, breaks = attachment.name, 0, 0
    while True:
        try:
            return await send(client, name, source, offset, progress)
        except _BREAKS:
            if breaks == RESUMPTIONS:
                raise
        except FailedPrecondition as fault:
            # What had come before a break was still being written when we asked how much it is.
            if fault.reason != "ATTACHMENT_OFFSET_MISMATCH" or breaks == RESUMPTIONS:
                raise
        await asyncio.sleep(min(FIRST_PAUSE * 2**breaks, MAX_PAUSE))
        attachment = await client.call(
            client.attachments.GetAttachment, attachments_pb2.GetAttachmentRequest(name=name)
        )
        if attachment.state != Attachment.STATE_RESERVED:
            return attachment  # the last byte had come; only the answer had not
        breaks = 0 if attachment.received_bytes > offset else breaks + 1
        offset = attachment.received_bytes


async def send(
    client: Client, name: str, source: Source, offset: int = 0, progress: Progress | None = None
) -> Attachment:
    """One stream of content, from `offset` on."""

    async def pieces() -> AsyncIterator[attachments_pb2.UploadAttachmentRequest]:
        for start in range(offset, source.size, PIECE):
            first = start == offset
            piece = await asyncio.to_thread(source.read, start, PIECE)
            yield attachments_pb2.UploadAttachmentRequest(
                name=name if first else "",
                offset=offset if first else 0,
                content=httpbody_pb2.HttpBody(data=piece),
            )
            if progress:
                progress(start + len(piece), source.size)

    try:
        return await client.attachments.UploadAttachment(pieces(), metadata=await client.metadata())
    except grpc.RpcError as error:
        raise status.fault_of(error) from None


async def download(
    client: Client, name: str, file: Path, *, sha256: str = "", size: int = 0, progress: Progress | None = None
) -> None:
    """See `Client.download_file`."""
    part = file.with_name(file.name + ".part")
    breaks = 0
    while True:
        had = part.stat().st_size if part.exists() else 0
        try:
            await _receive(client, name, part, offset=had, size=size, progress=progress)
            break
        except _BREAKS:
            breaks = 0 if part.exists() and part.stat().st_size > had else breaks + 1
            if breaks > RESUMPTIONS:
                raise
        await asyncio.sleep(min(FIRST_PAUSE * 2**breaks, MAX_PAUSE))
    if sha256 and await asyncio.to_thread(digest, File(part)) != sha256:
        part.unlink()
        raise DataLoss("CONTENT_DIFFERS", f"what came of {name} has another SHA-256 digest; it was thrown away")
    os.replace(part, file)  # noqa: PTH105 - Path.replace says nothing more


async def _receive(client: Client, name: str, part: Path, *, offset: int, size: int, progress: Progress | None) -> None:
    request = attachments_pb2.DownloadAttachmentRequest(name=name, offset=offset)
    with part.open("ab") as out:
        async with aclosing(client.stream(client.attachments.DownloadAttachment, request)) as pieces:
            async for piece in pieces:
                await asyncio.to_thread(out.write, piece.data)
                offset += len(piece.data)
                if progress:
                    progress(offset, size)
