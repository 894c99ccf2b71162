"""What the command prints: tables for people, JSON for programs, and the progress of long work."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

BAR_WIDTH = 30


class UsageError(Exception):
    """The command was called in a way that cannot work; the text says what to do."""


class Output:
    """Where results go. Tables are cut to the width of a terminal; what is piped is whole."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def one(self, message: Message) -> None:
        """A single thing, with all that it has."""
        found = plain(message)
        if self.as_json:
            self.line(found)
            return
        width = max(map(len, found), default=0)
        for name, value in found.items():
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            print(f"{name.ljust(width)}  {shown}")

    def table(self, head: Sequence[str], messages: Iterable[Message], rows: Iterable[Sequence[str]]) -> None:
        """Many things: `rows` of them for people, and the whole of them for programs."""
        if self.as_json:
            for message in messages:
                self.line(plain(message))
            return
        for line in aligned([head, *rows]):
            print(self.cut(line))

    def line(self, value: Any) -> None:
        """A line of JSON."""
        print(json.dumps(value, ensure_ascii=False), flush=True)

    def cut(self, line: str) -> str:
        """The line as it fits a terminal."""
        if not sys.stdout.isatty():
            return line
        width = shutil.get_terminal_size().columns
        return line if len(line) <= width else line[: width - 1] + "…"


class Bar:
    """A progress bar on standard error, where that is a terminal."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._shown = -1

    def __call__(self, done: int, total: int) -> None:
        """How far it is; see `gateway.client.transfers.Progress`."""
        percent = 100 * done // total if total else 100
        if percent == self._shown or not sys.stderr.isatty():
            return
        self._shown = percent
        filled = BAR_WIDTH * percent // 100
        bar = "█" * filled + "░" * (BAR_WIDTH - filled)
        end = "\n" if done >= total else ""
        print(f"\r{self._what} {bar} {percent:3} %  {megabytes(done)} of {megabytes(total)}", end=end, file=sys.stderr)


def plain(message: Message) -> dict[str, Any]:
    """The message as REST shows it."""
    return json_format.MessageToDict(message)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows with their columns below each other."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def label(name: str, prefix: str = "STATE_") -> str:
    """The value of an enum for people: "released" for STATE_RELEASED."""
    return name.removeprefix(prefix).lower().replace("_", " ")


def megabytes(size: int) -> str:
    """A size for people."""
    return f"{size / 1_000_000:.1f} MB"
