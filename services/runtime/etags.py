"""Entity tags for callers by REST (RFC 9110, sections 8.8.3 and 13.1.1).

An answer's `etag` is its header `etag` as well. A request's header `if-match`
is its field `etag`, or that of the resource in it, where the caller left the
field empty. gRPC callers may use either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from services.runtime.errors import InvalidArgument

FIELD, IF_MATCH = "etag", "if-match"


class Tags:
    """The tags of one method, by its descriptors."""

    def __init__(self, request: Descriptor, response: Descriptor) -> None:
        self._in_request = FIELD in request.fields_by_name
        self._resource = next(
            (
                field.name
                for field in request.fields
                if field.message_type is not None
                and not field.is_repeated
                and FIELD in field.message_type.fields_by_name
            ),
            None,
        )
        self._in_response = FIELD in response.fields_by_name

    def take(self, request: Message, metadata: Mapping[str, str]) -> None:
        """Puts `if-match` where the method looks for it; `*` asks for any version there is, as no tag does.

        Raises InvalidArgument, FIELD_INVALID, where the method compares no
        versions: a condition that nobody checks must not pass for one that held.
        """
        wanted = metadata.get(IF_MATCH)
        if wanted is None:
            return
        holder: Any = request if self._in_request else getattr(request, self._resource) if self._resource else None
        if holder is None:
            violations = [(IF_MATCH, "the method does not compare versions")]
            raise InvalidArgument("FIELD_INVALID", "the method takes no if-match", violations=violations)
        if wanted != "*" and not holder.etag:
            holder.etag = wanted.removeprefix("W/").strip('"')

    def header(self, response: Message) -> tuple[tuple[str, str], ...]:
        """The header of an answer; none where it has no tag."""
        tag = getattr(response, FIELD) if self._in_response else ""
        return ((FIELD, f'"{tag}"'),) if tag else ()
