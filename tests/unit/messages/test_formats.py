"""What attachments may be: extension, declared type and content agree, and nothing in them runs."""

from __future__ import annotations

import io
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.messages import formats
from services.runtime.errors import InvalidArgument

WORD = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
ODT = "application/vnd.oasis.opendocument.text"
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504)


def archive(*names: str, first: tuple[str, bytes] | None = None) -> bytes:
    """A zip archive of empty files."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        if first is not None:
            made.writestr(*first)
        for name in names:
            made.writestr(name, b"")
    return file.getvalue()


def defect(content: bytes, name: str, media_type: str) -> str:
    try:
        formats.check(io.BytesIO(content), file_name=name, media_type=media_type, attachment="attachments/a")
    except InvalidArgument as refused:
        assert refused.reason == "ATTACHMENT_TYPE_REFUSED"
        return refused.metadata["defect"]
    return ""


SOUND = [
    (b"%PDF-1.7\n", "a.PDF", "application/pdf"),
    (b"\xff\xd8\xff\xe0" + bytes(20), "a.jpeg", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n" + bytes(20), "a.png", "image/png"),
    (archive("[Content_Types].xml", "_rels/.rels", "word/document.xml"), "a.docx", WORD),
    (archive("content.xml", first=("mimetype", ODT.encode())), "a.odt", ODT),
    (OLE, "a.doc", "application/msword"),
    ("päätös".encode(), "a.txt", "text/plain"),
    (b"<a/>", "a.xml", "text/xml"),
]


@pytest.mark.parametrize(("content", "name", "media_type"), SOUND, ids=lambda value: str(value)[:20])
def test_what_agrees_is_taken(content: bytes, name: str, media_type: str):
    assert defect(content, name, media_type) == ""


@pytest.mark.parametrize(
    ("content", "name", "media_type", "found"),
    [
        (b"MZ\x90", "a.exe", "application/octet-stream", "EXTENSION_NOT_ALLOWED"),
        (b"%PDF-1.7", "a", "application/pdf", "EXTENSION_NOT_ALLOWED"),
        (b"<html>", "a.html", "text/html", "EXTENSION_NOT_ALLOWED"),
        (b"PK", "a.docm", WORD, "EXTENSION_NOT_ALLOWED"),
        (b"%PDF-1.7", "a.pdf", "image/png", "MEDIA_TYPE_DIFFERS"),
        (b"MZ\x90", "a.pdf", "application/pdf", "CONTENT_DIFFERS"),
        (b"junk %PDF-1.7", "a.pdf", "application/pdf", "CONTENT_DIFFERS"),
        (b"GIF89a" + bytes(20), "a.png", "image/png", "CONTENT_DIFFERS"),
        (archive("a.exe"), "a.docx", WORD, "CONTENT_DIFFERS"),
        (archive("[Content_Types].xml", "xl/workbook.xml"), "a.docx", WORD, "CONTENT_DIFFERS"),
        (archive("content.xml"), "a.odt", ODT, "CONTENT_DIFFERS"),
        (b"PK\x03\x04 and no archive", "a.docx", WORD, "CONTENT_DIFFERS"),
        (archive("[Content_Types].xml", "word/document.xml", "word/vbaProject.bin"), "a.docx", WORD, "MACROS"),
        (archive("content.xml", "Basic/x.xml", first=("mimetype", ODT.encode())), "a.odt", ODT, "MACROS"),
        (OLE + "_VBA_PROJECT".encode("utf-16-le"), "a.doc", "application/msword", "MACROS"),
        (b"text\x00", "a.txt", "text/plain", "CONTENT_DIFFERS"),
        (b"p\xe4\xe4t\xf6s", "a.txt", "text/plain", "CONTENT_DIFFERS"),
        ("ä".encode()[:1], "a.txt", "text/plain", "CONTENT_DIFFERS"),
    ],
)
def test_what_does_not_agree_is_refused(content: bytes, name: str, media_type: str, found: str):
    assert defect(content, name, media_type) == found


def test_macros_are_found_where_two_pieces_meet(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(formats, "PIECE_BYTES", 520)
    assert defect(OLE + "_VBA_PROJECT".encode("utf-16-le"), "a.doc", "application/msword") == "MACROS"


@given(st.binary(max_size=200), st.sampled_from(sorted(formats.FORMATS)))
def test_any_content_is_taken_or_refused_for_a_reason(content: bytes, extension: str):
    media_type = min(formats.FORMATS[extension].media_types)
    assert defect(content, f"a.{extension}", media_type) in ("", "CONTENT_DIFFERS", "MACROS")
