"""Who may call what: paths in their one reading, patterns, rights (access_rights.proto, steps 1 to 4). Pure.

Nobody may call until a right says so, and there is none that denies. A path
that can be read in two ways is refused rather than normalised: it goes to the
backend byte for byte as it was judged.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import unquote_to_bytes

from services.runtime.errors import Fault, InvalidArgument, PermissionDenied

ANY_METHOD = "*"
REST = "**"

_RAW = re.compile(rb"/[!-\"$->@-~]*")
"""A path as it may stand in a request line: printable ASCII without "#" and "?"."""

_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_LEFT_OVER = re.compile(r"%(?:2e|2f|5c|25)", re.IGNORECASE)
_FORBIDDEN = re.compile(r"[/\\\x00-\x1f]")
_ANY = re.compile(r"\*|\{[^{}/]+\}")

Segments = tuple[str, ...]


def segments(path: bytes) -> Segments:
    """Steps 1 and 2: the decoded segments of a path. Raises InvalidArgument, PATH_NOT_NORMAL."""
    if not _RAW.fullmatch(path) or _BROKEN_ESCAPE.search(path):
        raise _not_normal()
    encoded = path[1:].split(b"/")
    if any(not segment for segment in encoded[:-1]):
        raise _not_normal()
    try:
        decoded = tuple(unquote_to_bytes(segment).decode("utf-8") for segment in encoded)
    except UnicodeDecodeError:
        raise _not_normal() from None
    for segment in decoded:
        before, semicolon, _ = segment.partition(";")
        if before in {".", ".."} or (semicolon and not before):
            raise _not_normal()
        if _FORBIDDEN.search(segment) or _LEFT_OVER.search(segment):
            raise _not_normal()
    return decoded


def path_of(target: bytes) -> bytes:
    """The path of a request target: what stands before its query."""
    return target.partition(b"?")[0]


@dataclass(frozen=True)
class Pattern:
    """Calls that a right allows: a method or any, and a path of segments."""

    method: str
    path: str

    @functools.cached_property
    def _segments(self) -> Segments:
        return tuple(self.path[1:].split("/"))

    def allows(self, method: str, path: Segments) -> bool:
        """Step 3: whether it fits a call."""
        if self.method not in {ANY_METHOD, method}:
            return False
        wanted = self._segments
        if wanted[-1] == REST:
            wanted = wanted[:-1]
            path = path[: len(wanted)] if len(path) >= len(wanted) else path
        return len(wanted) == len(path) and all(
            _ANY.fullmatch(pattern) is not None or pattern == segment
            for pattern, segment in zip(wanted, path, strict=True)
        )


def check_pattern(pattern: Pattern) -> None:
    """Raises InvalidArgument, PATTERN_INVALID, for what is no pattern, or could never fit."""
    parts = pattern.path.split("/")
    for number, part in enumerate(parts[1:], start=1):
        last = number == len(parts) - 1
        wild = _ANY.fullmatch(part) is not None or (part == REST and last)
        plain = not any(character in part for character in "*{}\\%?#")
        if not (wild or plain) or (not part and not last) or part in {".", ".."}:
            raise InvalidArgument(
                "PATTERN_INVALID", "a segment of the pattern cannot be read", field="access_right.patterns"
            )


@dataclass(frozen=True)
class Right:
    """A right as it is judged by."""

    name: str
    subjects: frozenset[str]
    """The subsystems that have it, and "group " and the identifiers of the global groups whose subsystems have it."""
    patterns: tuple[Pattern, ...]
    """Any of these; none: the whole."""
    expires: datetime | None

    def held_by(self, subsystem: str, groups: Iterable[str], *, now: datetime) -> bool:
        """Whether a subsystem, by itself or by its global groups, has it now."""
        if self.expires is not None and self.expires <= now:
            return False
        return subsystem in self.subjects or any(f"group {group}" in self.subjects for group in groups)


def judge(
    rights: Sequence[Right], *, subsystem: str, groups: Iterable[str], method: str, path: bytes, now: datetime
) -> Right:
    """The first right that allows a call. Raises PermissionDenied, ACCESS_DENIED, and PATH_NOT_NORMAL."""
    found = segments(path)
    groups = tuple(groups)
    for right in rights:
        if right.held_by(subsystem, groups, now=now) and (
            not right.patterns or any(pattern.allows(method, found) for pattern in right.patterns)
        ):
            return right
    raise PermissionDenied("ACCESS_DENIED", "no right allows this consumer this service, method and path")


def _not_normal() -> Fault:
    return InvalidArgument("PATH_NOT_NORMAL", "the path can be read in more than one way")
