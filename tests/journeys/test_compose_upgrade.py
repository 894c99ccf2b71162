"""A node in compose is updated to another image under load, as deploy/README.md says, and put back.

Needs what `test_compose.py` needs; `make test-containers` runs it. The other image is the same with a release's worth of
migrations on top, which change every table.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from deploy.local import demo_clients
from deploy.local.node import Node
from gateway.client import Client, Profile
from services.runtime import mesh
from tests.bench.compose import image
from tests.faults.rolling import UPDATED, Load, following, load, told
from tests.faults.sending import end_of_feed
from tests.faults.test_dying import whole
from tests.journeys import compose
from tests.journeys.compose import Project

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]

REQUESTS = 20
"""Of each kind, between two steps."""


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    compose.needed()
    with compose.started("upgrade") as started:
        yield started


@pytest.fixture(scope="module")
def next_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image of the next release: this one, with migrations on top."""
    compose.needed()
    folder, name = tmp_path_factory.mktemp("next"), f"solmu-test-{os.getpid()}"
    following(folder)
    migrations = [f"services/{service}/migrations/" for service in (*mesh.SERVICES, "runtime")]
    steps = [f"FROM {image()}", *(f"COPY {each} /opt/solmu/app/{each}" for each in migrations)]
    (folder / "Dockerfile").write_text("\n".join(steps))
    build = ["docker", "build", "--quiet", "--tag", name, str(folder)]
    subprocess.check_call(build, env=os.environ | {"DOCKER_BUILDKIT": "1"}, stdout=subprocess.DEVNULL)
    yield name
    subprocess.call(["docker", "image", "rm", name], stdout=subprocess.DEVNULL)


def update(project: Project, service: str, release: str) -> None:
    """The steps of the README: one of the new release beside the old one, then the old one drains and goes."""
    before = project.compose("ps", "--quiet", service).split()
    newer = Project(project.name, {**project.environment, "SOLMU_IMAGE": release})
    newer.compose("up", "--detach", "--wait", "--no-deps", "--no-recreate", "--scale", f"{service}=2", service)
    subprocess.check_call(["docker", "stop", "--time", "30", *before], stdout=subprocess.DEVNULL)
    subprocess.check_call(["docker", "rm", *before], stdout=subprocess.DEVNULL)
    newer.compose("up", "--detach", "--wait", "--no-deps", "--no-recreate", "--scale", f"{service}=1", service)


async def test_a_node_in_compose_is_updated_and_put_back_under_load(
    project: Project, next_image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    state = project.state(tmp_path / "state")
    await demo_clients.provision(state, node="solmu", edge=project.edge)
    node: Any = SimpleNamespace(state=state, settings=SimpleNamespace(node="solmu"), edge=project.edge)
    async with Client(Profile.load(state.clients / "permits")) as permits:
        cursor = await end_of_feed(permits)
        async with load(cast("Node", node)) as made:
            await made.more(REQUESTS)
            for release, services in ((next_image, UPDATED), (image(), tuple(reversed(UPDATED)))):
                for service in services:
                    await stepped(made, project, service, release)
                    running = project.inspect(service)["Config"]["Image"]
                    assert running == release
        assert not made.failures, f"{told(made)} {made.failures[:20]}"
        await whole(permits, cursor, made)
    with capsys.disabled():
        print(f"\nin compose, to the next release and back: {told(made)}")


async def stepped(made: Load, project: Project, service: str, release: str) -> None:
    """One service is updated while requests go on."""
    await asyncio.to_thread(update, project, service, release)
    await made.more(REQUESTS)
