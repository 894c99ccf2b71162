"""A whole node as compose runs it, from images: the demo's story, renewed certificates, and what a restart leaves.

Needs a Docker engine with the compose plugin and the images, so it is run by
`make test-containers`. SOLMU_IMAGE, SOLMU_POSTGRES_IMAGE, SOLMU_NATS_IMAGE and
SOLMU_ENVOY_IMAGE name others than those of the compose file.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import os
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy import pki
from deploy.containers import shares
from deploy.local import demo, demo_clients, ports
from deploy.local.node import NodeSettings
from deploy.local.state import State
from gateway.client import Client, Profile
from tests.journeys import compose
from tests.journeys.compose import Project
from tests.mailroom import mailroom

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

ADDRESS = "resident@example.org"
PASSWORD = "of the mail server"
SERVING = {"authorisations", "envoy", "exchange", "gateway", "messages", "nats", "postgres", "renewal"}
UNPRIVILEGED = SERVING - {"renewal"}


@dataclass(frozen=True)
class MailServer:
    """A mail server that containers find on this machine, at the address that it has on Docker's own bridge."""

    host: str
    port: int
    files: Path
    """What the organisation lays there for `messages`: the password, and the mail server's authority."""
    context: ssl.SSLContext


@pytest.fixture(scope="module")
def mail_server(tmp_path_factory: pytest.TempPathFactory) -> MailServer:
    compose.needed()
    asked = ["docker", "network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Subnet}}"]
    host = str(next(ipaddress.ip_network(subprocess.check_output(asked, text=True).strip()).hosts()))
    folder = tmp_path_factory.mktemp("mail")
    authority = pki.Authority.create(folder / "authority", "Authority of the mail server")
    authority.issue(pki.Identity.edge(addresses=(host,)), folder / "server")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "server" / pki.CERTIFICATE, folder / "server" / pki.KEY)
    files = folder / "files"
    files.mkdir()
    (files / "smtp-password").write_text(PASSWORD)
    (files / "authorities.pem").write_bytes(authority.certificate_path.read_bytes())
    for path in (files, *files.iterdir()):
        os.chown(path, shares.USER, shares.USER)
    return MailServer(host, ports.free(), files, context)


@pytest.fixture(scope="module")
def project(mail_server: MailServer) -> Iterator[Project]:
    settings = {
        "SOLMU_MESSAGES_FILES": str(mail_server.files),
        "SOLMU_MAIL_FROM": "City <no-reply@city.example>",
        "SOLMU_SMTP": f"{mail_server.host}:{mail_server.port}",
        "SOLMU_SMTP_USER": "city",
        "SOLMU_SMTP_PASSWORD": "/etc/solmu/messages/smtp-password",
        "SOLMU_SMTP_AUTHORITIES": "/etc/solmu/messages/authorities.pem",
    }
    with compose.started("node", **settings) as started:
        yield started


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


def test_only_the_edge_can_be_reached_from_outside(project: Project):
    published = {service: project.inspect(service)["NetworkSettings"]["Ports"] for service in SERVING}
    assert {service for service, ports in published.items() if any((ports or {}).values())} == {"envoy"}


def test_each_service_that_has_a_way_out_has_one_of_its_own(project: Project):
    ways = {service: set(project.inspect(service)["NetworkSettings"]["Networks"]) for service in SERVING}
    inside = {f"{project.name}_{network}" for network in ("mesh", "data")}
    assert {service: networks - inside for service, networks in ways.items() if networks - inside} == {
        "authorisations": {f"{project.name}_providers"},
        "envoy": {f"{project.name}_outside"},
        "exchange": {f"{project.name}_peers"},
        "messages": {f"{project.name}_notifications"},
    }
    asked = ["docker", "network", "inspect", "--format", "{{.Internal}}", *sorted(inside)]
    assert subprocess.check_output(asked, text=True).split() == ["true", "true"]


async def test_messages_reaches_a_mail_server_outside_with_a_password_from_a_file(
    project: Project, mail_server: MailServer, tmp_path: Path
):
    state = project.state(tmp_path / "state")
    await demo_clients.provision(state, node="solmu", edge=project.edge)
    async with (
        mailroom(
            context=mail_server.context, login=PASSWORD.encode(), host=mail_server.host, port=mail_server.port
        ) as room,
        Client(Profile.load(state.clients / demo_clients.RESIDENT.client_id)) as resident,
    ):
        mailbox = (await resident.rest("POST", "/v1/mailboxes:open", {}))["name"]
        await resident.rest("PUT", f"/v1/{mailbox}/contacts/email", {"email": ADDRESS, "language": "en"})
        assert await room.next_to(ADDRESS)


async def test_the_port_for_other_nodes_is_open_where_the_second_file_says_so(project: Project):
    opened = Project(project.name, project.environment, (compose.NODE.with_name("compose.peers.yaml"),))
    opened.up("exchange")
    _, writer = await asyncio.open_connection("127.0.0.1", int(project.environment["SOLMU_PEER_PORT"]))
    writer.close()
    project.up("exchange")
    with pytest.raises(OSError):  # noqa: PT011 - refused, or reset
        await asyncio.open_connection("127.0.0.1", int(project.environment["SOLMU_PEER_PORT"]))


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
    project.up()
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
