"""A node in compose: how large its image is, how long it takes to be healthy, and how much memory it holds when idle."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import time

from deploy.local.plan import SOURCE
from tests.bench.start import SETTLE
from tests.journeys import compose
from tests.journeys.compose import Project

UNITS = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "kB": 1000, "B": 1}


async def measure() -> None:
    """Starts a node from images on new volumes and again on the same, and reads its memory; or says why it does not."""
    print("a node in compose")
    if why := lacking():
        print(f"  skipped: {why}\n")
        return
    print(f"  {size() / 1e6:5.0f} MB {image()}, the base image included")
    began = time.perf_counter()
    with compose.started("bench") as project:
        print(f"  {time.perf_counter() - began:5.1f} s  to healthy, from nothing (certificates, cluster, migrations)")
        project.compose("down", "--timeout", "60")
        began = time.perf_counter()
        project.up()
        print(f"  {time.perf_counter() - began:5.1f} s  to healthy, on existing volumes")
        await asyncio.sleep(SETTLE)
        used = memory(project)
    print("\nidle memory by container (docker stats), MB")
    for service, count in sorted(used.items()):
        print(f"  {count / 1e6:6.0f}  {service}")
    print(f"  {sum(used.values()) / 1e6:6.0f}  in all\n")


def lacking() -> str | None:
    """What a node in compose lacks on this machine."""
    if not compose.engine():
        return "no Docker engine with compose answers on this machine"
    if subprocess.run(["docker", "image", "inspect", image()], capture_output=True, check=False).returncode:
        return f"there is no image {image()} (make images)"
    return None


def image() -> str:
    """The image of the services, as the compose file names it."""
    [default] = re.findall(r"^SOLMU_IMAGE=(.+)$", (SOURCE / "deploy/compose.env.example").read_text(), re.MULTILINE)
    return os.environ.get("SOLMU_IMAGE") or default


def size() -> int:
    """Bytes of that image."""
    asked = ["docker", "image", "inspect", "--format", "{{.Size}}", image()]
    return int(subprocess.check_output(asked, text=True))


def memory(project: Project) -> dict[str, float]:
    """Bytes that each container of a project uses, by service."""
    containers = {
        one["ID"][:12]: one["Service"]
        for one in map(json.loads, project.compose("ps", "--format", "json").splitlines())
    }
    asked = ["docker", "stats", "--no-stream", "--format", "{{.ID}} {{.MemUsage}}", *containers]
    told = (line.split() for line in subprocess.check_output(asked, text=True).splitlines())
    return {containers[each[0][:12]]: read(each[1]) for each in told}


def read(quantity: str) -> float:
    """Bytes of what Docker writes as 12.5MiB."""
    unit = next(unit for unit in UNITS if quantity.endswith(unit))
    return float(quantity.removesuffix(unit)) * UNITS[unit]
