"""The pages that the node sets itself: the address page, and the text of a message that goes with it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from markdown_it.token import Token
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import (
    BaseDocTemplate,
    Flowable,
    Frame,
    HRFlowable,
    NextPageTemplate,
    PageTemplate,
    Paragraph,
    Spacer,
)

from services.messages import fonts, markdown
from services.messages.envelopes import ADDRESS_SIZE, MM, RETURN_SIZE, WIDTH

LEFT, RIGHT, BOTTOM = 25 * MM, 20 * MM, 20 * MM
"""Margins of DIN 5008."""

RETURN_TOP, ADDRESS_TOP, TEXT_TOP = 52 * MM, 62.7 * MM, 105 * MM
"""Distances from the upper edge of the first page: return address, address, text."""

LATER_TOP = 25 * MM
"""The upper margin of the pages after it."""

HEAD_TOP, REFERENCE_LEFT = 25 * MM, 125 * MM
"""The sender's name, and what stands beside the window."""

FOLD = 148.5 * MM
"""Where the sheet is folded once, for C5."""

LEADING = 1.25
"""From line to line, in sizes of the type."""

_TEXT = ParagraphStyle("text", fontName=fonts.REGULAR, fontSize=10, leading=14, spaceAfter=5, splitLongWords=1)
_TITLE = ParagraphStyle("title", parent=_TEXT, fontName=fonts.BOLD, fontSize=13, leading=17, spaceAfter=10)
_HEADING = ParagraphStyle("heading", parent=_TEXT, fontName=fonts.BOLD, fontSize=11, leading=15, spaceBefore=6)

_LIST_INDENT = 14.0
"""Points for each level of a list or quotation."""

_MAX_INDENT = 8
"""Levels that are set apart; a list in a list in a list is not pushed off the page."""

_FEWEST_ON_A_LINE, _FEWEST_LINES = 30, 30
"""What a line and a page hold at least, however wide the letters; to say without setting it what surely fits."""


@dataclass(frozen=True)
class Head:
    """What stands on the first page above the text."""

    address: Sequence[str]
    """The lines in the window."""
    sender: str
    return_address: Sequence[str]
    references: Sequence[str]
    """Beside the window: the date, the case."""


@dataclass(frozen=True)
class Text:
    """A message in one language."""

    title: str
    text: str
    markdown: bool = False


def pages(head: Head, texts: Sequence[Text]) -> tuple[bytes, int]:
    """The pages as a PDF, the same for the same content, and how many they are."""
    fonts.ready()
    file, count = io.BytesIO(), [0]
    width, height = A4

    def first(canvas: Canvas, _: object) -> None:
        count[0] += 1
        _draw_head(canvas, head)

    def later(canvas: Canvas, _: object) -> None:
        count[0] += 1
        canvas.setFont(fonts.REGULAR, 8)
        canvas.drawRightString(width - RIGHT, BOTTOM / 2, str(count[0]))

    column = width - LEFT - RIGHT
    template = BaseDocTemplate(
        file,
        pagesize=A4,
        invariant=1,
        pageCompression=1,
        initialFontName=fonts.REGULAR,  # else every page names Helvetica, which is not embedded
        title="",
        author="",
        creator="",
    )
    template.addPageTemplates(
        [
            PageTemplate("first", [_frame(column, height - TEXT_TOP - BOTTOM)], onPage=first),
            PageTemplate("later", [_frame(column, height - LATER_TOP - BOTTOM)], onPage=later),
        ]
    )
    template.build([NextPageTemplate("later"), *_flow(texts), Spacer(0, 0)])
    return file.getvalue(), count[0]


