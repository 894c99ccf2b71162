"""The keys of a node that runs, by the command: shown, wrapped by another root, taken back from it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from deploy.local.node import Node
from deploy.local.plan import SOURCE
from services.runtime.keys import setting


async def keys(node: Node, *arguments: str) -> str:
    command = [sys.executable, "-m", "deploy.local.keys", *arguments]
    environment = os.environ | {"SOLMU_STATE": str(node.state.root)}
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=SOURCE, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_both_services_that_seal_are_moved_to_another_root_and_back_while_the_node_runs(
    node: Node, tmp_path: Path
):
    new = tmp_path / "new.key"
    new.write_bytes(os.urandom(32))
    own, other = setting.root(str(node.state.root_key)).name, setting.root(str(new)).name
    shown = await keys(node, "show")
    assert (shown.count(f"{own}  (in use)"), shown.count(other)) == (2, 0)
    assert (await keys(node, "wrap", str(new))).count("has wrapped the generations 1") == 2
    assert (await keys(node, "show")).count(other) == 2
    assert (await keys(node, "drop", other)).count("1 keys are no longer wrapped") == 2
    assert other not in await keys(node, "show")
    assert all(process.restarts == 0 for name, process in node.processes.items() if name in ("messages", "exchange"))
