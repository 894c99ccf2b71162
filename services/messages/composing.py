"""Print-ready PDFs: the pages that the node sets, and the attachments behind them.

What comes out is the same for the same content, holds nothing but pages, and is
A4 throughout, since `printing.py` has let the attachments pass. Printed on both
sides, each document begins on a sheet of its own.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import ExitStack
from typing import BinaryIO

import pikepdf
from reportlab.lib.pagesizes import A4

from services.messages import typesetting
from services.messages.typesetting import Head, Text


def letter(
    head: Head | None, texts: Sequence[Text], attachments: Sequence[BinaryIO], *, single_sided: bool
) -> tuple[bytes, int]:
    """A letter and how many pages it has; without a head the attachments are all of it.

    Takes time with the number of pages: call it outside of the event loop.
    Raises pikepdf.PdfError where an attachment is not what it was when checked.
    """
    documents: list[BinaryIO] = list(attachments)
    if head is not None:
        documents.insert(0, io.BytesIO(typesetting.pages(head, texts)[0]))
    with ExitStack() as stack, pikepdf.Pdf.new() as whole:
        for document in documents:
            pdf = stack.enter_context(pikepdf.open(document, attempt_recovery=False))
            if not single_sided and len(whole.pages) % 2:
                whole.add_blank_page(page_size=A4)
            _flatten(pdf)
            whole.pages.extend(pdf.pages)
        file = io.BytesIO()
        whole.save(file, deterministic_id=True)
        return file.getvalue(), len(whole.pages)


def _flatten(pdf: pikepdf.Pdf) -> None:
    """Makes what was filled in or noted on the pages a part of them, as far as it is to be printed."""
    if any("/Annots" in page for page in pdf.pages):
        pdf.generate_appearance_streams()
        pdf.flatten_annotations("print")
