"""Settings: read once from the environment into a frozen dataclass.

A settings class declares each field with `setting(...)`; `read` reports every
fault of the environment at once, so that an operator mends them in one go.
Secrets are files, named by a setting; their content never stands in the
environment.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from services.runtime import tls

S = TypeVar("S")


class ConfigError(Exception):
    """The environment does not make a configuration; lists every fault."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("the configuration has faults:\n" + "\n".join(f"  {fault}" for fault in faults))
        self.faults = faults


@dataclass(frozen=True)
class Address:
    """Where a server listens or is reached."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Instances:
    """Where the processes of one service are reached; as text, the target of a gRPC channel to any of them."""

    addresses: tuple[Address, ...]

    def __str__(self) -> str:
        if len(self.addresses) == 1:
            return str(self.addresses[0])
        return "ipv4:" + ",".join(map(str, self.addresses))


def setting(name: str, parse: Callable[[str], Any], *, default: Any = dataclasses.MISSING, doc: str = "") -> Any:
    """A field that is read from the environment variable `name` by `parse`.

    `parse` raises ValueError with a text that says what is wrong. Without a
    default the variable must be set. `doc` is the line of the reference page.
    """
    metadata = {"name": name, "parse": parse, "doc": doc}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def read(settings: type[S], environ: Mapping[str, str] = os.environ) -> S:
    """Builds a settings dataclass from the environment. Raises ConfigError with all faults."""
    values: dict[str, Any] = {}
    faults: list[str] = []
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        name = field.metadata["name"]
        text = environ.get(name, "")
        if not text:
            if field.default is dataclasses.MISSING:
                faults.append(f"{name} is not set: {field.metadata['doc']}")
            continue
        try:
            values[field.name] = field.metadata["parse"](text)
        except (ValueError, OSError) as error:
            faults.append(f"{name}: {error}")
    if faults:
        raise ConfigError(faults)
    return settings(**values)


def text(value: str) -> str:
    """Any text."""
    return value


def address(value: str) -> Address:
    """Reads host:port."""
    host, separator, port = value.rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{value!r} is not host:port")
    return Address(host.strip("[]"), int(port))


def instances(value: str) -> Instances:
    """Reads host:port, or those of several processes with commas; several have IPv4 addresses, not names."""
    addresses = tuple(address(one) for one in value.split(","))
    if len(addresses) > 1 and not all(_is_ipv4(one.host) for one in addresses):
        raise ValueError(f"{value!r} names several processes, and not all of them by IPv4 address")
    return Instances(addresses)


def _is_ipv4(host: str) -> bool:
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def file(value: str) -> Path:
    """A file that exists."""
    path = Path(value)
    if not path.is_file():
        raise ValueError(f"there is no file {value}")
    return path


def folder(value: str) -> Path:
    """A folder that exists."""
    path = Path(value)
    if not path.is_dir():
        raise ValueError(f"there is no folder {value}")
    return path


def key(value: str) -> bytes:
    """A file of exactly 32 random bytes."""
    content = file(value).read_bytes()
    if len(content) != 32:
        raise ValueError(f"{value} holds {len(content)} bytes; a key has 32")
    return content


def ratio(value: str) -> float:
    """A number from 0 to 1."""
    number = float(value)
    if not 0 <= number <= 1:
        raise ValueError(f"{value} is not between 0 and 1")
    return number


def natural(value: str) -> int:
    """A whole number from 1."""
    if not value.isdigit() or int(value) < 1:
        raise ValueError(f"{value!r} is not a whole number from 1")
    return int(value)


def flag(value: str) -> bool:
    """Reads yes or no."""
    if value not in ("yes", "no"):
        raise ValueError(f"{value!r} is neither yes nor no")
    return value == "yes"


def time_zone(value: str) -> ZoneInfo:
    """A time zone of the IANA database."""
    try:
        return ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError(f"{value!r} is not a time zone") from None


@dataclass(frozen=True, kw_only=True)
class ProcessSettings:
    """What every process of the node reads."""

    node: str = setting("SOLMU_NODE", text, default="solmu", doc="name of the node, its SPIFFE trust domain")
    certificate: Path = setting("SOLMU_TLS_CERTIFICATE", file, doc="certificate chain of this process, PEM")
    key: Path = setting("SOLMU_TLS_KEY", file, doc="private key of this process, PEM")
    authorities: Path = setting("SOLMU_TLS_AUTHORITIES", file, doc="certificates of the node's internal authority, PEM")
    otlp_endpoint: str = setting("SOLMU_OTLP_ENDPOINT", text, default="", doc="host:port that takes traces by OTLP")
    trace_ratio: float = setting("SOLMU_TRACE_RATIO", ratio, default=0.01, doc="share of calls traced, 0 to 1")
    log_level: str = setting("SOLMU_LOG_LEVEL", text, default="info", doc="debug, info, warning or error")

    @property
    def tls(self) -> tls.Files:
        """The files that prove this process to others, and others to it."""
        return tls.Files(certificate=self.certificate, key=self.key, authorities=self.authorities)


@dataclass(frozen=True, kw_only=True)
class DatabaseSettings(ProcessSettings):
    """What a process reads that has a service's database."""

    database: str = setting("SOLMU_DATABASE", text, doc="postgresql://role@host:port/database, log-in by certificate")


@dataclass(frozen=True, kw_only=True)
class ServiceSettings(DatabaseSettings):
    """What every service process reads."""

    listen: Address = setting("SOLMU_LISTEN", address, doc="host:port on which it serves gRPC")
    metrics_listen: Address = setting("SOLMU_METRICS_LISTEN", address, doc="host:port of /metrics for Prometheus")
    nats: str = setting("SOLMU_NATS", text, doc="tls://host:port of NATS")
    issuer: str = setting("SOLMU_ISSUER", text, doc="origin of the edge: issuer and audience of its tokens")
    stream_replicas: int = setting(
        "SOLMU_STREAM_REPLICAS",
        natural,
        default=1,
        doc="copies of each JetStream stream: 1 on one server, 3 in a cluster",
    )
    pool_size: int = setting(
        "SOLMU_DATABASE_POOL",
        natural,
        default=12,
        doc="connections to the database; relay, consumers and others hold one",
    )
