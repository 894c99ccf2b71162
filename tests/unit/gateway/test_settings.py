"""The gateway's settings, and what follows from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.routes import routes
from gateway.settings import GatewaySettings, plan
from services.runtime import config
from services.runtime.config import Address, ConfigError, Instances
from tests.unit.gateway import contract

PATHS = (
    "SOLMU_TLS_CERTIFICATE",
    "SOLMU_TLS_KEY",
    "SOLMU_TLS_AUTHORITIES",
    "SOLMU_EDGE_TLS_CERTIFICATE",
    "SOLMU_EDGE_TLS_KEY",
    "SOLMU_CLIENT_AUTHORITIES",
    "SOLMU_CLIENT_CRL",
    "SOLMU_EDGE_UPSTREAM_CERTIFICATE",
    "SOLMU_EDGE_UPSTREAM_KEY",
)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    for name in PATHS:
        (tmp_path / name).touch()
    return {
        **{name: str(tmp_path / name) for name in PATHS},
        "SOLMU_LISTEN": "127.0.0.1:7000",
        "SOLMU_ISSUER": "https://localhost:8443",
        "SOLMU_EDGE_STATE": str(tmp_path / "new" / "edge"),
        "SOLMU_EDGE_LISTEN": "0.0.0.0:8443",
        "SOLMU_MESSAGES": "127.0.0.1:7001",
        "SOLMU_AUTHORISATIONS": "127.0.0.1:7002",
        "SOLMU_EXCHANGE": "127.0.0.1:7003",
    }


def test_the_folder_is_made_for_its_owner_alone(environ: dict[str, str]) -> None:
    settings = config.read(GatewaySettings, environ)
    assert settings.folder.is_absolute()
    assert settings.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("listen", "reached_at", "expected"),
    [
        ("127.0.0.1:7000", "", Address("127.0.0.1", 7000)),
        ("0.0.0.0:7000", "", Address("127.0.0.1", 7000)),
        ("0.0.0.0:7000", "gateway:7000", Address("gateway", 7000)),
    ],
)
def test_the_edge_finds_the_adapters(environ: dict[str, str], listen: str, reached_at: str, expected: Address) -> None:
    settings = config.read(GatewaySettings, {**environ, "SOLMU_LISTEN": listen, "SOLMU_GATEWAY": reached_at})
    assert settings.upstreams["gateway"] == Instances((expected,))


@pytest.mark.parametrize(
    "issuer", ["localhost:8443", "http://localhost", "https://", "https://a/", "https://a/b", "https://a?b"]
)
def test_the_issuer_is_an_origin(environ: dict[str, str], issuer: str) -> None:
    with pytest.raises(ConfigError, match="SOLMU_ISSUER"):
        config.read(GatewaySettings, {**environ, "SOLMU_ISSUER": issuer})


def test_a_service_that_no_setting_names_is_a_fault(environ: dict[str, str]) -> None:
    settings = config.read(GatewaySettings, environ)
    with pytest.raises(ConfigError, match="a service parcels"):
        plan(settings, routes=routes(contract.DESCRIPTORS), descriptors="d")


def test_traces_go_where_the_settings_say(environ: dict[str, str]) -> None:
    assert plan(config.read(GatewaySettings, environ), routes=(), descriptors="d").traces is None
    settings = config.read(GatewaySettings, {**environ, "SOLMU_OTLP_ENDPOINT": "collector:4317"})
    assert plan(settings, routes=(), descriptors="d").traces == Address("collector", 4317)
