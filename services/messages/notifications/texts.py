"""What notifications say; the words are in texts.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.messages.notifications.rules import Kind

TEXTS: Mapping[str, Mapping[str, Any]] = tomllib.loads(
    Path(__file__).with_name("texts.toml").read_text(encoding="utf-8")
)
"""By language."""

ALIASES = {"no": "nb", "nn": "nb"}
"""Languages that are understood where another is: Norwegian without saying which, and Nynorsk."""

_NAMES = {Kind.NEW: "new", Kind.REMINDER: "reminder", Kind.CODE: "code"}


@dataclass(frozen=True)
class Notice:
    """What is sent."""

    language: str
    subject: str
    """Of e-mail."""
    text: str


def language(wanted: str, there: Iterable[str]) -> str | None:
    """The language of those that are there which comes next to the one wanted; None where none does."""
    known = {one.lower(): one for one in there}
    primary = wanted.lower().partition("-")[0]
    for candidate in (wanted.lower(), primary, ALIASES.get(primary, "")):
        if candidate in known:
            return known[candidate]
    return None


def of_message(
    kind: Kind, wanted: str, *, usual: str, sender: Mapping[str, str] | None, own: Mapping[str, str], portal: str
) -> Notice:
    """Of a message. `sender` is the unit's name by language, None where it is hidden; `own` the sender's own texts.

    Where there is no text in the wanted language it is in the usual one.
    """
    chosen = language(wanted, TEXTS) or usual
    words = TEXTS[chosen][_NAMES[kind] + ("_hidden" if sender is None else "")]
    named = {"sender": _line(_named(sender, chosen, usual))}
    in_own = language(wanted, own)
    text = own[in_own] if in_own is not None else words["text"].format(**named)
    link = f"\n\n{TEXTS[chosen]['link'].format(portal=portal)}" if portal else ""
    return Notice(in_own or chosen, words["subject"].format(**named), text + link)


def of_code(wanted: str, *, usual: str, code: str) -> Notice:
    """The code that confirms contact details."""
    chosen = language(wanted, TEXTS) or usual
    words = TEXTS[chosen][_NAMES[Kind.CODE]]
    return Notice(chosen, words["subject"], words["text"].format(code=code))


def _named(sender: Mapping[str, str] | None, wanted: str, usual: str) -> str:
    if not sender:
        return ""
    return sender[language(wanted, sender) or language(usual, sender) or next(iter(sender))]


def _line(text: str) -> str:
    """On one line: a name goes into the header of an e-mail."""
    return " ".join(text.split())
