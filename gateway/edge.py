"""The brain of the edge: keeps the files that Envoy reads as they should be.

It renders what depends on the contracts once, when it starts. After that it
looks at certificates, keys and revocation lists every second, asks for the
keys that verify tokens every few seconds, and writes what changed and holds
water. Envoy picks each file up within milliseconds, without losing a
connection. Where the new is wrong, or cannot be had, the old stays in force.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from gateway import envoy, material
from gateway.envoy import filters, secrets, xds
from gateway.envoy.plan import Json, Plan
from gateway.files import Folder
from gateway.material import MaterialError
from gateway.routes import routes
from gateway.settings import GatewaySettings, plan
from services.runtime.config import ConfigError
from services.runtime.errors import Fault

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between two looks at the files of certificates: revocation must be in force within 3 seconds."""

KEYS_SECONDS = 5.0
"""Between two fetches of the token keys. A new key is published long before it signs."""

FIRST_KEYS_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Pauses while the key set cannot be had at the start; the last one repeats."""

EXPIRY_WARNING = timedelta(days=1)
"""How long before its end a certificate or a revocation list is complained about."""

FetchKeys = Callable[[], Awaitable[str]]
"""Returns the key set of the node's tokens (RFC 7517); raises Fault where it cannot be had."""

Clock = Callable[[], datetime]


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Source:
    """A file of Envoy's that is made of files of the node."""

    name: str
    file: str
    """Its name in the folder that Envoy reads."""
    paths: tuple[Path, ...]
    make: Callable[[list[str], datetime], tuple[Json, datetime]]
    """Checks the texts of the files; returns Envoy's file and until when it is good. Raises MaterialError."""


@lru_cache(maxsize=1)
def _serials(crl: str) -> tuple[str, ...]:
    return tuple(map(filters.hexadecimal, material.revoked_serials(crl)))


def sources(settings: GatewaySettings) -> tuple[Source, ...]:
    """The secrets of the edge."""

    def certificate(name: str, *paths: Path) -> Source:
        def make(texts: list[str], now: datetime) -> tuple[Json, datetime]:
            chain, key = texts
            until = material.check_certificate(chain, key, now=now)
            return secrets.certificate(name, chain=chain, key=key), until

        return Source(name, xds.secret_file(name), paths, make)

    def client_authorities(texts: list[str], now: datetime) -> tuple[Json, datetime]:
        trusted, crl = texts
        until = material.check_revocations(trusted, crl, now=now)
        return secrets.authorities(secrets.CLIENT_AUTHORITIES, trusted=trusted, crl=crl), until

    def revoked_certificates(texts: list[str], now: datetime) -> tuple[Json, datetime]:
        trusted, crl = texts
        until = material.check_revocations(trusted, crl, now=now)
        return filters.revocation(material.revoked_serials(crl)), until

    def service_authorities(texts: list[str], now: datetime) -> tuple[Json, datetime]:
        [trusted] = texts
        until = material.check_authorities(trusted, now=now)
        return secrets.authorities(secrets.SERVICE_AUTHORITIES, trusted=trusted), until

    of_clients = (settings.client_authorities, settings.client_crl)
    return (
        certificate(secrets.EDGE_CERTIFICATE, settings.edge_certificate, settings.edge_key),
        certificate(secrets.UPSTREAM_CERTIFICATE, settings.upstream_certificate, settings.upstream_key),
        Source(secrets.CLIENT_AUTHORITIES, xds.secret_file(secrets.CLIENT_AUTHORITIES), of_clients, client_authorities),
        Source("revoked_certificates", xds.REVOCATION, of_clients, revoked_certificates),
        Source(
            secrets.SERVICE_AUTHORITIES,
            xds.secret_file(secrets.SERVICE_AUTHORITIES),
            (settings.authorities,),
            service_authorities,
        ),
    )


