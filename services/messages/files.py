"""Names, sizes and digests of attachments: pure rules."""

from __future__ import annotations

import re
import unicodedata

from services.runtime.errors import FailedPrecondition, InvalidArgument

_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')

MAX_NAME_BYTES = 255
"""What file systems take (ext4, APFS, NTFS)."""

MAX_BYTES = 2 << 30
"""Content of one attachment: 2 GiB, as the contract has it."""

_RESERVED = re.compile(r"^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?$", re.IGNORECASE)
"""Names that Windows keeps for devices."""


def file_name(name: str) -> str:
    """The name under which a file can be saved anywhere, in Unicode's composed form (NFC).

    Raises InvalidArgument, FILE_NAME_INVALID, for paths, control and
    direction-changing characters, hidden files and reserved names.
    """
    composed = unicodedata.normalize("NFC", name)
    disguised = any(unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp") for character in composed)
    if (
        not composed
        or disguised
        or _FORBIDDEN.search(composed)
        or _RESERVED.match(composed)
        or composed != composed.strip(" ")
        or composed.startswith(".")
        or composed.endswith(".")
        or len(composed.encode()) > MAX_NAME_BYTES
    ):
        raise InvalidArgument(
            "FILE_NAME_INVALID",
            "the file name has a path in it, characters that do not belong, or is reserved",
            violations=[("attachment.file_name", "is not a plain file name")],
        )
    return composed


def resumed_at(offset: int, *, received: int) -> None:
    """Raises FailedPrecondition where an upload does not go on where the previous one broke off."""
    if offset != received:
        raise FailedPrecondition(
            "ATTACHMENT_OFFSET_MISMATCH",
            f"{received} bytes have arrived; go on from there",
            received_bytes=str(received),
        )


def not_beyond(received: int, *, size: int) -> None:
    """Raises InvalidArgument as soon as more bytes arrive than were reserved; `size` 0 is not known."""
    if received > (size or MAX_BYTES):
        raise _size_mismatch(received, size or MAX_BYTES)


def complete(received: int, digest: str, *, size: int, sha256: str) -> None:
    """Raises InvalidArgument where what arrived is not what was reserved; `size` 0 and `sha256` "" are not known."""
    if not received or (size and received != size):
        raise _size_mismatch(received, size)
    if sha256 and digest != sha256:
        raise InvalidArgument(
            "ATTACHMENT_DIGEST_MISMATCH",
            "the content has another SHA-256 digest than was reserved; it was thrown away",
            expected=sha256,
            actual=digest,
        )


def _size_mismatch(received: int, size: int) -> InvalidArgument:
    return InvalidArgument(
        "ATTACHMENT_SIZE_MISMATCH",
        "the content has another size than was reserved",
        expected=str(size),
        actual=str(received),
    )
