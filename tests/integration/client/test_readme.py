"""What README.md has a newcomer paste, pasted: each block of commands ends well, on a node that runs already."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from deploy.local.node import Node
from tests.integration.client.test_command import solmu

SOURCE = Path(__file__).parents[3]
EDGE = "https://localhost:8443"
"""Where the README has the edge."""

LEFT_OUT = ("make ", "log-in", "--person call")
"""Starting and stopping, and what waits for a person at a browser: tests of their own."""


def blocks() -> list[str]:
    """The commands of "Try it", a block of lines at a time."""
    part = (SOURCE / "README.md").read_text(encoding="utf-8").partition("## Try it")[2].partition("\n## ")[0]
    found: list[list[str]] = [[]]
    for line in part.splitlines():
        if line.startswith("    "):
            found[-1].append(line.removeprefix("    "))
        elif found[-1]:
            found.append([])
    kept = ("\n".join(line for line in block if not any(each in line for each in LEFT_OUT)) for block in found)
    return [block for block in kept if block]


@pytest.fixture
async def folder(node: Node, tmp_path: Path) -> Path:
    """A clone as `make demo` leaves it: programs, a node's state, and a resident with a mailbox."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / ".solmu").symlink_to(node.state.root)
    await solmu("--profile", node.state.clients / "resident", "call", "POST", "/v1/mailboxes:open", "{}")
    return tmp_path


async def test_the_commands_of_the_readme_end_well(node: Node, folder: Path) -> None:
    said = ['"name": "units/permits"', "sent: units/permits/messages/", '"type":"message.accepted"']
    for block, expected in zip(blocks(), said, strict=True):
        process = await asyncio.create_subprocess_exec(
            *("bash", "-e", "-o", "pipefail", "-c", block.replace(EDGE, node.edge)),
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(SOURCE)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, error = (stream.decode() for stream in await process.communicate())
        assert (process.returncode, expected in out) == (0, True), (block, out, error)
