"""A release is replaced by the next under load, and put back, without a lost or failed request."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from deploy import migrations
from deploy.local import plan
from deploy.local.child import Process
from deploy.local.node import Node, NodeSettings, running
from deploy.local.plan import Plan
from gateway.client import Client, Profile
from tests.faults.rolling import THIS, UPDATED, Load, Release, Update, following, load, of_commit, told
from tests.faults.sending import end_of_feed
from tests.faults.test_dying import whole

REQUESTS = 20
"""Of each kind, between two steps."""


@asynccontextmanager
async def updated(folder: Path) -> AsyncIterator[tuple[Node, Update]]:
    """A node that can be updated."""
    async with running(NodeSettings(state=folder, edge_port=0)) as node, AsyncExitStack() as stack:
        yield node, Update(node, stack)


async def held(node: Node, update: Update, *steps: tuple[Release, tuple[str, ...]]) -> Load:
    """Goes through the steps under load; nothing fails, and nothing is lost or there twice."""
    async with Client(Profile.load(node.state.clients / "permits")) as permits:
        cursor = await end_of_feed(permits)
        async with load(node) as made:
            await made.more(REQUESTS)
            for release, names in steps:
                for name in names:
                    await update.to(release, name)
                    await made.more(REQUESTS)
        assert not made.failures, f"{told(made)} {made.failures[:20]}"
        await whole(permits, cursor, made)
    return made


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_messages_are_updated_and_put_back_under_load(tmp_path: Path):
    fresh = following(tmp_path / "next")
    async with updated(tmp_path / "state") as (node, update):
        first = update.keeper("messages").pid
        await held(node, update, (fresh, ("messages",)), (THIS, ("messages",)))
        assert update.keeper("messages").pid != first


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_a_node_is_updated_to_the_next_release_and_put_back_under_load(tmp_path: Path):
    fresh = following(tmp_path / "next")
    fresh.check()
    async with updated(tmp_path / "state") as (node, update):
        made = await held(node, update, (fresh, UPDATED), (THIS, tuple(reversed(UPDATED))), (fresh, UPDATED))
    print(f"to the next release, back, and there again: {told(made)}")


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_a_node_is_updated_from_the_last_release_under_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    commit = os.environ.get("FROM") or last_release()
    earlier = of_commit(commit, tmp_path / "earlier")
    earlier.check()
    processes = plan.processes

    def of_the_earlier(settled: Plan) -> list[Process]:
        return [earlier.of(each) if each.name in UPDATED else each for each in processes(settled)]

    monkeypatch.setattr(plan, "processes", of_the_earlier)
    steps = [(THIS, UPDATED)]
    if earlier.goes_back:
        steps.append((earlier, tuple(reversed(UPDATED))))
    async with updated(tmp_path / "state") as (node, update):
        made = await held(node, update, *steps)
    way = "to this tree and back" if earlier.goes_back else "to this tree (it could not go back yet)"
    print(f"from {commit} {way}: {told(made)}")


def last_release() -> str:
    """The commit of the last release: that at which the list of its migrations was written."""
    asked = ["git", "log", "--max-count=1", "--format=%H", "--", str(migrations.RELEASED)]
    commit = subprocess.run(asked, cwd=plan.SOURCE, capture_output=True, text=True, check=False).stdout.strip()
    if not commit:
        pytest.skip("the history of the tree is not here")
    return commit
