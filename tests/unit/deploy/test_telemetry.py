"""Alerts and dashboard ask for metrics that are told, and every alert has a word of advice."""

import json
import re
from importlib.metadata import version
from typing import Any

import prometheus_client
import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

import services.runtime.telemetry  # noqa: F401 - registers the metrics
from deploy.local.plan import SOURCE
from services.runtime import mesh, outbox

TELEMETRY = SOURCE / "deploy/telemetry"
COLUMNS = 24
"""Of Grafana's grid."""

OF_PROMETHEUS = {"up", "process_cpu_seconds_total", "process_resident_memory_bytes"}


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((TELEMETRY / "alerts.yaml").read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def expressions() -> list[str]:
    dashboard = json.loads((TELEMETRY / "dashboard.json").read_text())
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return [*(alert["expr"] for alert in alerts()), *shown]


@pytest.mark.parametrize("expression", expressions())
def test_a_metric_that_is_asked_for_is_told(expression: str) -> None:
    told = set(OF_PROMETHEUS)
    for family in prometheus_client.REGISTRY.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
        told |= {family.name + suffix for suffix in suffixes}
    asked = set(re.findall(r"\b(?:solmu|process)_[a-z_]+|\bup\b", expression))
    assert asked
    assert asked <= told


def lost(written: Any, read: Any, path: str = "dashboard") -> list[str]:
    """What of a document is not in what was read of it."""
    if isinstance(written, dict):
        gone = [f"{path}.{key}" for key in written if key not in read]
        return gone + [
            one for key in written.keys() & read.keys() for one in lost(written[key], read[key], f"{path}.{key}")
        ]
    if isinstance(written, list):
        return [
            one for place, pair in enumerate(zip(written, read, strict=True)) for one in lost(*pair, f"{path}[{place}]")
        ]
    return [] if written == read else [path]


def read_by_grafana(written: dict[str, Any]) -> dict[str, Any]:
    """A dashboard as Grafana's own schemas have it: what they do not know is not in it."""
    plugins.register_default_plugins()
    read: dict[str, Any] = json.loads(JSONEncoder().encode(Dashboard.from_json(written)))
    return read


def test_the_dashboard_is_one_to_the_grafana_that_compose_starts() -> None:
    dashboard = json.loads((TELEMETRY / "dashboard.json").read_text())
    assert lost(dashboard, read_by_grafana(dashboard)) == []
    compose = yaml.safe_load((SOURCE / "deploy/compose.yaml").read_text())["services"]
    of_schemas = version("grafana-foundation-sdk").partition("!")[2]
    assert compose["grafana"]["image"].rstrip("}").endswith(f":{of_schemas}")
    dashboard["panels"][0]["fieldConfig"]["defaults"]["unitt"] = "s"
    assert lost(dashboard, read_by_grafana(dashboard)) == ["dashboard.panels[0].fieldConfig.defaults.unitt"]


def test_no_two_panels_of_the_dashboard_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads((TELEMETRY / "dashboard.json").read_text())["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= COLUMNS
        taken |= cells


def test_every_alert_has_its_entry_in_the_runbook_and_every_entry_its_alert() -> None:
    entries = re.findall(r"^## (\w+)$", (SOURCE / "deploy/runbook.md").read_text(), re.MULTILINE)
    assert entries == [alert["alert"] for alert in alerts()]
    for alert in alerts():
        assert alert["annotations"]["runbook"] == f"deploy/runbook.md#{alert['alert'].lower()}"
        assert alert["labels"]["severity"] in {"page", "ticket"}


def test_a_backlog_can_reach_the_number_at_which_it_is_told() -> None:
    (rule,) = [alert["expr"] for alert in alerts() if alert["alert"] == "EventsWait"]
    assert int(rule.split()[-1]) <= outbox.BATCH


def test_every_process_is_asked_for_its_metrics() -> None:
    (job,) = yaml.safe_load((TELEMETRY / "prometheus.yaml").read_text())["scrape_configs"]
    (targets,) = job["static_configs"]
    compose = yaml.safe_load((SOURCE / "deploy/compose.yaml").read_text())["services"]
    assert set(targets["targets"]) == {f"{name}:9464" for name in (*mesh.SERVICES, mesh.GATEWAY)}
    assert compose["messages"]["environment"]["SOLMU_METRICS_LISTEN"].endswith(":9464")
