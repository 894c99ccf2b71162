"""The typeface of letters: Noto Sans, embedded, so that a print house needs no fonts of its own.

It has the letters of the languages of Europe in Latin, Greek and Cyrillic,
the Sámi languages included. Text is set letter by letter: scripts that run from
right to left or join their letters, and marks that stand on other letters, are
not for it.
"""

from __future__ import annotations

import io
import unicodedata
from functools import cache
from typing import Any

import pymupdf_fonts
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont

REGULAR, BOLD, ITALIC, BOLD_ITALIC = "NotoSans", "NotoSans-Bold", "NotoSans-Italic", "NotoSans-BoldItalic"

_SOURCES = {REGULAR: "notos", BOLD: "notosbo", ITALIC: "notosit", BOLD_ITALIC: "notosbi"}

_INVISIBLE = ("Cf",)
"""Characters that steer others, such as soft hyphens: left out."""

_UNFIT = ("Mn", "Mc", "Me")
"""Marks that would have to be placed on other letters."""

_FROM_RIGHT_TO_LEFT = ("R", "AL", "AN")


@cache
def ready() -> None:
    """Makes the typeface known to reportlab; takes some 50 ms the first time."""
    for name, source in _SOURCES.items():
        pdfmetrics.registerFont(TTFont(name, io.BytesIO(pymupdf_fonts.myfont(source))))  # type: ignore[no-untyped-call]
    pdfmetrics.registerFontFamily(REGULAR, normal=REGULAR, bold=BOLD, italic=ITALIC, boldItalic=BOLD_ITALIC)


def printable(text: str) -> str:
    """The text as it is set: composed letters (NFC), without characters that have no form."""
    composed = unicodedata.normalize("NFC", text)
    return "".join(character for character in composed if unicodedata.category(character) not in _INVISIBLE)


def lacks(text: str) -> bool:
    """Whether the text has characters that cannot be set. Line breaks and tabs can."""
    return bool(set(printable(text)) - set("\n\r\t") - _known())


def width(text: str, size: float, *, font: str = REGULAR) -> float:
    """How wide a line is, in points."""
    ready()
    return float(pdfmetrics.stringWidth(text, font, size))


@cache
def _known() -> frozenset[str]:
    ready()
    fonts: list[Any] = [pdfmetrics.getFont(name) for name in _SOURCES]
    codes = set.intersection(*(set(font.face.charToGlyph) for font in fonts))
    return frozenset(character for character in map(chr, codes) if _set_alone(character))


def _set_alone(character: str) -> bool:
    category = unicodedata.category(character)
    if category in _UNFIT or category == "Cc":
        return False
    return unicodedata.bidirectional(character) not in _FROM_RIGHT_TO_LEFT
