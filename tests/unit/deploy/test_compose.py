"""What every container of the compose files is held to, whether a Docker engine is here or not."""

from typing import Any

import pytest
import yaml

from deploy.local.plan import SOURCE

FILES = {name: yaml.safe_load((SOURCE / f"deploy/compose{name}.yaml").read_text()) for name in ("", ".peers", ".pair")}
SERVICES: dict[str, dict[str, Any]] = FILES[""]["services"]
JOBS = {"prepare", "provision"}
ROOT = {"prepare", "renewal"}
CAPABILITIES = {"CHOWN", "DAC_OVERRIDE", "FOWNER"}
OF_OTHERS = {"prometheus", "grafana"}
"""Images that name an unprivileged user themselves."""


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service.get("cap_add", ())) == (CAPABILITIES if name in ROOT else set())
    if name not in ROOT | OF_OTHERS:
        assert service["user"].partition(":")[0] not in {"", "0", "root"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_is_limited_and_its_log_turned_over(name: str) -> None:
    service = SERVICES[name]
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_needs_no_shell(name: str) -> None:
    service = SERVICES[name]
    assert isinstance(service.get("command", []), list)
    assert service.get("healthcheck", {"test": ["CMD"]})["test"][0] == "CMD"


def test_secrets_are_files() -> None:
    for name, service in SERVICES.items():
        for variable, value in (service.get("environment") or {}).items():
            if variable.startswith("SOLMU_") and variable.endswith(
                ("_KEY", "_KEYS", "_PASSWORD", "_TOKEN", "_CREDENTIALS")
            ):
                assert value.startswith("/") or value == f"${{{variable}:-}}", (name, variable)


def test_what_starts_waits_until_what_it_needs_is_healthy_or_done() -> None:
    order = {name: service.get("depends_on", {}) for name, service in SERVICES.items()}
    for name, needs in order.items():
        for need, how in needs.items():
            if need in JOBS:
                assert how["condition"] == "service_completed_successfully", (name, need)
            else:
                assert how["condition"] == "service_healthy", (name, need)
                assert "healthcheck" in SERVICES[need], (name, need)
    for service in ("authorisations", "messages", "exchange"):
        assert {"postgres", "nats", "provision"} <= order[service].keys()
    assert {"gateway", "messages", "exchange"} <= order["envoy"].keys()


def test_what_serves_is_started_again_and_has_time_to_drain() -> None:
    for name, service in SERVICES.items():
        if name not in JOBS:
            assert service["restart"] == "unless-stopped", name
        if "healthcheck" in service:
            assert int(service["stop_grace_period"].rstrip("s")) >= 30, name


def test_nothing_but_the_edge_and_a_page_for_this_machine_is_published_unless_asked() -> None:
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"envoy", "grafana"}
    assert SERVICES["grafana"]["ports"][0].startswith("127.0.0.1:")
    assert set(FILES[".peers"]["services"]) == {"exchange"}
    assert "ports" not in FILES[".pair"]["services"]["exchange"]


def test_data_and_certificates_lie_on_volumes_that_stay() -> None:
    for name, target in (("postgres", "/var/lib/postgresql/data"), ("nats", "/data"), ("messages", "/attachments")):
        assert any(volume.split(":")[1] == target for volume in SERVICES[name]["volumes"]), name
    assert all(volume is None for volume in FILES[""]["volumes"].values())
