"""Files of JSON lines, each a message of the contracts: what commands take in that send many things."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from gateway.client.command.output import UsageError

Line = TypeVar("Line", bound=Message)


def read(file: Path, kind: type[Line]) -> Iterator[Line]:
    """The messages of a file, one at a time. Raises UsageError with the line that is none, without what is in it."""
    with file.open(encoding="utf-8") as lines:
        number = 0
        try:
            for number, line in enumerate(lines, start=1):  # noqa: B007  # of the line that fails
                if line.strip():
                    yield json_format.Parse(line, kind())
        except (json_format.ParseError, UnicodeDecodeError):
            raise UsageError(f"{file}: line {number} is no {kind.DESCRIPTOR.name}; nothing was sent") from None
