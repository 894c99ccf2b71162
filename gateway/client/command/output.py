"""What the command prints: tables for people, JSON for programs, and the progress of long work."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

from google.protobuf import json_format
from google.protobuf.message import Message

BAR_WIDTH = 30
LEAST_BAR_WIDTH = 5
LABEL_WIDTH = 30
COLUMNS = 80
"""Of a terminal that does not say its width."""


def megabytes(size: int) -> str:
    """A size for people."""
    return f"{size / 1_000_000:.1f} MB"


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

    def bar(self, what: str, amount: Callable[[int], str] = megabytes) -> Bar:
        """The progress of long work: on a terminal, and not where a program reads."""
        return Bar(what, amount, shown=not self.as_json and sys.stderr.isatty())

    def cut(self, line: str) -> str:
        """The line as it fits a terminal."""
        if not sys.stdout.isatty():
            return line
        width = shutil.get_terminal_size().columns
        return line if len(line) <= width else line[: width - 1] + "…"


class Bar:
    """A progress bar on standard error. As a context, whatever ends the work, what is said next begins a line."""

    def __init__(self, what: str, amount: Callable[[int], str], *, shown: bool) -> None:
        self._what = what if len(what) <= LABEL_WIDTH else f"{what[: LABEL_WIDTH - 1]}…"
        self._amount = amount
        self._shown = shown
        self._line = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._line:
            print(file=sys.stderr)

    def __call__(self, done: int, total: int) -> None:
        """How far it is; see `gateway.client.transfers.Progress`."""
        if not self._shown or (not self._line and done >= total > 0):
            return  # what is over at once needs no bar
        line = self._drawn(done, total, _columns())
        if line != self._line:
            # To the end of the line, where the line before may have been longer.
            print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)
            self._line = line

    def _drawn(self, done: int, total: int, columns: int) -> str:
        """A line that leaves the last column free, where some terminals begin the next line."""
        if not total:
            return f"{self._what}  {self._amount(done)}"[: columns - 1]
        percent = min(100 * done // total, 100)
        said = f"{percent:3} %  {self._amount(done)} of {self._amount(total)}"
        width = min(BAR_WIDTH, columns - 1 - len(self._what) - len(said) - 2)
        if width < LEAST_BAR_WIDTH:
            return f"{self._what} {said}"[: columns - 1]
        filled = width * percent // 100
        return f"{self._what} {'█' * filled}{'░' * (width - filled)} {said}"


def _columns() -> int:
    """Width of the terminal that standard error is."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or COLUMNS
    except OSError:
        return COLUMNS


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
