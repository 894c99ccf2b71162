"""What the process reads from its environment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

from services.authorisations import provider_file
from services.runtime.config import Address, ServiceSettings, address, file, flag, folder, setting, text, time_zone
from services.runtime.keys.files import KeyFile
from services.runtime.keys.files import read as key_file
from services.runtime.keys.root import SETTING, Root
from services.runtime.keys.setting import root


@dataclass(frozen=True, kw_only=True)
class Settings(ServiceSettings):
    """Settings of the authorisations service."""

    party_key: KeyFile = setting(
        "SOLMU_PARTY_KEY", key_file, doc="file of the key that turns identity codes into names"
    )
    root_key: Root | None = setting(
        SETTING, root, default=None, doc="what wrapped SOLMU_PARTY_KEY, where it is wrapped"
    )
    test_mode: bool = setting(
        "SOLMU_TEST_MODE", flag, default=False, doc="yes lets in identity codes that registers set aside for testing"
    )
    token_keys: Path = setting("SOLMU_TOKEN_KEYS", folder, doc="folder of the keys that sign tokens, *.pem on P-256")
    identity_providers: Path | None = setting(
        "SOLMU_IDENTITY_PROVIDERS", file, default=None, doc="JSON file of the identity providers whose log-ins count"
    )
    exchange: Address | None = setting(
        "SOLMU_EXCHANGE",
        address,
        default=None,
        doc="host:port of exchange, which asks other nodes for their mandates",
    )
    browser_origin: str = setting(
        "SOLMU_BROWSER_ORIGIN",
        text,
        default="",
        doc="origin of the edge's port for browsers; without it nobody logs in",
    )
    clients: Path | None = setting("SOLMU_CLIENTS", file, default=None, doc="JSON file of clients to register at start")
    life: str = setting(
        "SOLMU_LIFE",
        str,
        default="",
        doc="names the life of the database: another after every restore, so that tokens of the life lost are refused",
    )
    zone: ZoneInfo = setting(
        "SOLMU_TIME_ZONE",
        time_zone,
        default=ZoneInfo("Europe/Helsinki"),
        doc="time zone of the days in which mandates begin and end",
    )

    @property
    def embedded(self) -> bool:
        """Whether this is part of an embedded node, which alone listens on loopback with all its parts."""
        return provider_file.loopback(self.listen.host)
