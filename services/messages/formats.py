"""Which formats attachments may have, and whether a file is what it says it is.

Extension, declared media type and content have to agree. The list is of what
offices and residents send one another and phones can show: no programs, no
archives, no HTML, and no macros inside of office documents. Of the formats
without a signature of their own only text is taken, and only UTF-8.

Checked is what a file is, not whether it is harmless: that is a scanner's
matter (`clamd.py`), and a letter's PDF has rules of its own (`printing.py`).
"""

from __future__ import annotations

import codecs
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import filetype

from services.runtime.errors import InvalidArgument

HEAD_BYTES = 8192
"""What a signature is looked for in."""

PIECE_BYTES = 1 << 20
"""What is read at once of a format that has to be read whole."""

MAX_ENTRIES = 10_000
"""Parts of an office document; a book of 2,000 pages has some hundreds."""

MAX_DIRECTORY_BYTES = 4 << 20
"""The directory of an office document, which is read into memory."""

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_OLE_MACROS = "_VBA_PROJECT".encode("utf-16-le")
_ZIP_END = b"PK\x05\x06"
_ZIP_END_BYTES = 22
_ZIP_COMMENT_BYTES = 65_535

Defect = str
"""What is wrong, as `defect` in the refusal's metadata; "" for nothing."""


@dataclass(frozen=True)
class Format:
    """A format that is taken: its media types, the usual one first, and what finds the defect of a file."""

    media_types: tuple[str, ...]
    defect: Callable[[BinaryIO], Defect]


def media_type(file_name: str) -> str:
    """The media type that a file name stands for. Raises InvalidArgument, ATTACHMENT_TYPE_REFUSED."""
    return _by_extension(file_name).media_types[0]


def declared(file_name: str, media_type: str) -> Format:
    """The format that an attachment is going to have. Raises InvalidArgument, ATTACHMENT_TYPE_REFUSED."""
    found = _by_extension(file_name)
    if media_type not in found.media_types:
        raise _refused("the media type is not that of the file's extension", "MEDIA_TYPE_DIFFERS")
    return found


def check(file: BinaryIO, *, file_name: str, media_type: str, attachment: str) -> None:
    """Raises InvalidArgument, ATTACHMENT_TYPE_REFUSED, where the content is not what the attachment says it is."""
    defect = declared(file_name, media_type).defect(file)
    if defect:
        raise _refused("the content is not of the declared type, or holds macros", defect, attachment=attachment)


def _by_extension(file_name: str) -> Format:
    extension = file_name.rpartition(".")[2].lower() if "." in file_name else ""
    found = FORMATS.get(extension)
    if found is None:
        raise _refused("files with this extension are not taken", "EXTENSION_NOT_ALLOWED")
    return found


def _signature(*media_types: str) -> Callable[[BinaryIO], Defect]:
    def defect(file: BinaryIO) -> Defect:
        kind = filetype.guess(_head(file))  # type: ignore[no-untyped-call]
        return "" if kind is not None and kind.mime in media_types else "CONTENT_DIFFERS"

    return defect


def _pdf(file: BinaryIO) -> Defect:
    """The signature stands first: readers that search for it see another file than those that do not."""
    return "" if _head(file).startswith(b"%PDF-") else "CONTENT_DIFFERS"


def _text(file: BinaryIO) -> Defect:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while piece := file.read(PIECE_BYTES):
            if "\x00" in decoder.decode(piece):
                return "CONTENT_DIFFERS"
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return "CONTENT_DIFFERS"
    return ""


def _ole(file: BinaryIO) -> Defect:
    """Office 97 to 2003. Names in its directory are UTF-16, and whole within a sector."""
    if not _head(file).startswith(_OLE):
        return "CONTENT_DIFFERS"
    rest = b""
    while piece := file.read(PIECE_BYTES):
        if _OLE_MACROS in rest + piece:
            return "MACROS"
        rest = piece[-len(_OLE_MACROS) :]
    return ""


def _ooxml(part: str) -> Callable[[BinaryIO], Defect]:
    """Office Open XML (ISO/IEC 29500-2): the part that makes it a text, a sheet or slides, and no macros."""

    def defect(file: BinaryIO) -> Defect:
        names = _parts(file)
        if "[content_types].xml" not in names or part not in names:
            return "CONTENT_DIFFERS"
        active = any(name.endswith(("vbaproject.bin", "vbadata.xml")) or "/activex/" in name for name in names)
        return "MACROS" if active else ""

    return defect


