"""A whole node as compose runs it, from images: the demo's story, renewed certificates, and what a restart leaves.

Needs a Docker engine with the compose plugin and the images, so it is run by
`make test-containers`. SOLMU_IMAGE, SOLMU_POSTGRES_IMAGE, SOLMU_NATS_IMAGE and
SOLMU_ENVOY_IMAGE name others than those of the compose file.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.local import demo, demo_clients
from deploy.local.node import NodeSettings
from deploy.local.plan import SOURCE
from deploy.local.state import State
from gateway.client import Client, Profile

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

SERVING = {"authorisations", "envoy", "exchange", "gateway", "messages", "nats", "postgres", "renewal"}
UNPRIVILEGED = SERVING - {"renewal"}


@dataclass(frozen=True)
class Project:
    """A node in compose, under a name and on a port of its own."""

    name: str
    environment: dict[str, str]

    def compose(self, *arguments: str) -> str:
        """Runs docker compose; what it printed. Fails with what it said."""
        command = ["docker", "compose", "-p", self.name, "-f", str(SOURCE / "deploy/compose.yaml"), *arguments]
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def inspect(self, service: str) -> dict:
        """What the engine knows of the container of a service."""
        container = self.compose("ps", "--all", "--quiet", service).strip()
        found: list[dict] = json.loads(subprocess.check_output(["docker", "inspect", container]))
        return found[0]

    @property
    def edge(self) -> str:
        """The origin of the edge."""
        return f"https://localhost:{self.environment['SOLMU_EDGE_PORT']}"

    def state(self, folder: Path) -> State:
        """A copy of the node's state: authorities and clients."""
        shutil.rmtree(folder, ignore_errors=True)
        self.compose("cp", "prepare:/var/lib/solmu", str(folder))
        return State(folder)


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    if shutil.which("docker") is None or subprocess.run(["docker", "compose", "version"], check=False).returncode:
        pytest.skip("no docker with compose on this machine")
    environment = {"SOLMU_EDGE_ADDRESS": "127.0.0.1", "SOLMU_TEST_MODE": "yes"}
    with socket.socket() as systems, socket.socket() as browsers:
        for probe, name in ((systems, "SOLMU_EDGE_PORT"), (browsers, "SOLMU_BROWSER_PORT")):
            probe.bind(("127.0.0.1", 0))
            environment[name] = str(probe.getsockname()[1])
    started = Project(f"solmu-test-{os.getpid()}", environment)
    try:
        started.compose("up", "--detach", "--wait", "--wait-timeout", "300")
        yield started
    finally:
        started.compose("down", "--volumes", "--timeout", "30")


async def played(project: Project, state: State) -> None:
    """Registers the demo's clients and plays its story."""
    await demo_clients.provision(state, node="solmu", edge=project.edge)
    await demo.play(NodeSettings(state=state.root))


async def test_the_demo_holds_in_compose(project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    await played(project, project.state(tmp_path / "state"))
    told = capsys.readouterr().out
    assert "All of it held" in told
    assert "FAILED" not in told


def test_containers_have_no_more_than_they_need(project: Project):
    for service in SERVING:
        container = project.inspect(service)
        host = container["HostConfig"]
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"], service
        assert any("no-new-privileges" in option for option in host["SecurityOpt"]), service
        assert host["Memory"], service
        assert host["PidsLimit"], service
        if service in UNPRIVILEGED:
            assert container["Config"]["User"].partition(":")[0] not in {"", "0", "root"}, service
            assert not host["CapAdd"], service


def test_a_service_reads_no_key_but_its_own(project: Project):
    def files(service: str) -> set[str]:
        script = "import pathlib; print(*(p.relative_to('/run/solmu') for p in pathlib.Path('/run/solmu').rglob('*')))"
        return set(project.compose("exec", "-T", service, "python", "-c", script).split())

    tls = {"certificate.pem", "key.pem", "ca.pem"}
    assert files("exchange") == tls | {"root.key"}
    assert files("messages") == tls | {"root.key", "party.key"}
    assert not {name for name in files("gateway") if name.endswith("ca.key") or "token-keys" in name}


def test_only_the_edge_and_the_listener_for_nodes_can_be_reached_from_outside(project: Project):
    published = {service: project.inspect(service)["NetworkSettings"]["Ports"] for service in SERVING}
    assert {service for service, ports in published.items() if any((ports or {}).values())} == {"exchange", "envoy"}


async def test_renewed_certificates_come_into_force_without_a_restart(project: Project, tmp_path: Path):
    started = {service: project.inspect(service)["State"]["StartedAt"] for service in ("nats", "postgres")}
    before = shown_by_engines(project)
    for engine in ("nats", "postgres"):
        project.compose("exec", "-T", "renewal", "rm", f"/var/lib/solmu/pki/internal/{engine}/certificate.pem")
    project.compose("restart", "renewal")
    async with asyncio.timeout(60):
        while any(now == then for now, then in zip(shown_by_engines(project), before, strict=True)):
            await asyncio.sleep(1)
    assert {service: project.inspect(service)["State"]["StartedAt"] for service in started} == started


def shown_by_engines(project: Project) -> list[str]:
    """Digests of the certificates that PostgreSQL and NATS show, as a service meets them."""
    script = """
import hashlib, socket, ssl
from services.runtime import tls
from pathlib import Path
share = Path("/run/solmu")
context = tls.client_context(tls.Files(share / "certificate.pem", share / "key.pem", share / "ca.pem"))
for host, port in (("postgres", 5432), ("nats", 4222)):
    with socket.create_connection((host, port), timeout=5) as plain:
        if host == "postgres":
            plain.sendall(bytes((0, 0, 0, 8, 4, 210, 22, 47)))
            plain.recv(1)
        else:
            plain.recv(65536)
        with context.wrap_socket(plain, server_hostname=host) as wrapped:
            print(hashlib.sha256(wrapped.getpeercert(binary_form=True)).hexdigest())
"""
    return project.compose("exec", "-T", "exchange", "python", "-c", script).split()


async def test_what_was_sent_is_there_after_all_containers_are_new(project: Project, tmp_path: Path):
    state = project.state(tmp_path / "state")
    await played(project, state)
    before = await mailbox(state)
    assert before
    project.compose("down", "--timeout", "60")
    project.compose("up", "--detach", "--wait", "--wait-timeout", "300")
    assert await mailbox(state) == before


async def mailbox(state: State) -> list[str]:
    """What the resident sees: messages, and the digest of the newest one's decision."""
    async with Client(Profile.load(state.clients / demo_clients.RESIDENT.client_id)) as resident:
        name = (await resident.rest("GET", "/v1/mailboxes"))["mailboxes"][0]["name"]
        messages = (await resident.rest("GET", f"/v1/{name}/messages?pageSize=100"))["messages"]
        opened = await resident.rest("POST", f"/v1/{messages[0]['name']}:open", {})
        attachment = opened["attachments"][0]["attachment"]
        _, content = await resident.rest_content(f"/v1/{messages[0]['name']}/{attachment}/content")
        return [*(message["name"] for message in messages), hashlib.sha256(content).hexdigest()]
