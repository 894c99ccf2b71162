"""The image of the services by itself: two builds are the same, and a root of keys may be in a token.

Needs a Docker engine, the image, and its base image; `make test-containers` runs it. What `make images` takes from
the environment (BASE_IMAGE and its like) is taken here, too.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.local.plan import SOURCE
from tests.bench.compose import image
from tests.journeys import compose

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

WITH_A_TOKEN = """
FROM {image}
USER root
RUN ["apt-get", "update", "-qq"]
RUN ["apt-get", "install", "-qq", "--yes", "--no-install-recommends", "softhsm2"]
ENV SOFTHSM2_CONF=/tmp/softhsm2.conf
USER 10001:10001
"""
"""The image with a token in software; a site mounts the library of its own."""

MAKES_A_ROOT = """
import asyncio, os, pathlib, subprocess, sys
from services.runtime.keys import setting
from services.runtime.keys.__main__ import main

folder = pathlib.Path("/tmp/tokens")
folder.mkdir()
pathlib.Path(os.environ["SOFTHSM2_CONF"]).write_text(f"directories.tokendir = {folder}")
pathlib.Path("/tmp/pin").write_text("123456")
subprocess.run(["softhsm2-util", "--init-token", "--free", "--label", "solmu", "--pin", "123456", "--so-pin", "12345678"],
               check=True, stdout=sys.stderr)
library = next(pathlib.Path("/usr/lib").rglob("libsofthsm2.so"))
uri = f"pkcs11:token=solmu;object=root?module-path={library}&pin-source=/tmp/pin"
assert main(["make", uri]) == 0

async def opened():
    root = setting.root(uri)
    return await root.unwrap(await root.wrap(b"key of a service", context="test"), context="test")

print(asyncio.run(opened()).decode())
"""

Built = Callable[..., str]


@pytest.fixture
def built() -> Iterator[Built]:
    """Builds an image by a command that names it, and removes it afterwards; answers its name."""
    compose.needed()
    names: list[str] = []

    def build(*command: str, **environment: str) -> str:
        name = f"solmu-test-{os.getpid()}-{len(names)}"
        names.append(name)
        filled = [part.format(name=name) for part in command]
        done = subprocess.run(
            filled, cwd=SOURCE, env=os.environ | environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return name

    yield build
    for name in names:
        subprocess.call(["docker", "image", "rm", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def layers(name: str) -> list[str]:
    """The digests of an image's layers."""
    asked = ["docker", "image", "inspect", "--format", "{{json .RootFS.Layers}}", name]
    found: list[str] = json.loads(subprocess.check_output(asked, text=True))
    return found


def test_two_builds_of_the_same_sources_have_the_same_layers(built: Built):
    first, second = (layers(built("make", "images", "IMAGE={name}", "NO_CACHE=yes")) for _ in range(2))
    assert first == second
    assert len(first) > 1


def test_a_root_of_keys_may_be_in_a_token(built: Built, tmp_path: Path):
    (tmp_path / "Dockerfile").write_text(WITH_A_TOKEN.format(image=image()))
    with_a_token = built("docker", "build", "--tag", "{name}", str(tmp_path), DOCKER_BUILDKIT="1")
    sandbox = ["--read-only", "--tmpfs", "/tmp:mode=1777", "--network", "none", "--cap-drop", "ALL"]  # noqa: S108  # in the container
    command = ["docker", "run", "--rm", *sandbox, with_a_token, "python", "-c", MAKES_A_ROOT]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr[-3000:]
    assert told.stdout.splitlines() == ["pkcs11:token=solmu;object=root is there", "key of a service"]
