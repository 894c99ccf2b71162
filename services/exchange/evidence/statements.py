"""Statements: what is signed of each direction of an exchange (statements.proto, version 1).

A statement is carried as its bytes and never written again: whoever has it
reads it here, and what it says is what its bytes say.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum

from services.exchange.evidence import identifiers
from services.exchange.evidence.identifiers import PART
from services.runtime.errors import Fault, InvalidArgument

HEADER = "solmu-statement/1"

MAX_BYTES = 8192
"""Length of a statement: many times what one needs, little to a node that must hold it before it can judge it."""


class Kind(Enum):
    """What a statement says."""

    REQUEST = "request"
    RESPONSE = "response"
    REFUSAL = "refusal"
    ENVELOPE = "envelope"
    RECEIPT = "receipt"
    REJECTION = "rejection"


_LETTERS = dict(zip("RAFECJ", Kind, strict=True))

_DIGEST = "[0-9a-f]{64}"
_NUMBER = "(?:0|[1-9][0-9]{0,17})"
_FROM_ONE = "[1-9][0-9]{0,17}"
_INSTANT = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z"
_MEMBER = f"{PART}(?:/{PART}){{2}}"
_SUBSYSTEM = f"{PART}(?:/{PART}){{3}}"
_RECEIVERS = (
    f"service {PART}(?:/{PART}){{4,5}}|subsystem {_SUBSYSTEM}|topic {_SUBSYSTEM}/{PART}"
    f"|group {PART}/{PART}|group {_SUBSYSTEM}/{PART}|member {_MEMBER}"
)


@dataclass(frozen=True)
class Line:
    """A line that a statement may have: in which kinds, and how its value is spelt."""

    name: str
    kinds: str
    """As in statements.proto: a letter per kind, lower case where the line may be missing."""
    value: str
    """A regular expression."""


LINES = (
    Line("kind", "RAFECJ", "|".join(kind.value for kind in Kind)),
    Line("id", "RAFECJ", "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    Line("time", "RAFECJ", _INSTANT),
    Line("expires", "RE", _INSTANT),
    Line("sender", "RAFECJ", f"subsystem {_SUBSYSTEM}|member {_MEMBER}"),
    Line("receiver", "RAFECJ", _RECEIVERS),
    Line("message-id", "rae", PART),
    Line("protocol", "RA", "http|grpc"),
    Line("status", "A", "[0-9]{3}"),
    Line("purpose", "E", "event|request|answer"),
    Line("type", "e", "[A-Za-z0-9._/-]{1,255}"),
    Line("media-type", "e", "[!-~](?:[ -~]{0,253}[!-~])?"),
    Line("lane", "e", "[0-9a-f]{32}"),
    Line("place", "e", _FROM_ONE),
    Line("head-sha256", "RA", _DIGEST),
    Line("head-bytes", "RA", _NUMBER),
    Line("body-sha256", "RAE", _DIGEST),
    Line("body-bytes", "RAE", _NUMBER),
    Line("trailers-sha256", "ra", _DIGEST),
    Line("trailers-bytes", "ra", _NUMBER),
    Line("on-behalf-of-sha256", "re", _DIGEST),
    Line("answers", "AfeCJ", _DIGEST),
    Line("reason", "FJ", "[A-Z](?:[A-Z0-9_]{0,62}[A-Z0-9])?"),
    Line("directory", "RAFECJ", f"{PART}/{_FROM_ONE}"),
    Line("policy", "RAFECJ", f"[a-z][a-z0-9-]{{1,61}}[a-z0-9]/{_FROM_ONE}"),
)
"""All lines, in their order."""

_TOGETHER = (("trailers-sha256", "trailers-bytes"), ("lane", "place"))
"""Lines that stand both or neither."""

_NAMES = {line.name for line in LINES}


def _value(line: Line, kind: Kind) -> str:
    if line.name == "kind":
        return kind.value
    if line.name == "sender" and kind is not Kind.REFUSAL:
        return f"subsystem {_SUBSYSTEM}"
    return line.value


@dataclass(frozen=True)
class _Form:
    """The statements of a kind."""

    kind: Kind
    names: tuple[str, ...]
    """The lines that it may have, in their order, without `kind`."""
    pattern: re.Pattern[str]
    """All of it as one expression, with a group per name: one pass over a statement reads it."""
    meanings: tuple[tuple[str, Callable[[str], object]], ...]
    """What of its lines no expression can say."""


def _form(kind: Kind) -> _Form:
    letter = next(letter for letter, each in _LETTERS.items() if each is kind)
    names, expression = [], f"{HEADER}\nkind: {kind.value}\n"
    for line in LINES[1:]:
        value = _value(line, kind)
        if letter in line.kinds:
            expression += f"{line.name}: ({value})\n"
        elif letter.lower() in line.kinds:
            expression += f"(?:{line.name}: ({value})\n)?"
        else:
            continue
        names.append(line.name)
    meanings = tuple((name, _MEANINGS[name]) for name in names if name in _MEANINGS)
    return _Form(kind, tuple(names), re.compile(expression, re.ASCII), meanings)


@dataclass(frozen=True)
class Statement:
    """A statement as it was read. `content` is what is signed."""

    content: bytes
    kind: Kind
    lines: Mapping[str, str]
    """Its lines by name, without `kind`, spelt as in its bytes."""

    @functools.cached_property
    def sha256(self) -> bytes:
        """What its signature covers, and how others refer to it."""
        return hashlib.sha256(self.content).digest()

    @property
    def time(self) -> datetime:
        """When it was signed, as its signer says."""
        return instant(self.lines["time"])

    @property
    def expires(self) -> datetime | None:
        """The last instant at which it is accepted, where it has one."""
        return instant(self.lines["expires"]) if "expires" in self.lines else None

    @property
    def sender(self) -> tuple[str, str]:
        """Who signs: "subsystem" or "member", and its identifier."""
        kind, _, identifier = self.lines["sender"].partition(" ")
        return kind, identifier

    @property
    def member(self) -> str:
        """The member that signs, spelt with "/"."""
        return "/".join(self.sender[1].split("/")[:3])

    @property
    def receiver(self) -> tuple[str, str]:
        """For whom it is: what kind of receiver, and its identifier."""
        kind, _, identifier = self.lines["receiver"].partition(" ")
        return kind, identifier


def compose(kind: Kind, lines: Mapping[str, str]) -> Statement:
    """Writes a statement of these lines, given by name in any order.

    Raises InvalidArgument, STATEMENT_MALFORMED, where they do not make one.
    """
    form = _FORMS[f"kind: {kind.value}"]
    written = [f"{name}: {lines[name]}\n" for name in form.names if name in lines]
    if len(written) != len(lines):
        raise _malformed(min(lines.keys() - set(form.names)))
    text = f"{HEADER}\nkind: {kind.value}\n{''.join(written)}"
    try:
        return parse(text.encode("ascii"))
    except UnicodeEncodeError:
        raise _malformed("") from None


def parse(content: bytes) -> Statement:
    """Reads a statement. Raises InvalidArgument, STATEMENT_MALFORMED, with the line that is wrong.

    What it says is not judged: whether its time holds is `check_time`, whether
    the sender signed it is `signatures.verify`.
    """
    if not 0 < len(content) <= MAX_BYTES:
        raise _malformed("")
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError:
        raise _malformed("") from None
    form = _FORMS.get(text[len(HEADER) + 1 : text.find("\n", len(HEADER) + 1)])
    if form is None:
        raise _malformed("kind")
    match = form.pattern.fullmatch(text)
    if match is None:
        raise _malformed(_culprit(text, form.kind))
    values = match.groups()
    lines = {name: value for name, value in zip(form.names, values, strict=True) if value is not None}
    if len(lines) < len(values):
        for first, other in _TOGETHER:
            if (first in lines) != (other in lines):
                raise _malformed(first if other in lines else other)
    for name, check in form.meanings:
        if name in lines:
            try:
                check(lines[name])
            except (ValueError, Fault):
                raise _malformed(name) from None
    return Statement(content, form.kind, lines)


def check_time(statement: Statement, *, now: datetime, skew: timedelta) -> None:
    """Refuses a statement before its time or after it. Raises InvalidArgument, STATEMENT_EXPIRED.

    One that says nothing of an end (answers, receipts) has none: it is bound to
    the statement that it answers.
    """
    end = statement.expires
    if statement.time > now + skew or (end is not None and (end < now - skew or end < statement.time)):
        raise InvalidArgument(
            "STATEMENT_EXPIRED",
            "the statement's time is over, or lies too far ahead",
            time=statement.lines["time"],
            now=spell(now),
        )


def check_bound(answer: Statement, question: Statement) -> None:
    """Refuses an answer to something else. Raises InvalidArgument, ANSWER_NOT_BOUND.

    A refusal may come before the statement that it refuses, and is bound by its
    id alone then.
    """
    bound = answer.lines.get("answers", "" if answer.kind is Kind.REFUSAL else None)
    if answer.lines["id"] != question.lines["id"] or bound not in {"", question.sha256.hex()}:
        raise InvalidArgument("ANSWER_NOT_BOUND", "the answer is bound to another statement")


def instant(text: str) -> datetime:
    """The instant behind its spelling. Raises ValueError."""
    return datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=UTC)


def _instant_exists(text: str) -> None:
    datetime.fromisoformat(text[:-1])


def spell(value: datetime) -> str:
    """The one spelling of an instant, cut to milliseconds."""
    return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


@functools.lru_cache(maxsize=10_000)
def _identifier(text: str) -> None:
    identifiers.check(text.partition(" ")[2])


@functools.lru_cache(maxsize=1_000)
def _numbered(text: str) -> None:
    identifiers.check(text.rpartition("/")[0])


_MEANINGS: dict[str, Callable[[str], object]] = {
    "time": _instant_exists,
    "expires": _instant_exists,
    "sender": _identifier,
    "receiver": _identifier,
    "message-id": identifiers.check,
    "directory": _numbered,
}
"""What no expression can say: days that exist, parts in their one spelling."""


_FORMS = {f"kind: {kind.value}": _form(kind) for kind in Kind}
"""By their second line."""


def _culprit(text: str, kind: Kind) -> str:
    """The first line at which a statement stops being one, for the refusal. Empty where it has no such name."""
    letter = next(letter for letter, each in _LETTERS.items() if each is kind)
    allowed = [line for line in LINES if letter in line.kinds.upper()]
    at = 0
    for written in text.split("\n")[1:]:
        name, _, value = written.partition(": ")
        found = next((at + step for step, line in enumerate(allowed[at:]) if line.name == name), None)
        if found is None and name in _NAMES:
            return name
        if found is None:
            return next((line.name for line in allowed[at:] if letter in line.kinds), "")
        if missing := [line.name for line in allowed[at:found] if letter in line.kinds]:
            return missing[0]
        if not re.fullmatch(_value(allowed[found], kind), value, re.ASCII):
            return name
        at = found + 1
    return ""


def _malformed(line: str) -> InvalidArgument:
    return InvalidArgument(
        "STATEMENT_MALFORMED", "the statement is not of the form that statements.proto fixes", line=line
    )
