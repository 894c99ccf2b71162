"""When a certificate ends is a metric, so that somebody is told before it does."""

import logging
from collections.abc import Iterator
from pathlib import Path

import prometheus_client
import pytest

from deploy import pki
from services.runtime import telemetry
from services.runtime.config import ProcessSettings


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def settings(tmp_path: Path) -> ProcessSettings:
    authority = pki.Authority.create(tmp_path / "authority", "test")
    authority.issue(pki.Identity.service("solmu", "exchange"), tmp_path)
    return ProcessSettings(
        certificate=tmp_path / pki.CERTIFICATE, key=tmp_path / pki.KEY, authorities=authority.certificate_path
    )


def told() -> float | None:
    return prometheus_client.REGISTRY.get_sample_value("solmu_certificate_expiry_seconds")


def test_the_metric_follows_the_file(settings: ProcessSettings, tmp_path: Path) -> None:
    telemetry.start("exchange", settings, metrics=None)
    authority = pki.Authority.load(tmp_path / "authority")
    renewed = authority.issue(pki.Identity.service("solmu", "exchange"), tmp_path)
    assert told() == renewed.not_valid_after_utc.timestamp()


def test_a_certificate_that_cannot_be_read_counts_as_expired(settings: ProcessSettings) -> None:
    telemetry.start("exchange", settings, metrics=None)
    settings.certificate.write_text("no certificate")
    assert told() == 0
