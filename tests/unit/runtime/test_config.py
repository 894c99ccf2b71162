"""Settings: every fault of the environment is told at once."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path

import pytest

from services.runtime import config
from services.runtime.config import Address, ConfigError, setting


@dataclass(frozen=True, kw_only=True)
class Settings:
    listen: Address = setting("T_LISTEN", config.address, doc="where")
    secret: bytes = setting("T_SECRET", config.key, doc="a key")
    share: float = setting("T_SHARE", config.ratio, default=0.5)
    mode: bool = setting("T_MODE", config.flag, default=False)


def test_values_are_read_and_cannot_change(tmp_path: Path):
    (tmp_path / "key").write_bytes(bytes(32))
    read = config.read(Settings, {"T_LISTEN": "[::1]:80", "T_SECRET": str(tmp_path / "key"), "T_MODE": "yes"})
    assert (read.listen, read.secret, read.share, read.mode) == (Address("::1", 80), bytes(32), 0.5, True)
    with pytest.raises(FrozenInstanceError):
        read.share = 1  # type: ignore[misc]


def test_all_faults_are_told_together(tmp_path: Path):
    (tmp_path / "short").write_bytes(b"secret")
    with pytest.raises(ConfigError) as told:
        config.read(Settings, {"T_SECRET": str(tmp_path / "short"), "T_SHARE": "2", "T_MODE": "maybe"})
    assert [fault.split(" ")[0].rstrip(":") for fault in told.value.faults] == [
        "T_LISTEN",
        "T_SECRET",
        "T_SHARE",
        "T_MODE",
    ]
    assert "secret" not in str(told.value).replace("T_SECRET", "")


def test_several_processes_of_a_service_are_one_target():
    several = config.instances("127.0.0.1:81,127.0.0.1:82")
    assert several.addresses == (Address("127.0.0.1", 81), Address("127.0.0.1", 82))
    assert str(several) == "ipv4:127.0.0.1:81,127.0.0.1:82"
    assert str(config.instances("messages.city.svc:80")) == "messages.city.svc:80"


@pytest.mark.parametrize("value", ["", "127.0.0.1:81,", "messages:80,exchange:80", "127.0.0.1:81,messages:80"])
def test_several_processes_without_addresses_are_refused(value: str):
    with pytest.raises(ValueError, match=r"host:port|address"):
        config.instances(value)


@pytest.mark.parametrize("value", ["localhost", ":80", "a:", "a:99999", "a:-1"])
def test_what_is_no_address_is_refused(value: str):
    with pytest.raises(ValueError, match="host:port"):
        config.address(value)
