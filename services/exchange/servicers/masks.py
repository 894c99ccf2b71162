"""Update masks (AIP-134)."""

from __future__ import annotations

from collections.abc import Collection

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from services.runtime.errors import Aborted, InvalidArgument


def merge(current: Message, wanted: Message, mask: FieldMask, *, changeable: Collection[str]) -> None:
    """Sets the masked fields of `current` as they are in `wanted`; no mask: all that may change.

    Raises InvalidArgument, UPDATE_MASK_INVALID.
    """
    paths = list(mask.paths) or sorted(changeable)
    for path in paths:
        if path not in changeable:
            raise InvalidArgument("UPDATE_MASK_INVALID", "a field does not exist, or may not be changed", field=path)
    for path in paths:
        current.ClearField(path)
        part = type(current)()
        FieldMask(paths=[path]).MergeMessage(wanted, part)
        current.MergeFrom(part)


def check_etag(given: str, revision: int) -> None:
    """Raises Aborted, ETAG_MISMATCH, where an etag was given and is not the current one."""
    if given and given != str(revision):
        raise Aborted("ETAG_MISMATCH", "somebody else has changed it since it was read")