class Follower:
    """Follows one source: writes its secret whenever the files have changed for the better."""

    def __init__(self, *, source: Source, folder: Folder, clock: Clock) -> None:
        self.source = source
        self._folder = folder
        self._clock = clock
        self._stamp: object = None
        self._complaint = ""
        self._good_until: datetime | None = None
        self.texts: list[str] = []
        """What the files held when they were taken last."""

    def load(self) -> None:
        """Writes the secret. Raises MaterialError or OSError, and then leaves what there was."""
        stamp = self._look()
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in self.source.paths]
        content, self._good_until = self.source.make(texts, self._clock())
        if self._folder.write(self.source.file, content):
            logger.info("file changed", extra={"source": self.source.name, "good_until": self._good_until})
        self._stamp, self._complaint, self.texts = stamp, "", texts

    def follow(self) -> None:
        """Looks again. What is wrong is said once, and tried again until it is right."""
        try:
            if self._look() != self._stamp:
                self.load()
        except (MaterialError, OSError) as error:
            self._complain(f"new {self.source.name} not taken: {error}")
        else:
            if self._good_until is not None and self._good_until - self._clock() < EXPIRY_WARNING:
                self._complain(f"{self.source.name} must be renewed: it ends at {self._good_until:%Y-%m-%d %H:%M} UTC")

    def _look(self) -> object:
        stats = [path.stat() for path in self.source.paths]
        return [(stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in stats]

    def _complain(self, text: str) -> None:
        if text != self._complaint:
            logger.error(text, extra={"files": [str(path) for path in self.source.paths]})
        self._complaint = text


class Edge:
    """The files of one edge. `start` first; then `follow_files` and `follow_keys` side by side."""

    def __init__(
        self,
        *,
        settings: GatewaySettings,
        descriptors: FileDescriptorSet,
        fetch_keys: FetchKeys,
        clock: Clock = _now,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._look_seconds = look_seconds
        self._folder = Folder(settings.folder)
        self._descriptors = descriptors.SerializeToString(deterministic=True)
        self._fetch_keys = fetch_keys
        self._followers = [Follower(source=source, folder=self._folder, clock=clock) for source in sources(settings)]
        self._keys_complaint = ""
        self.plan: Plan = plan(settings, routes=routes(descriptors), descriptors=self._descriptor_file)
        self.jwks = ""
        """The key set in force."""

    @property
    def revoked_certificates(self) -> tuple[str, ...]:
        """Serial numbers of the client certificates that the edge refuses, in hexadecimal."""
        [follower] = (each for each in self._followers if each.source.file == xds.REVOCATION)
        return _serials(follower.texts[1])

    @property
    def _descriptor_file(self) -> str:
        # Named by its content, so that a listener and its descriptors change together.
        return f"descriptors-{hashlib.sha256(self._descriptors).hexdigest()[:16]}.binpb"

    async def start(self) -> None:
        """Waits for the token keys and writes all files, the bootstrap last.

        Raises ConfigError where a certificate or revocation list does not hold
        water: without them there is no edge.
        """
        self._load_secrets()
        await self._first_keys()
        self._folder.write(self.plan.descriptors, self._descriptors)
        for name, content in envoy.render(self.plan).items():
            self._folder.write(name, content)
        self._folder.remove_others("descriptors-*.binpb", keep=self.plan.descriptors)
        logger.info("edge rendered", extra={"routes": len(self.plan.routes), "folder": str(self.plan.folder)})

    async def follow_files(self) -> None:
        """Follows certificates, keys and revocation lists until cancelled."""
        while True:
            for follower in self._followers:
                follower.follow()
            await asyncio.sleep(self._look_seconds)

    async def follow_keys(self) -> None:
        """Follows the token keys until cancelled."""
        while True:
            await asyncio.sleep(KEYS_SECONDS)
            await self.fetch_keys()

    async def fetch_keys(self) -> bool:
        """Fetches the token keys and puts changed ones in force. Returns whether there are any."""
        try:
            jwks = material.check_keys(await self._fetch_keys())
        except (Fault, MaterialError, OSError) as error:
            if str(error) != self._keys_complaint:
                logger.warning("token keys not fetched", extra={"error": str(error)})
            self._keys_complaint = str(error)
            return bool(self.jwks)
        self._keys_complaint = ""
        if self._folder.write(xds.AUTHENTICATION, filters.authentication(self.plan, jwks)):
            logger.info("token keys changed")
        self.jwks = jwks
        return True

    def _load_secrets(self) -> None:
        faults = []
        for follower in self._followers:
            try:
                follower.load()
            except (MaterialError, OSError) as error:
                faults.append(str(error))
        if faults:
            # Two files are made of the revocation list; its fault is one.
            raise ConfigError(list(dict.fromkeys(faults)))

    async def _first_keys(self) -> None:
        attempt = 0
        while not await self.fetch_keys():
            await asyncio.sleep(FIRST_KEYS_SECONDS[min(attempt, len(FIRST_KEYS_SECONDS) - 1)])
            attempt += 1
