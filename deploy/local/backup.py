"""Backup and restore of the embedded node, to one consistent point.

    python -m deploy.local.backup save FILE       of a node that is down, into one file
    python -m deploy.local.backup restore FILE    into a state folder that is empty or not there

A backup holds everything that cannot be made again: databases, streams,
attachments, authorities, certificates and keys. It is taken while the node is
down, which is what makes the four of them agree. Whoever has the file can open
everything in it: it is written for its owner alone, and belongs where the
node's own disk would be allowed to be.

The file is a tar archive whose last member lists every file with its SHA-256.
One that was cut short has no list, and is refused before anything is put in
place.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from deploy.local.lock import Lock
from deploy.local.node import NodeSettings
from deploy.local.problems import NodeProblem, of_os_error
from deploy.local.state import LAYOUT, LIFE, State
from services.runtime import config

FORMAT = 1
"""Raised when the archive changes in a way that an older release would not understand."""

MANIFEST = "backup.json"
"""The last member."""

MADE_AGAIN = ("run", "log", "edge", LIFE)
"""What is left out: what a node writes anew at each start, and what ends with the life that is saved."""

COMPRESSION = 1
"""Of gzip: sealed content does not shrink, and the databases shrink well at the first level already."""

PIECE = 1 << 20
"""Bytes read at once."""


@dataclass(frozen=True)
class Saved:
    """What a backup holds."""

    files: int
    content_bytes: int
    time: datetime


def save(state: State, target: Path) -> Saved:
    """Writes a backup of a node that is down. Raises NodeProblem; then there is no file."""
    if not state.layout_file.exists():
        raise NodeProblem(f"{state.root} is not the state of a node", "name its folder with SOLMU_STATE")
    if target.exists():
        raise NodeProblem(f"{target} is there already", "name another file; a backup never replaces one")
    lock = Lock(state.lock)
    if lock.is_held():
        raise NodeProblem("the node is running", "stop it with `make down` first; a backup takes seconds")
    lock.acquire()
    draft = target.with_name(f".{target.name}.new")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            saved = _write(state, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except OSError as error:
        raise of_os_error(error, f"writing {target}") from error
    finally:
        draft.unlink(missing_ok=True)
        lock.release()
    return saved


def restore(source: Path, state: State) -> Saved:
    """Puts a backup in place where there is no node yet. Raises NodeProblem; then nothing has changed."""
    if state.root.exists() and any(state.root.iterdir()):
        raise NodeProblem(
            f"{state.root} is not empty", "move it away, or name another folder with SOLMU_STATE; nothing is replaced"
        )
    draft = state.root.with_name(f".{state.root.name}.restoring")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        saved = _unpack(source, draft)
        draft.chmod(0o711 if os.geteuid() == 0 else 0o700)
        if state.root.exists():
            state.root.rmdir()
        draft.rename(state.root)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, KeyError) as error:
        raise NodeProblem(f"{source} is no whole backup ({error})", "take another; nothing was restored") from error
    except OSError as error:
        raise of_os_error(error, f"restoring {source}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return saved


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; answers the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.backup", description="Backup of the embedded node.")
    parser.add_argument("command", choices=("save", "restore"))
    parser.add_argument("file", type=Path)
    given = parser.parse_args(arguments)
    try:
        state = State(config.read(NodeSettings).state)
        if given.command == "save":
            saved, done = save(state, given.file), f"saved into {given.file}"
        else:
            saved, done = restore(given.file, state), f"restored into {state.root}; `make up` starts the node"
    except (NodeProblem, config.ConfigError) as problem:
        print(problem, file=sys.stderr)
        return 1
    print(f"{saved.files} files, {saved.content_bytes / 1e6:.0f} MB, as of {saved.time:%Y-%m-%d %H:%M:%S} UTC: {done}.")
    return 0


def _write(state: State, file: IO[bytes]) -> Saved:
    digests: dict[str, str] = {}
    total = 0
    now = datetime.now(UTC)
    with (
        gzip.GzipFile(fileobj=file, mode="wb", compresslevel=COMPRESSION, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in sorted(state.root.rglob("*")):
            name = str(path.relative_to(state.root))
            if name.partition("/")[0] in MADE_AGAIN or not (path.is_dir() or path.is_file()):
                continue
            member = archive.gettarinfo(path, arcname=name)
            if member.isreg():
                with path.open("rb") as content:
                    digests[name] = _digest(content)
                    content.seek(0)
                    archive.addfile(member, content)
                total += member.size
            else:
                archive.addfile(member)
        manifest = {"format": FORMAT, "layout": LAYOUT, "time": now.isoformat(), "sha256": digests}
        content_of_manifest = json.dumps(manifest).encode()
        last = tarfile.TarInfo(MANIFEST)
        last.size = len(content_of_manifest)
        archive.addfile(last, io.BytesIO(content_of_manifest))
    return Saved(len(digests), total, now)


def _unpack(source: Path, draft: Path) -> Saved:
    draft.mkdir(mode=0o700)
    found: dict[str, str] = {}
    manifest = None
    total = 0
    with gzip.open(source) as packed:
        with tarfile.open(fileobj=packed, mode="r|") as archive:
            for member in archive:
                content = archive.extractfile(member)
                if member.name == MANIFEST and content is not None:
                    manifest = json.load(content)
                    continue
                path = _inside(draft, member)
                if content is None:
                    path.mkdir()
                else:
                    found[member.name] = _copied(content, path)
                    total += member.size
                path.chmod(member.mode & 0o777)
                if os.geteuid() == 0:
                    os.chown(path, member.uid, member.gid)
        while packed.read(PIECE):  # to its end, where the checksum is
            pass
    if manifest is None:
        raise ValueError("it was cut short")
    if manifest["format"] != FORMAT:
        raise ValueError(f"its format is {manifest['format']}, this release knows {FORMAT}")
    expected: dict[str, str] = manifest["sha256"]
    if wrong := sorted(name for name in found.keys() | expected if found.get(name) != expected.get(name)):
        raise ValueError(f"{len(wrong)} of its files are missing or changed, such as {wrong[0]}")
    return Saved(len(found), total, datetime.fromisoformat(manifest["time"]))


def _inside(draft: Path, member: tarfile.TarInfo) -> Path:
    """Where a member goes. Raises ValueError for one that is no file or folder, or that would lead outside."""
    path = Path(member.name)
    if not (member.isreg() or member.isdir()) or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{member.name} does not belong in a backup")
    return draft / path


def _copied(content: IO[bytes], path: Path) -> str:
    """Writes a file; its SHA-256."""
    digest = hashlib.sha256()
    with path.open("xb") as file:
        while piece := content.read(PIECE):
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while piece := file.read(PIECE):
        digest.update(piece)
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
