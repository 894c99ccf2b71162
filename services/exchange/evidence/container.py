"""Containers: the evidence of one direction as an ASiC-E (ETSI EN 319 162-1, layout in evidence.proto).

Small files, always the same ones, in a ZIP that any tool opens. What is read is
held against what would have been written: manifests are compared, not parsed,
and a file that nothing covers is refused.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
import zlib
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass

from services.exchange.evidence import records, xades
from services.exchange.evidence.signatures import BATCH_FILE, DS, SHA, STATEMENT_FILE
from services.exchange.evidence.statements import MAX_BYTES as MAX_STATEMENT
from services.runtime.errors import InvalidArgument

MEDIA_TYPE = "application/vnd.etsi.asic-e+zip"
EXTENSION = ".asice"

MIMETYPE = "mimetype"
MANIFEST = "META-INF/manifest.xml"
SIGNATURE = "META-INF/signatures0.xml"
RECORD = "META-INF/evidencerecord001.ers"
RECORD_MANIFEST = "META-INF/ASiCEvidenceRecordManifest001.xml"

MAX_FILE = {
    MIMETYPE: len(MEDIA_TYPE),
    STATEMENT_FILE: MAX_STATEMENT,
    BATCH_FILE: 256,
    MANIFEST: 4096,
    SIGNATURE: xades.MAX_BYTES,
    RECORD: records.MAX_BYTES,
    RECORD_MANIFEST: 4096,
}
"""Bytes of each file, unpacked."""

MAX_BYTES = sum(MAX_FILE.values()) + 64 * 1024
"""Bytes of a container: all of its files, not packed at all, and what ZIP puts around them."""

MAX_ENTRIES = 16
"""Entries that are looked at, so as to name what is wrong with them; a container has four or six."""

_LOCAL = struct.Struct("<4s5H3L2H")
_END = struct.Struct("<4s4H2LH")
_UTF_8 = 0x800
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Container:
    """What a container holds. Nothing of it is verified yet."""

    file: str
    """The name of the file that is signed."""
    content: bytes
    """That file."""
    signature: bytes
    """Signed form 1 as a file (`xades`)."""
    record: bytes = b""
    """The evidence record over both; empty: none."""

    @property
    def group(self) -> tuple[bytes, bytes]:
        """What the evidence record proves (`records.Group`)."""
        return group(self.content, self.signature)


def group(content: bytes, signature: bytes) -> tuple[bytes, bytes]:
    """The digests of a signed file and of its signature's: what is stamped in a batch."""
    return hashlib.sha256(content).digest(), hashlib.sha256(signature).digest()


