"""The brain of the edge, with files and keys and without Envoy."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from gateway import edge
from gateway.edge import Edge
from gateway.envoy import secrets, xds
from gateway.files import Folder
from gateway.settings import GatewaySettings
from services.runtime.config import Address, ConfigError, Instances
from services.runtime.errors import Unavailable
from tests.tokens import ISSUER, Signer
from tests.unit.gateway.pki import Authority

NO_CONTRACTS = FileDescriptorSet()


class House:
    """A gateway's files, its clock, and the issuer of its tokens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.internal, self.public = Authority("internal"), Authority("public")
        self.now = datetime.now(UTC)
        self.key_set: Callable[[], str] = Signer().jwks
        for name in ("gateway", "edge"):
            self.internal.service(name).write(folder, name)
        self.public.server("localhost").write(folder, "public")
        (folder / "internal.ca").write_text(self.internal.pem)
        (folder / "public.ca").write_text(self.public.pem)
        (folder / "crl.pem").write_text(self.public.crl())
        nowhere = Address("127.0.0.1", 1)
        services = Instances((nowhere,))
        self.settings = GatewaySettings(
            node="test",
            certificate=folder / "gateway.pem",
            key=folder / "gateway.key",
            authorities=folder / "internal.ca",
            listen=nowhere,
            issuer=ISSUER,
            folder=folder / "state",
            edge_listen=nowhere,
            edge_certificate=folder / "public.pem",
            edge_key=folder / "public.key",
            client_authorities=folder / "public.ca",
            client_crl=folder / "crl.pem",
            upstream_certificate=folder / "edge.pem",
            upstream_key=folder / "edge.key",
            messages=services,
            authorisations=services,
            exchange=services,
        )
        self.settings.folder.mkdir()

    def edge(self) -> Edge:
        return Edge(
            settings=self.settings, descriptors=NO_CONTRACTS, fetch_keys=self.fetch_keys, clock=lambda: self.now
        )

    async def fetch_keys(self) -> str:
        return self.key_set()

    def written(self, name: str) -> str:
        return (self.settings.folder / name).read_text()


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


async def test_everything_is_there_when_it_has_started(house: House) -> None:
    started = house.edge()
    await started.start()
    names = {str(path.relative_to(house.settings.folder)) for path in house.settings.folder.rglob("*.*")}
    assert names == {
        xds.BOOTSTRAP,
        xds.LISTENERS,
        xds.CLUSTERS,
        xds.route_file("edge"),
        xds.AUTHENTICATION,
        xds.REVOCATION,
        started.plan.descriptors,
        *(
            xds.secret_file(name)
            for name in (
                secrets.EDGE_CERTIFICATE,
                secrets.UPSTREAM_CERTIFICATE,
                secrets.CLIENT_AUTHORITIES,
                secrets.SERVICE_AUTHORITIES,
            )
        ),
    }
    assert json.loads(started.jwks)["keys"]


async def test_descriptors_of_an_earlier_release_are_removed(house: House) -> None:
    old = house.settings.folder / "descriptors-0.binpb"
    old.touch()
    await house.edge().start()
    assert not old.exists()


async def test_all_that_is_wrong_at_the_start_is_told_at_once(house: House) -> None:
    (house.folder / "crl.pem").write_text(house.public.crl(days=-1))
    (house.folder / "edge.key").write_text("")
    with pytest.raises(ConfigError) as caught:
        await house.edge().start()
    assert len(caught.value.faults) == 2
    assert not (house.settings.folder / xds.BOOTSTRAP).exists()


async def test_it_waits_for_the_token_keys(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "FIRST_KEYS_SECONDS", (0.0,))
    answers = ["", "garbage", Signer().jwks()]

    def answer() -> str:
        given = answers.pop(0)
        if not given:
            raise Unavailable("UNAVAILABLE", "not up yet")
        return given

    house.key_set = answer
    await house.edge().start()
    assert not answers


async def test_keys_stay_in_force_while_the_issuer_is_away(house: House) -> None:
    started = house.edge()
    await started.start()
    before = started.jwks

    def away() -> str:
        raise Unavailable("UNAVAILABLE", "away")

    house.key_set = away
    assert await started.fetch_keys()
    assert started.jwks == before


def follower(house: House, name: str) -> edge.Follower:
    source = next(source for source in edge.sources(house.settings) if source.name == name)
    made = edge.Follower(source=source, folder=Folder(house.settings.folder), clock=lambda: house.now)
    made.load()
    return made


def test_what_is_wrong_is_said_once_until_it_is_right(house: House, caplog: pytest.LogCaptureFixture) -> None:
    following = follower(house, secrets.CLIENT_AUTHORITIES)
    before = house.written(xds.secret_file(secrets.CLIENT_AUTHORITIES))
    (house.folder / "crl.pem").write_text("garbage")
    for _ in range(3):
        following.follow()
    assert house.written(xds.secret_file(secrets.CLIENT_AUTHORITIES)) == before

    (house.folder / "crl.pem").unlink()
    following.follow()
    (house.folder / "crl.pem").write_text(house.public.crl(house.public.client("a")))
    following.follow()
    assert house.written(xds.secret_file(secrets.CLIENT_AUTHORITIES)) != before
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 2


def test_what_will_end_soon_is_complained_about_once(house: House, caplog: pytest.LogCaptureFixture) -> None:
    following = follower(house, secrets.EDGE_CERTIFICATE)
    house.now += timedelta(days=1.5)
    following.follow()
    following.follow()
    [complaint] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert complaint.startswith("edge_certificate must be renewed: it ends at ")


def test_a_file_is_written_only_when_it_changes(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert folder.write("a/b.json", {"x": 1})
    before = (tmp_path / "a/b.json").stat().st_ino
    assert not folder.write("a/b.json", {"x": 1})
    assert (tmp_path / "a/b.json").stat().st_ino == before
    assert folder.write("a/b.json", {"x": 2})
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.json"]
    assert (tmp_path / "a/b.json").stat().st_mode & 0o777 == 0o600