def at_most(texts: Sequence[Text]) -> int:
    """A number of pages that the texts surely do not exceed."""
    lines = sum(len(line) // _FEWEST_ON_A_LINE + 2 for one in texts for line in [one.title, *one.text.splitlines()])
    return 2 + lines // _FEWEST_LINES


def _flow(texts: Sequence[Text]) -> Iterator[Flowable]:
    for number, one in enumerate(texts):
        if number:
            yield HRFlowable(width="100%", thickness=0.25, spaceBefore=10, spaceAfter=14)
        if one.title:
            yield Paragraph(escape(fonts.printable(one.title)), _TITLE)
        text = fonts.printable(one.text)
        yield from _Marked().flow(text) if one.markdown else _plain(text)


def _plain(text: str) -> Iterator[Flowable]:
    for line in text.splitlines():
        yield Paragraph(escape(line), _TEXT) if line.strip() else Spacer(0, _TEXT.leading / 2)


class _Marked:
    """Sets CommonMark: headings, lists, quotations, code; the address of a link after its text."""

    def __init__(self) -> None:
        self._levels: list[int | None] = []
        """Of each list and quotation around: the next number; 0 for bullets, None for none."""
        self._bullet = ""
        self._style = _TEXT

    def flow(self, text: str) -> Iterator[Flowable]:
        for token in markdown.parsed(text):
            if token.type.endswith("_open"):
                self._open(token)
            elif token.type.endswith("_close"):
                self._close(token)
            elif token.type == "hr":
                yield HRFlowable(width="100%", thickness=0.25, spaceBefore=6, spaceAfter=6)
            elif token.type == "inline":
                yield self._paragraph(_inline(token.children or ()))
            else:  # code
                yield self._paragraph("<br/>".join(escape(line) for line in token.content.splitlines()))

    def _open(self, token: Token) -> None:
        match token.type:
            case "heading_open":
                self._style = _HEADING
            case "bullet_list_open":
                self._levels.append(0)
            case "ordered_list_open":
                self._levels.append(int(token.attrs.get("start", 1)))
            case "blockquote_open":
                self._levels.append(None)
            case "list_item_open":
                number = self._levels[-1]
                self._bullet = f"{number}." if number else "•"
                self._levels[-1] = number and number + 1

    def _close(self, token: Token) -> None:
        if token.type == "heading_close":
            self._style = _TEXT
        elif token.type in {"bullet_list_close", "ordered_list_close", "blockquote_close"}:
            self._levels.pop()

    def _paragraph(self, marked: str) -> Paragraph:
        indent = min(len(self._levels), _MAX_INDENT) * _LIST_INDENT
        style = ParagraphStyle(
            "set apart",
            parent=self._style,
            leftIndent=indent,
            bulletIndent=max(0.0, indent - _LIST_INDENT),
            bulletFontName=fonts.REGULAR,
        )
        bullet, self._bullet = self._bullet, ""
        return Paragraph(marked, style, bulletText=bullet or None)


def _inline(tokens: Sequence[Token]) -> str:
    """Tokens of a line as reportlab's markup."""
    marked: list[str] = []
    links: list[tuple[str, int]] = []
    for token in tokens:
        match token.type:
            case "text" | "code_inline":
                marked.append(escape(token.content))
            case "softbreak":
                marked.append(" ")
            case "link_open":
                links.append((escape(str(token.attrs["href"])), len(marked)))
            case "link_close":
                address, begun = links.pop()
                if "".join(marked[begun:]) != address:
                    marked.append(f" ({address})")
            case kind:
                marked.append(_MARKUP[kind])
    return "".join(marked)


_MARKUP = {
    "hardbreak": "<br/>",
    "strong_open": "<b>",
    "strong_close": "</b>",
    "em_open": "<i>",
    "em_close": "</i>",
}


def _frame(width: float, height: float) -> Frame:
    return Frame(LEFT, BOTTOM, width, height, leftPadding=0, rightPadding=0, topPadding=0, bottomPadding=0)


def _draw_head(canvas: Canvas, head: Head) -> None:
    _, height = A4
    canvas.setFont(fonts.BOLD, ADDRESS_SIZE)
    canvas.drawString(LEFT, height - HEAD_TOP, _cut(head.sender, fonts.BOLD, ADDRESS_SIZE, A4[0] - LEFT - RIGHT))
    canvas.setFont(fonts.REGULAR, RETURN_SIZE)
    _draw_lines(canvas, LEFT, height - RETURN_TOP, RETURN_SIZE, head.return_address)
    canvas.setFont(fonts.REGULAR, ADDRESS_SIZE)
    _draw_lines(canvas, LEFT, height - ADDRESS_TOP, ADDRESS_SIZE, head.address)
    _draw_lines(canvas, REFERENCE_LEFT, height - ADDRESS_TOP, ADDRESS_SIZE, head.references)
    canvas.setLineWidth(0.25)
    canvas.line(4 * MM, height - FOLD, 8 * MM, height - FOLD)


def _draw_lines(canvas: Canvas, left: float, top: float, size: float, lines: Sequence[str]) -> None:
    for number, line in enumerate(lines, start=1):
        canvas.drawString(left, top - number * size * LEADING, _cut(line, fonts.REGULAR, size, WIDTH))


def _cut(line: str, font: str, size: float, width: float) -> str:
    """As much of a line as there is room for; addresses have been checked to have it."""
    plain = fonts.printable(line)
    while plain and fonts.width(plain, size, font=font) > width:
        plain = plain[:-1]
    return plain
