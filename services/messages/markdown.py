"""Which Markdown a message may hold: CommonMark without HTML and images, with links to https only.

Readers render it with whatever they have, so that what a careless renderer
would do must not be in the text: the check reads HTML as HTML and takes every
link for one, whatever its scheme. It does not make the text safe for a renderer
that goes beyond CommonMark, such as one that turns bare addresses into links.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from markdown_it import MarkdownIt
from markdown_it.token import Token

from services.runtime.errors import InvalidArgument

_PARSER = MarkdownIt("commonmark", {"html": True})
_PARSER.validateLink = lambda url: True  # type: ignore[method-assign]  # noqa: ARG005  # else bad links stay hidden

_HTTPS = re.compile(r"https://[^\s\\]+", re.ASCII)

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
"""What CommonMark lets a backslash escape (section 2.4)."""


def check(text: str, *, language: str) -> None:
    """Raises InvalidArgument, MARKDOWN_REFUSED, which names the language."""
    for token in _all(_PARSER.parse(text)):
        if token.type in ("html_block", "html_inline"):
            raise _refused("HTML", language)
        if token.type == "image":
            raise _refused("an image", language)
        if token.type == "link_open" and not _HTTPS.fullmatch(str(token.attrs.get("href", ""))):
            raise _refused("a link to other than https", language)


def parsed(text: str) -> list[Token]:
    """The tokens of a text that `check` has let pass."""
    return _PARSER.parse(text)


def escaped(value: str) -> str:
    """A value that stands in Markdown as it is: nothing in it is markup."""
    return " ".join(_PUNCTUATION.sub(r"\\\1", value).split())


def _all(tokens: Iterable[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from _all(token.children or ())


def _refused(what: str, language: str) -> InvalidArgument:
    return InvalidArgument("MARKDOWN_REFUSED", f"the text holds {what}", language=language)
