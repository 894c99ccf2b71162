"""Which PDFs can be printed as a letter."""

from __future__ import annotations

import io

import pikepdf
import pytest
from pikepdf import Array, Dictionary, Name, Pdf, String

from services.messages import printing
from services.runtime.errors import InvalidArgument

A4 = (595.28, 841.89)


def document(*, pages: int = 1, size: tuple[float, float] = A4, change=None, **options) -> bytes:
    pdf = Pdf.new()
    for _ in range(pages):
        pdf.add_blank_page(page_size=size)
    if change is not None:
        change(pdf)
    file = io.BytesIO()
    pdf.save(file, **options)
    return file.getvalue()


def defect(content: bytes) -> str:
    try:
        printing.pages(io.BytesIO(content), attachment="attachments/a")
    except InvalidArgument as refused:
        assert refused.reason == "PDF_NOT_PRINTABLE"
        assert refused.metadata["attachment"] == "attachments/a"
        return refused.metadata["defect"]
    return ""


def on_open(pdf: Pdf) -> None:
    pdf.Root.OpenAction = Dictionary(S=Name.JavaScript, JS=String("app.alert(1)"))


def on_page(pdf: Pdf) -> None:
    pdf.pages[0].AA = Dictionary(O=Dictionary(S=Name.Launch))


def launches(pdf: Pdf) -> None:
    link = Dictionary(Type=Name.Annot, Subtype=Name.Link, Rect=[0, 0, 1, 1], A=Dictionary(S=Name.Launch))
    pdf.pages[0].Annots = Array([link])


def plays(pdf: Pdf) -> None:
    pdf.pages[0].Annots = Array([pdf.make_indirect(Dictionary(Subtype=Name.RichMedia, Rect=[0, 0, 1, 1]))])


def xfa(pdf: Pdf) -> None:
    pdf.Root.AcroForm = Dictionary(XFA=String("<xdp/>"), Fields=Array())


def goes_to_its_first_page(pdf: Pdf) -> None:
    pdf.Root.OpenAction = Array([pdf.pages[0].obj, Name.Fit])


def links(pdf: Pdf) -> None:
    action = Dictionary(S=Name.URI, URI=String("https://example.org"))
    pdf.pages[0].Annots = Array([Dictionary(Subtype=Name.Link, Rect=[0, 0, 1, 1], A=action)])


def test_pages_are_counted():
    assert printing.pages(io.BytesIO(document(pages=3)), attachment="attachments/a") == 3


@pytest.mark.parametrize("change", [goes_to_its_first_page, links])
def test_what_only_points_somewhere_can_be_printed(change):
    assert defect(document(change=change)) == ""


@pytest.mark.parametrize("change", [on_open, on_page, launches, plays, xfa])
def test_what_does_something_is_refused(change):
    assert defect(document(change=change)) == "ACTIVE"
    assert defect(document(change=change, object_stream_mode=pikepdf.ObjectStreamMode.generate)) == "ACTIVE"


@pytest.mark.parametrize("user", ["", "secret"])
def test_what_is_encrypted_is_refused_even_where_it_opens(user: str):
    assert defect(document(encryption=pikepdf.Encryption(owner="owner", user=user))) == "ENCRYPTED"


@pytest.mark.parametrize(("size", "found"), [((841.89, 595.28), ""), ((612, 792), "PAGE_SIZE"), ((596, 842), "")])
def test_pages_are_a4_either_way_up(size: tuple[float, float], found: str):
    assert defect(document(size=size)) == found


def test_limits_hold(monkeypatch: pytest.MonkeyPatch):
    assert defect(document(pages=0)) == "EMPTY"
    assert defect(document(pages=printing.MAX_PAGES + 1)) == "TOO_LARGE"
    monkeypatch.setattr(printing, "MAX_BYTES", 100)
    assert defect(document()) == "TOO_LARGE"


@pytest.mark.parametrize("content", [b"", b"%PDF-1.7", b"\x00" * 100, document()[:-60]])
def test_what_is_damaged_is_refused(content: bytes):
    assert defect(content) == "MALFORMED"
