"""Whether a PDF can be printed as a letter.

A print house opens what it is given in software of its own: a file that asks
for a password stops its run, and one that does something when it is opened does
it there. Pages have to be A4, since the address window and the folding are.
"""

from __future__ import annotations

from decimal import Decimal
from typing import BinaryIO

import pikepdf

from services.runtime.errors import InvalidArgument

MAX_BYTES = 50 << 20
"""A letter's file; larger ones hold scans at a resolution that no printer has."""

MAX_PAGES = 100
"""What fits a C4 envelope on both sides of the sheet."""

MAX_OBJECTS = 200_000
"""Objects of one file, all of which are looked at."""

A4_POINTS = (Decimal("595.276"), Decimal("841.890"))
"""Shorter and longer side, in PDF's unit of 1/72 inch (ISO 216: 210 mm by 297 mm)."""

TOLERANCE_POINTS = Decimal("8.5")
"""3 mm: what programs that round, and printers, differ by."""

_ACTIONS = frozenset(
    {"/JavaScript", "/Launch", "/SubmitForm", "/ImportData", "/Rendition", "/GoToE", "/RichMediaExecute"}
)
"""Actions (ISO 32000-2, section 12.6.4) that reach beyond the document."""

_ANNOTATIONS = frozenset({"/RichMedia", "/3D", "/Movie", "/Screen", "/Sound"})
"""Annotations that play something."""

_KEYS = ("/AA", "/JS", "/JavaScript", "/XFA")
"""Entries that trigger actions, hold scripts, or a form that is drawn by a program (XFA)."""


def pages(file: BinaryIO, *, attachment: str) -> int:
    """How many pages the PDF has.

    Raises InvalidArgument, PDF_NOT_PRINTABLE; its `defect` is TOO_LARGE,
    ENCRYPTED, MALFORMED, ACTIVE, PAGE_SIZE or EMPTY. Not checked: whether fonts
    are embedded, and what is on the pages. Takes time with the number of
    objects: call it outside of the event loop.
    """
    size = file.seek(0, 2)
    file.seek(0)
    if size > MAX_BYTES:
        raise refused("TOO_LARGE", attachment)
    try:
        with pikepdf.open(file, attempt_recovery=False) as pdf:
            defect = _defect(pdf)
            count = len(pdf.pages)
    except pikepdf.PasswordError:
        raise refused("ENCRYPTED", attachment) from None
    except (pikepdf.PdfError, ValueError, TypeError, KeyError, RuntimeError):
        raise refused("MALFORMED", attachment) from None
    if defect:
        raise refused(defect, attachment)
    return count


def _defect(pdf: pikepdf.Pdf) -> str:
    if pdf.is_encrypted:  # opens without a password, and forbids something all the same
        return "ENCRYPTED"
    if len(pdf.objects) > MAX_OBJECTS or len(pdf.pages) > MAX_PAGES:
        return "TOO_LARGE"
    if not pdf.pages:
        return "EMPTY"
    if _active(pdf.trailer) or any(_active(found) for found in pdf.objects):
        return "ACTIVE"
    if not all(_a4(page) for page in pdf.pages):
        return "PAGE_SIZE"
    return ""


def _active(found: pikepdf.Object) -> bool:
    """Whether an object, or one that stands directly in it, does something."""
    waiting = [found]
    while waiting:
        one = waiting.pop()
        if isinstance(one, pikepdf.Array):
            waiting += [part for part in one if _direct(part)]
        elif isinstance(one, pikepdf.Dictionary | pikepdf.Stream):
            if any(key in one for key in _KEYS):
                return True
            if str(one.get("/S", "")) in _ACTIONS or str(one.get("/Subtype", "")) in _ANNOTATIONS:
                return True
            waiting += [part for part in one.values() if _direct(part)]
    return False


def _direct(part: object) -> bool:
    """Whether it stands here, and is not an object of its own, which is looked at by itself."""
    return isinstance(part, pikepdf.Array | pikepdf.Dictionary) and not part.is_indirect


def _a4(page: pikepdf.Page) -> bool:
    left, bottom, right, top = (Decimal(str(value)) for value in page.mediabox)
    sides = sorted((abs(right - left), abs(top - bottom)))
    return all(abs(side - wanted) <= TOLERANCE_POINTS for side, wanted in zip(sides, A4_POINTS, strict=True))


def refused(defect: str, attachment: str) -> InvalidArgument:
    """The refusal of an attachment for a defect that the contract documents."""
    return InvalidArgument(
        "PDF_NOT_PRINTABLE", "the PDF cannot be printed as a letter", attachment=attachment, defect=defect
    )