def write(container: Container) -> bytes:
    """The container as a file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in _files(container).items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            packed = zipfile.ZIP_STORED if name == MIMETYPE else zipfile.ZIP_DEFLATED
            archive.writestr(entry, content, compress_type=packed)
    return out.getvalue()


def _files(container: Container) -> dict[str, bytes]:
    """All files, in their order."""
    files = {
        MIMETYPE: MEDIA_TYPE.encode("ascii"),
        container.file: container.content,
        MANIFEST: _manifest(container.file),
        SIGNATURE: container.signature,
    }
    if container.record:
        files[RECORD_MANIFEST] = _record_manifest(container)
        files[RECORD] = container.record
    return files


def _manifest(file: str) -> bytes:
    """META-INF/manifest.xml (OpenDocument 1.2, part 3)."""
    entries = "".join(
        f'<manifest:file-entry manifest:full-path="{path}" manifest:media-type="{kind}"></manifest:file-entry>'
        for path, kind in (("/", MEDIA_TYPE), (file, "text/plain"))
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><manifest:manifest'
        ' xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0" manifest:version="1.2">'
        f"{entries}</manifest:manifest>"
    ).encode("ascii")


def _record_manifest(container: Container) -> bytes:
    """META-INF/ASiCEvidenceRecordManifest001.xml: what the record is over (EN 319 162-1, annex A.4)."""
    kinds = ((container.file, "text/plain"), (SIGNATURE, "application/xml"))
    references = "".join(
        f'<asic:DataObjectReference URI="{name}" MimeType="{kind}"><ds:DigestMethod Algorithm="{SHA}">'
        f"</ds:DigestMethod><ds:DigestValue>{b64encode(digest).decode('ascii')}</ds:DigestValue>"
        "</asic:DataObjectReference>"
        for (name, kind), digest in zip(kinds, container.group, strict=True)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><asic:ASiCManifest xmlns:asic="http://uri.etsi.org/02918/v1.2.1#"'
        f' xmlns:ds="{DS}"><asic:SigReference URI="{RECORD}"></asic:SigReference>{references}</asic:ASiCManifest>'
    ).encode("ascii")


def read(content: bytes) -> Container:
    """Reads a container.

    Steps, each with its reason:

    1. It is no larger than one can be: CONTAINER_TOO_LARGE.
    2. It is a ZIP that can be read in one way only: no bytes before, between or after its entries, none encrypted,
       the media type first and not packed: CONTAINER_MALFORMED.
    3. Its files are those of a container: CONTAINER_NESTED, CONTAINER_FILE_EXTRA, CONTAINER_FILE_MISSING,
       CONTAINER_FILE_RENAMED.
    4. None is larger unpacked than it can be: CONTAINER_TOO_LARGE.
    5. The manifests say what is there: CONTAINER_FILE_RENAMED.

    What the caller must still check: everything that its files say (`verifying`).
    """
    if len(content) > MAX_BYTES:  # 1
        raise _too_large(MAX_BYTES)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            _check_archive(content, archive, entries)  # 2
            file = _signed_file([entry.filename for entry in entries])  # 3
            files = {entry.filename: _unpacked(archive, entry) for entry in entries}  # 4
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, struct.error, OSError):
        raise _malformed("zip") from None
    if files[MIMETYPE] != MEDIA_TYPE.encode("ascii"):
        raise _malformed("mimetype")
    found = Container(file, files[file], files[SIGNATURE], files.get(RECORD, b""))
    for name, written in _files(found).items():  # 5
        if files.get(name) != written:
            raise _renamed(name)
    return found


def _check_archive(content: bytes, archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo]) -> None:
    if not 0 < len(entries) <= MAX_ENTRIES or archive.comment:
        raise _malformed("zip")
    at = 0
    for entry in entries:
        if entry.header_offset != at or entry.flag_bits & ~_UTF_8 or entry.comment:
            raise _malformed("zip")
        if entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise _malformed("zip")
        *_, name, extra = _LOCAL.unpack_from(content, at)
        at += _LOCAL.size + name + extra + entry.compress_size
    end = len(content) - _END.size
    signature, *_, size, start, _ = _END.unpack_from(content, end)
    if (signature, start, start + size) != (b"PK\x05\x06", at, end):
        raise _malformed("zip")
    first = entries[0]
    if first.filename != MIMETYPE or first.compress_type != zipfile.ZIP_STORED or first.extra:
        raise _malformed("mimetype")


def _signed_file(names: list[str]) -> str:
    """The file that is signed, where the container has its files and no others."""
    for name in names:
        folder, slash, rest = name.rpartition("/")
        if slash and (folder != "META-INF" or not rest):
            raise InvalidArgument("CONTAINER_NESTED", "the container holds a file in a folder")
        if names.count(name) > 1:
            raise _renamed(name)
    file = BATCH_FILE if BATCH_FILE in names else STATEMENT_FILE
    wanted = {MIMETYPE, file, MANIFEST, SIGNATURE}
    if RECORD in names or RECORD_MANIFEST in names:
        wanted |= {RECORD, RECORD_MANIFEST}
    extra, missing = sorted(set(names) - wanted), sorted(wanted - set(names))
    if extra and missing:
        raise _renamed(extra[0])
    if extra:
        raise InvalidArgument(
            "CONTAINER_FILE_EXTRA", "the container holds a file that its signature does not cover", file=_shown(extra)
        )
    if missing:
        raise InvalidArgument("CONTAINER_FILE_MISSING", "the container lacks a file", file=_shown(missing))
    return file


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    limit = MAX_FILE[entry.filename]
    with archive.open(entry) as stream:
        found = stream.read(limit + 1)
    if len(found) > limit:
        raise _too_large(limit)
    if found.startswith(b"PK\x03\x04"):
        raise InvalidArgument("CONTAINER_NESTED", "the container holds a container")
    return found


def _shown(names: Iterable[str]) -> str:
    """A file's name for people: it was given by who knows whom, and must not speak to their terminal."""
    return ascii(next(iter(names)))[1:-1][:100]


def _renamed(name: str) -> InvalidArgument:
    return InvalidArgument(
        "CONTAINER_FILE_RENAMED",
        "a file has another name, media type or digest than the manifests say, or there are two of the name",
        file=_shown([name]),
    )


def _too_large(limit: int) -> InvalidArgument:
    return InvalidArgument("CONTAINER_TOO_LARGE", "the container, or a file of it, is too large", max_bytes=str(limit))


def _malformed(rule: str) -> InvalidArgument:
    return InvalidArgument("CONTAINER_MALFORMED", "the file is not a container, or breaks a rule of one", rule=rule)
