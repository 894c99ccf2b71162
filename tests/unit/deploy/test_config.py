"""The reference page is that of the code, and the check tells every fault at once."""

import dataclasses
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from deploy import config, pki
from deploy.local import plan
from deploy.local.plan import SOURCE
from deploy.local.state import State
from services.authorisations import provider_file
from services.runtime import mesh


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of the exchange service, with nothing wrong."""
    state = State(tmp_path / "state")
    state.prepare()
    state.prepare_secrets()
    state.prepare_identities("solmu", ["exchange", "messages"])
    return {
        "SOLMU_TLS_CERTIFICATE": str(state.identity("exchange").certificate),
        "SOLMU_TLS_KEY": str(state.identity("exchange").key),
        "SOLMU_TLS_AUTHORITIES": str(state.identity("exchange").authorities),
        "SOLMU_LISTEN": "127.0.0.1:7443",
        "SOLMU_METRICS_LISTEN": "127.0.0.1:9464",
        "SOLMU_DATABASE": "postgresql://exchange@localhost/exchange",
        "SOLMU_NATS": "tls://localhost:4222",
        "SOLMU_ISSUER": "https://localhost:8443",
        "SOLMU_AUTHORISATIONS": "127.0.0.1:7444",
        "SOLMU_ROOT_KEY": str(state.root_key),
    }


def test_the_reference_page_is_that_of_the_code() -> None:
    page = (SOURCE / "deploy/settings.md").read_text()
    assert page == config.reference(), "run: python -m deploy.config reference > deploy/settings.md"


def test_every_setting_says_what_it_is() -> None:
    for process in config.PROCESSES:
        for name, field in config.fields(process).items():
            assert field.metadata["doc"], name


def test_a_good_environment_has_no_faults(environment: dict[str, str]) -> None:
    assert config.faults("exchange", environment) == []


def test_every_fault_is_told_at_once(environment: dict[str, str]) -> None:
    del environment["SOLMU_NATS"]
    environment |= {"SOLMU_LISTEN": "here", "SOLMU_TRACE_RATIO": "2", "SOLMU_OTLP_ENDPIONT": "collector:4317"}
    environment["SOLMU_TLS_KEY"] = "/nowhere/key.pem"
    found = config.faults("exchange", environment)
    assert [fault.split(":")[0].split(" ")[0] for fault in found] == [
        "SOLMU_LISTEN",
        "SOLMU_NATS",
        "SOLMU_TLS_KEY",
        "SOLMU_TRACE_RATIO",
        "SOLMU_OTLP_ENDPIONT",
    ]
    assert "SOLMU_OTLP_ENDPOINT is one" in found[-1]


def test_what_the_settings_name_is_looked_into_and_told_with_the_rest(
    environment: dict[str, str], tmp_path: Path
) -> None:
    keys = tmp_path / "token-keys"
    keys.mkdir()
    providers = tmp_path / "providers.json"
    providers.write_text("{}")
    environment |= {
        "SOLMU_PARTY_KEY": environment["SOLMU_ROOT_KEY"],
        "SOLMU_TOKEN_KEYS": str(keys),
        "SOLMU_IDENTITY_PROVIDERS": str(providers),
        "SOLMU_TIME_ZON": "x",
    }
    del environment["SOLMU_AUTHORISATIONS"]
    found = config.faults("authorisations", environment)
    for told in ("SOLMU_TIME_ZON is no setting", "is not that of", "there is no key in", "identity_providers"):
        assert any(told in fault for fault in found), (told, found)
    environment |= {"SOLMU_PKCS11_MODULE": environment["SOLMU_ROOT_KEY"], "SOLMU_AUTHORISATIONS": "127.0.0.1:1"}
    assert any("takes SOLMU_PKCS11_LABEL" in fault for fault in config.faults("exchange", environment))


def test_an_embedded_node_is_told_of_what_its_processes_would_be() -> None:
    found = config.faults("node", {"SOLMU_EDGE_PORT": "x", "SOLMU_SMTP": "nowhere", "SOLMU_SMTP_SECURITY": "some"})
    assert [fault.split(":")[0] for fault in found] == ["SOLMU_EDGE_PORT", "SOLMU_SMTP", "SOLMU_SMTP_SECURITY"]


def test_solmu_checks_the_settings() -> None:
    command = [str(Path(sys.executable).with_name("solmu")), "config", "check"]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("SOLMU_")}
    good = subprocess.run(command, env=plain, capture_output=True, text=True, check=False)
    assert (good.returncode, good.stderr) == (0, "")
    wrong = plain | {"SOLMU_EDGE_PORT": "x", "SOLMU_EDGE_PROT": "1"}
    done = subprocess.run(command, env=wrong, capture_output=True, text=True, check=False)
    assert done.returncode == config.EX_CONFIG
    assert done.stderr.count("node: SOLMU_EDGE_P") == 2
    several = subprocess.run([*command, "messages", "exchange"], env=plain, capture_output=True, text=True, check=False)
    assert {line.partition(":")[0] for line in several.stderr.splitlines()} == {"messages", "exchange"}


@pytest.mark.parametrize(
    ("defect", "told"),
    [
        ("expired", "expired on"),
        ("of_tomorrow", "is not valid yet"),
        ("of_another_node", "check SOLMU_NODE"),
        ("key_of_another", "is not the key of"),
        ("of_another_authority", "was not issued by"),
    ],
)
def test_a_bad_certificate_is_told(environment: dict[str, str], tmp_path: Path, defect: str, told: str) -> None:
    internal = pki.Authority.load(tmp_path / "state/pki/internal")
    folder = tmp_path / "bad"
    identity = pki.Identity.service("solmu", "exchange")
    if defect == "expired":
        internal.issue(identity, folder, lifetime=-timedelta(days=1))
    elif defect == "of_tomorrow":
        later = pki.Authority.load(internal.folder, clock=lambda: datetime.now(UTC) + timedelta(days=1))
        later.issue(identity, folder)
    elif defect == "of_another_node":
        internal.issue(pki.Identity.service("elsewhere", "exchange"), folder)
    elif defect == "of_another_authority":
        pki.Authority.create(tmp_path / "other", "other").issue(identity, folder)
    if defect == "key_of_another":
        environment["SOLMU_TLS_KEY"] = str(State(tmp_path / "state").identity("messages").key)
    else:
        environment["SOLMU_TLS_CERTIFICATE"] = str(folder / pki.CERTIFICATE)
        environment["SOLMU_TLS_KEY"] = str(folder / pki.KEY)
    assert any(told in fault for fault in config.faults("exchange", environment))


def test_the_compose_file_sets_what_must_be_set_and_nothing_unknown() -> None:
    compose = yaml.safe_load((SOURCE / "deploy/compose.yaml").read_text())
    for process in (*mesh.SERVICES, mesh.GATEWAY):
        given = set(compose["services"][process]["environment"])
        required = {name for name, field in config.fields(process).items() if field.default is dataclasses.MISSING}
        assert required <= given, process
        assert given <= config.fields(process).keys() | {"SOLMU_ROOT_KEY"}, process


def test_the_compose_file_listens_where_invented_people_are_refused() -> None:
    environment = yaml.safe_load((SOURCE / "deploy/compose.yaml").read_text())["services"]["authorisations"][
        "environment"
    ]
    assert not provider_file.loopback(environment["SOLMU_LISTEN"].rpartition(":")[0])


def test_a_misspelt_setting_of_the_compose_file_is_told() -> None:
    environment = {"SOLMU_NOD": "solmu", "SOLMU_TEST_MODE": "perhaps"}
    found = config.compose_faults({"services": {"messages": {"environment": environment}, "nats": {}}})
    assert any("SOLMU_NOD is no setting; SOLMU_NODE is one" in fault for fault in found["messages"])
    assert any("'perhaps' is neither yes nor no" in fault for fault in found["messages"])
    assert any(fault.startswith("SOLMU_DATABASE is not set") for fault in found["messages"])


def test_the_command_answers_with_the_status_of_a_wrong_configuration() -> None:
    command = [sys.executable, "-m", "deploy.config", "compose"]
    document = json.dumps({"services": {"messages": {"environment": {}}}})
    done = subprocess.run(command, input=document, capture_output=True, text=True, cwd=SOURCE, check=False)
    assert done.returncode == config.EX_CONFIG
    assert done.stderr.startswith("messages: SOLMU_")
    assert plan.POSTGRES not in done.stderr.splitlines()[0]
