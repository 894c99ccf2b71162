"""The telemetry profile in compose: a node is watched, its traces arrive, and Prometheus answers the dashboard.

Needs images of Prometheus and of the collector beside what `test_compose.py` needs; SOLMU_PROMETHEUS_IMAGE and
SOLMU_COLLECTOR_IMAGE name others than those of the compose file. Grafana is not run.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from deploy.local import demo, demo_clients
from deploy.local.node import NodeSettings
from deploy.local.plan import SOURCE
from services.runtime import mesh
from tests.journeys import compose
from tests.journeys.compose import Project

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

TELEMETRY = SOURCE / "deploy/telemetry"
PATIENCE = 180.0


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    compose.needed()
    services = yaml.safe_load(compose.NODE.read_text())["services"]
    for service in ("PROMETHEUS", "COLLECTOR"):
        default = services[service.lower()]["image"].partition(":-")[2].rstrip("}")
        image = os.environ.get(f"SOLMU_{service}_IMAGE", default)
        if subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode:
            pytest.skip(f"there is no image {image} on this machine")
    with compose.started("telemetry", SOLMU_OTLP_ENDPOINT="collector:4317", SOLMU_TRACE_RATIO="1") as started:
        started.up("prometheus", "collector")
        yield started


def asked(project: Project, path: str, **parameters: str) -> Any:
    """What Prometheus answers to a request of its API, made from within the node."""
    address = f"http://prometheus:9090/api/v1/{path}?{urlencode(parameters)}"
    script = f"import urllib.request; print(urllib.request.urlopen({address!r}, timeout=10).read().decode())"
    answer = json.loads(project.compose("exec", "-T", "gateway", "python", "-c", script))
    assert answer["status"] == "success"
    return answer["data"]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(2)


async def test_a_node_is_watched_and_its_traces_arrive(project: Project, tmp_path: Path):
    state = project.state(tmp_path / "state")
    await demo_clients.provision(state, node="solmu", edge=project.edge)
    await demo.play(NodeSettings(state=state.root))

    def watched() -> bool:
        targets = asked(project, "targets")["activeTargets"]
        return {each["labels"]["instance"].partition(":")[0] for each in targets if each["health"] == "up"} == {
            *mesh.SERVICES,
            mesh.GATEWAY,
        }

    await until(watched)
    names = {rule["name"] for group in asked(project, "rules")["groups"] for rule in group["rules"]}
    (group,) = yaml.safe_load((TELEMETRY / "alerts.yaml").read_text())["groups"]
    assert names == {rule["alert"] for rule in group["rules"]}
    await until(lambda: re.search(r'"spans": [1-9]', project.compose("logs", "collector")) is not None)


async def test_every_panel_shows_something_of_a_node_that_works(project: Project, tmp_path: Path):
    state = project.state(tmp_path / "state")
    await demo_clients.provision(state, node="solmu", edge=project.edge)
    dashboard = json.loads((TELEMETRY / "dashboard.json").read_text())
    empty = {panel["title"]: target["expr"] for panel in dashboard["panels"] for target in panel["targets"]}
    try:
        async with asyncio.timeout(PATIENCE):
            while empty:
                await demo.play(NodeSettings(state=state.root))
                empty = {title: asks for title, asks in empty.items() if not shown(project, asks)}
    except TimeoutError:
        pytest.fail(f"nothing is shown by {sorted(empty)}")


def shown(project: Project, expression: str) -> bool:
    """Whether there is a number to show."""
    found = asked(project, "query", query=expression)["result"]
    return any(math.isfinite(float(one["value"][1])) for one in found)


def test_every_panel_and_every_alert_is_a_question_that_prometheus_understands(project: Project):
    dashboard = json.loads((TELEMETRY / "dashboard.json").read_text())
    (group,) = yaml.safe_load((TELEMETRY / "alerts.yaml").read_text())["groups"]
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    for expression in (*panels, *(alert["expr"] for alert in group["rules"])):
        asked(project, "query", query=expression)
    memory = asked(project, "query", query='process_resident_memory_bytes{job="solmu"}')["result"]
    assert len(memory) == len(mesh.SERVICES) + 1


def test_the_configuration_is_what_the_engines_take(project: Project):
    project.compose("exec", "-T", "prometheus", "promtool", "check", "config", "/etc/prometheus/prometheus.yaml")
    checked = ["run", "--rm", "--no-deps", "collector", "validate", "--config=/etc/collector.yaml"]
    project.compose(*checked)
