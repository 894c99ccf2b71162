"""The keys of one service, seen and moved: `python -m services.runtime.keys COMMAND`, in the service's environment.

    show             the generations of service keys, and the roots that wrapped each
    make ROOT        makes the root's key, where the root is a token
    wrap ROOT        has another root wrap all keys too; or the same one, after a rotation of its own
    drop NAME        takes away what a root wrapped, by its name in `show`
    renew            makes a new generation, which wraps data keys ten minutes later
    wrap-file FILE   has the root wrap a file of a key, in place

ROOT is a value as SOLMU_ROOT_KEY takes it. Each command but `show` is safe to
repeat, and none stops a process that runs.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from services.runtime import config, tls
from services.runtime.config import ConfigError, setting
from services.runtime.database import Database
from services.runtime.keys import files, service_keys, store
from services.runtime.keys.root import Root, RootError
from services.runtime.keys.setting import root, root_setting
from services.runtime.keys.token_root import TokenRoot
from services.runtime.telemetry import Telemetry

EX_CONFIG = 78
EX_UNAVAILABLE = 69


@dataclass(frozen=True, kw_only=True)
class KeySettings:
    """What the commands read: the service's own settings."""

    database: str = setting("SOLMU_DATABASE", config.text, doc="the service's database")
    certificate: Path = setting("SOLMU_TLS_CERTIFICATE", config.file, doc="certificate of the service, PEM")
    key: Path = setting("SOLMU_TLS_KEY", config.file, doc="its private key, PEM")
    authorities: Path = setting("SOLMU_TLS_AUTHORITIES", config.file, doc="the node's internal authority, PEM")
    root_key: Root = root_setting()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; answers the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m services.runtime.keys",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, argument in (("show", ""), ("make", "root"), ("wrap", "root"), ("drop", "name"), ("renew", "")):
        command = commands.add_parser(name)
        if argument:
            command.add_argument(argument)
    commands.add_parser("wrap-file").add_argument("file", type=Path)
    given = parser.parse_args(arguments)
    try:
        sys.stdout.write(asyncio.run(_run(given)) + "\n")
    except (ConfigError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return EX_CONFIG
    except (OSError, asyncpg.PostgresError) as error:
        sys.stderr.write(f"the database cannot be reached ({type(error).__qualname__}): is it up?\n")
        return EX_UNAVAILABLE
    return 0


async def _run(given: argparse.Namespace) -> str:
    if given.command == "make":
        return await _make(root(given.root))
    settings = config.read(KeySettings)
    if given.command == "wrap-file":
        return await _wrap_file(given.file, settings.root_key)
    proof = tls.Files(settings.certificate, settings.key, settings.authorities)
    database = await Database.connect(settings.database, files=proof, size=1, telemetry=Telemetry())
    try:
        return await _with(database, settings.root_key, given)
    finally:
        await database.close()


async def _with(database: Database, current: Root, given: argparse.Namespace) -> str:
    match given.command:
        case "wrap":
            new = root(given.root)
            moved = await service_keys.wrap(database, current, new)
            return f"{new.name} has wrapped the generations {', '.join(map(str, moved))}"
        case "drop":
            return (
                f"{await service_keys.drop(database, current, given.name)} keys are no longer wrapped by {given.name}"
            )
        case "renew":
            return f"generation {await service_keys.renew(database, current)} wraps data keys from ten minutes on"
        case _:
            return await _shown(database, current)


async def _shown(database: Database, current: Root) -> str:
    lines = [
        f"{row['generation']:>4}  {row['create_time']:%Y-%m-%d %H:%M}  {row['root']}"
        f"{'  (in use)' if row['root'] == current.name else ''}"
        for row in await store.wrappings(database)
    ]
    return "\n".join([f"root  {current.name}", *lines])


async def _make(made: Root) -> str:
    if not isinstance(made, TokenRoot):
        raise RootError("only a token has its key made here; a KMS makes its own, and a file is 32 random bytes")
    await made.make()
    return f"{made.name} is there"


async def _wrap_file(path: Path, current: Root) -> str:
    key = await files.read(str(path)).opened(current)
    _replace(path, await files.wrapped(key, current))
    return f"{path} is wrapped by {current.name}"


def _replace(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.new")
    draft.touch(mode=0o600)
    draft.write_bytes(content)
    draft.chmod(path.stat().st_mode & 0o777)
    draft.replace(path)


if __name__ == "__main__":
    sys.exit(main())