def _odf(media_type: str) -> Callable[[BinaryIO], Defect]:
    """OpenDocument 1.3, part 2, section 3.3: the file `mimetype`, first and not compressed; scripts lie in folders."""

    def defect(file: BinaryIO) -> Defect:
        stands = f"mimetype{media_type}PK".encode()
        if not _head(file)[30:].startswith(stands):
            return "CONTENT_DIFFERS"
        names = _parts(file)
        if "content.xml" not in names:
            return "CONTENT_DIFFERS"
        return "MACROS" if any(name.startswith(("basic/", "scripts/")) for name in names) else ""

    return defect


def _parts(file: BinaryIO) -> frozenset[str]:
    """Names of a zip archive's files, in lower case; none where it is no archive or has a monstrous directory."""
    if not _head(file).startswith(b"PK\x03\x04") or not _small_directory(file):
        return frozenset()
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return frozenset()
    return frozenset(name.lower() for name in names) if len(names) <= MAX_ENTRIES else frozenset()


def _small_directory(file: BinaryIO) -> bool:
    size = file.seek(0, 2)
    file.seek(max(0, size - _ZIP_END_BYTES - _ZIP_COMMENT_BYTES))
    tail = file.read(_ZIP_END_BYTES + _ZIP_COMMENT_BYTES)
    at = tail.rfind(_ZIP_END)
    directory = int.from_bytes(tail[at + 12 : at + 16], "little")
    file.seek(0)
    return at >= 0 and directory <= MAX_DIRECTORY_BYTES


def _head(file: BinaryIO) -> bytes:
    head = file.read(HEAD_BYTES)
    file.seek(0)
    return head


def _refused(message: str, defect: Defect, *, attachment: str = "") -> InvalidArgument:
    if not attachment:
        return InvalidArgument("ATTACHMENT_TYPE_REFUSED", message, defect=defect)
    return InvalidArgument("ATTACHMENT_TYPE_REFUSED", message, defect=defect, attachment=attachment)


def _format(defect: Callable[[BinaryIO], Defect], *media_types: str) -> Format:
    return Format(media_types, defect)


_OFFICE = "application/vnd.openxmlformats-officedocument"
_OPEN = "application/vnd.oasis.opendocument"

FORMATS: dict[str, Format] = {
    "pdf": _format(_pdf, "application/pdf"),
    "jpg": _format(_signature("image/jpeg"), "image/jpeg"),
    "jpeg": _format(_signature("image/jpeg"), "image/jpeg"),
    "png": _format(_signature("image/png"), "image/png"),
    "gif": _format(_signature("image/gif"), "image/gif"),
    "tif": _format(_signature("image/tiff"), "image/tiff"),
    "tiff": _format(_signature("image/tiff"), "image/tiff"),
    "heic": _format(_signature("image/heic"), "image/heic"),
    "docx": _format(_ooxml("word/document.xml"), f"{_OFFICE}.wordprocessingml.document"),
    "xlsx": _format(_ooxml("xl/workbook.xml"), f"{_OFFICE}.spreadsheetml.sheet"),
    "pptx": _format(_ooxml("ppt/presentation.xml"), f"{_OFFICE}.presentationml.presentation"),
    "odt": _format(_odf(f"{_OPEN}.text"), f"{_OPEN}.text"),
    "ods": _format(_odf(f"{_OPEN}.spreadsheet"), f"{_OPEN}.spreadsheet"),
    "odp": _format(_odf(f"{_OPEN}.presentation"), f"{_OPEN}.presentation"),
    "doc": _format(_ole, "application/msword"),
    "xls": _format(_ole, "application/vnd.ms-excel"),
    "ppt": _format(_ole, "application/vnd.ms-powerpoint"),
    "txt": _format(_text, "text/plain"),
    "csv": _format(_text, "text/csv"),
    "json": _format(_text, "application/json"),
    "xml": _format(_text, "application/xml", "text/xml"),
}
"""By extension, in lower case."""
