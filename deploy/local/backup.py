"""Backup and restore of the embedded node, to one consistent point.

    python -m deploy.local.backup save FILE       of a node, into one file
    python -m deploy.local.backup restore FILE    into a state folder that is empty or not there

A backup holds everything that cannot be made again: databases, attachments,
authorities, certificates and keys. Attachments in an S3 store (SOLMU_ATTACHMENTS)
are not in it: it says where they lie, and README.md what their store has to keep.
Whoever has the file can open everything in
it: it is written for its owner alone, and belongs where the node's own disk
would be allowed to be.

A node that runs goes on meanwhile. PostgreSQL copies itself, all databases as
of one moment; attachments are copied after it, so that none is missing: they
never change once they are there. Streams are left out: a restored node begins
another life, in which the events that its outboxes hold are published again,
and whoever has dealt with one drops it.

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
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import IO

from deploy.local import engines
from deploy.local.lock import Lock
from deploy.local.node import NodeSettings
from deploy.local.plan import POSTGRES
from deploy.local.ports import LOOPBACK
from deploy.local.postgres import SUPERUSER
from deploy.local.problems import NodeProblem, of_os_error
from deploy.local.state import LAYOUT, LIFE, State
from services.runtime import config, mesh

FORMAT = 1
"""Raised when the archive changes in a way that an older release would not understand."""

MANIFEST = "backup.json"
"""The last member."""

MADE_AGAIN = ("run", "log", "edge", "nats", LIFE)
"""What is left out: what a node makes anew, and what ends with the life that is saved."""

DATABASES = "postgres"
"""Folder of the cluster, which is copied as it lies only while nothing runs."""

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
    bucket: str = ""
    """Where attachments lie that are not in it: `s3://bucket/prefix`; empty: they are in it."""


def save(state: State, target: Path, *, postgres_bin: Path | None = None) -> Saved:
    """Writes a backup of a node, which may run. Raises NodeProblem; then there is no file.

    `postgres_bin` is the folder of the node's own PostgreSQL programs, where
    they are not the wheel's.
    """
    if not state.layout_file.exists():
        raise NodeProblem(f"{state.root} is not the state of a node", "name its folder with SOLMU_STATE")
    if target.exists():
        raise NodeProblem(f"{target} is there already", "name another file; a backup never replaces one")
    lock = Lock(state.lock)
    runs = lock.is_held()
    if runs and not (state.postgres / "data").exists():
        raise NodeProblem(
            "the databases are on a server of their own",
            "back that server up by its own means, then the folder `attachments`, the keys and the authorities",
        )
    if not runs:
        lock.acquire()
    draft = target.with_name(f".{target.name}.new")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            saved = _write(state, file, _running_cluster(state, postgres_bin) if runs else None)
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
        settings = config.read(NodeSettings)
        state = State(settings.state)
        if given.command == "save":
            saved = save(state, given.file, postgres_bin=settings.postgres_bin)
            done = f"saved into {given.file}"
        else:
            saved, done = restore(given.file, state), f"restored into {state.root}; `make up` starts the node"
    except (NodeProblem, config.ConfigError) as problem:
        print(problem, file=sys.stderr)
        return 1
    print(f"{saved.files} files, {saved.content_bytes / 1e6:.0f} MB, as of {saved.time:%Y-%m-%d %H:%M:%S} UTC: {done}.")
    if saved.bucket:
        print(
            f"Attachments are not in it: they lie in {saved.bucket}, whose versions of"
            f" {saved.time:%Y-%m-%d %H:%M:%S} UTC belong to it (deploy/README.md, Backup and restore)."
        )
    return 0


def _write(state: State, file: IO[bytes], cluster: Cluster | None) -> Saved:
    """Writes the archive; the databases come from `cluster` where it runs."""
    digests: dict[str, str] = {}
    total = 0
    now = datetime.now(UTC)
    with (
        gzip.GzipFile(fileobj=file, mode="wb", compresslevel=COMPRESSION, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        without = MADE_AGAIN if cluster is None else (*MADE_AGAIN, DATABASES)
        members = chain(cluster.members() if cluster else (), _members(state, archive, without=without))
        for member, content in members:
            if content is None:
                archive.addfile(member)
                continue
            read = _Digesting(content)
            archive.addfile(member, read)  # type: ignore[arg-type]  # it is read from, and nothing else
            digests[member.name] = read.digest
            total += member.size
        manifest = {
            "format": FORMAT,
            "layout": LAYOUT,
            "time": now.isoformat(),
            "sha256": digests,
            "bucket": (bucket := _bucket()),
        }
        content_of_manifest = json.dumps(manifest).encode()
        last = tarfile.TarInfo(MANIFEST)
        last.size = len(content_of_manifest)
        archive.addfile(last, io.BytesIO(content_of_manifest))
    return Saved(len(digests), total, now, bucket)


def _bucket() -> str:
    """Where the attachments of the node lie, where that is not its own folder."""
    place = os.environ.get("SOLMU_ATTACHMENTS", "")
    return place if place.startswith("s3:") else ""


Member = tuple[tarfile.TarInfo, IO[bytes] | None]
"""What goes into the archive: a file with its content, or a folder."""


def _members(state: State, archive: tarfile.TarFile, *, without: Sequence[str]) -> Iterator[Member]:
    """Files and folders of the state. What a running node takes away meanwhile was no longer wanted."""
    for path in sorted(state.root.rglob("*")):
        name = str(path.relative_to(state.root))
        if name.partition("/")[0] in without or not (path.is_dir() or path.is_file()):
            continue
        try:
            member = archive.gettarinfo(path, arcname=name)
            content = path.open("rb") if member.isreg() else None
        except FileNotFoundError:
            continue
        if content is None:
            yield member, None
        else:
            with content:
                yield member, content


class Cluster:
    """The node's PostgreSQL while it runs, as it copies itself: all databases as of one moment, with the log to it."""

    def __init__(self, program: Path, state: State) -> None:
        files = state.identity(mesh.OPERATOR)
        port = json.loads(state.ports_file.read_text())[POSTGRES]
        address = {
            "host": LOOPBACK,
            "port": port,
            "user": SUPERUSER,
            "sslmode": "verify-full",
            "sslcert": files.certificate,
            "sslkey": files.key,
            "sslrootcert": files.authorities,
        }
        quoted = " ".join(f"{name}='{_escaped(str(value))}'" for name, value in address.items())
        options = ("--format=tar", "--pgdata=-", "--wal-method=fetch", "--checkpoint=fast", "--no-password")
        self._command = [str(program), *options, f"--dbname={quoted}"]
        self._owner = (state.postgres / "data").stat()

    def members(self) -> Iterator[Member]:
        """Its files. Raises NodeProblem where it could not be copied."""
        yield self._owned(tarfile.TarInfo(DATABASES), folder=True), None
        yield self._owned(tarfile.TarInfo(f"{DATABASES}/data"), folder=True), None
        with subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as copying:
            assert copying.stdout is not None
            assert copying.stderr is not None
            try:
                with tarfile.open(fileobj=copying.stdout, mode="r|") as archive:
                    for member in archive:
                        member.name = f"{DATABASES}/data/{member.name.removeprefix('./')}"
                        yield self._owned(member), archive.extractfile(member)
            except tarfile.ReadError:
                pass  # what it says of itself tells more
            while copying.stdout.read(PIECE):
                pass
            said = copying.stderr.read().decode(errors="replace")
        if copying.returncode != 0:
            raise NodeProblem(
                "PostgreSQL could not copy itself", "mend what its last lines say, then save again", log=said.strip()
            )

    def _owned(self, member: tarfile.TarInfo, *, folder: bool = False) -> tarfile.TarInfo:
        """The member as its owner outside has it: the server may live in a namespace with other numbers."""
        member.uid, member.gid, member.uname, member.gname = self._owner.st_uid, self._owner.st_gid, "", ""
        if folder:
            member.type, member.mode = tarfile.DIRTYPE, 0o700
        return member


def _running_cluster(state: State, postgres_bin: Path | None) -> Cluster:
    return Cluster((postgres_bin or engines.POSTGRES.wheel().parent) / "pg_basebackup", state)


def _escaped(value: str) -> str:
    """For a connection string of libpq."""
    return value.replace("\\", "\\\\").replace("'", "\\'")


class _Digesting:
    """A file that is read, and the SHA-256 of what was read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        piece = self._file.read(size)
        self._digest.update(piece)
        return piece

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()


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
    return Saved(len(found), total, datetime.fromisoformat(manifest["time"]), manifest.get("bucket", ""))


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


if __name__ == "__main__":
    sys.exit(main())
