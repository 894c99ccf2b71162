"""Parcels as bodies of envelopes, and the names that what is foreign has here."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator
from uuid import UUID, uuid5

from google.protobuf.message import DecodeError
from solmu.messages.v1 import parcels_pb2

from services.runtime.errors import InvalidArgument

Parcel = parcels_pb2.Parcel

TYPE = Parcel.DESCRIPTOR.full_name
"""The type of the envelopes."""

MEDIA_TYPE = "application/protobuf"

MAX_PARCEL = 16 * 1024 * 1024
"""Bytes of a parcel, the content of an attachment not counted: ten bodies of the greatest length, twice."""

LENGTH_BYTES = 4


def nodes(value: str) -> tuple[str, ...]:
    """Reads a list of subsystems, spelt with "/" and separated by commas, as resource names."""
    found = tuple(f"subsystems/{each.strip().replace('/', '~')}" for each in value.split(",") if each.strip())
    for subsystem in found:
        if not re.fullmatch(r"subsystems/[^/:~]+(~[^/:~]+){2}~solmu", subsystem):
            raise ValueError(f"{value!r} is not a list of INSTANCE/CLASS/MEMBER/solmu")
    return found


def packed(parcel: Parcel) -> bytes:
    """The beginning of a body: all of it, but for the content of an attachment."""
    content = parcel.SerializeToString()
    return len(content).to_bytes(LENGTH_BYTES) + content


async def unpacked(pieces: AsyncIterator[bytes]) -> tuple[Parcel, bytes]:
    """The parcel at the beginning of a body, and what was read behind it. Raises InvalidArgument, FIELD_INVALID."""
    read = bytearray()
    size = None
    async for piece in pieces:
        read += piece
        if size is None and len(read) >= LENGTH_BYTES:
            size = LENGTH_BYTES + int.from_bytes(read[:LENGTH_BYTES])
            if size > MAX_PARCEL:
                raise _unreadable("is too long")
        if size is not None and len(read) >= size:
            break
    if size is None or len(read) < size:
        raise _unreadable("is not whole")
    try:
        return Parcel.FromString(bytes(read[LENGTH_BYTES:size])), bytes(read[size:])
    except DecodeError:
        raise _unreadable("is none") from None


def member(subsystem: str) -> str:
    """The member that a subsystem `subsystems/{subsystem}` is of, as the party that acts: `members/{member}`."""
    return "members/" + subsystem.partition("/")[2].rpartition("~")[0]


def unit_id(subsystem: str, unit: str) -> str:
    """What another node's unit is called here. It begins with a digit, as no unit does that was made here."""
    digest = hashlib.sha256(f"{subsystem}\n{unit}".encode()).digest()[:16]
    return f"0-{base64.b32encode(digest).decode().rstrip('=').lower()}"


def attachment_request(message: str, attachment: str) -> UUID:
    """The request id under which an attachment of another node is made here, for one message."""
    return uuid5(UUID(message), attachment)


def _unreadable(what: str) -> InvalidArgument:
    return InvalidArgument("FIELD_INVALID", "the parcel cannot be read", violations=[("body", what)])
