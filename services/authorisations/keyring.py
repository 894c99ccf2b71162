"""The node's signing keys, read from a folder and followed as it changes.

Each `*.pem` file holds one private key on P-256, PKCS #8 or SEC 1, without a
password. A change of the folder that cannot be read whole is left aside, and
what worked before stays in use.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from services.authorisations import keys
from services.runtime.config import ConfigError

logger = logging.getLogger(__name__)

LOOK_INTERVAL = 2.0
"""Seconds between two looks at the folder; little beside PUBLISH_BEFORE_USE, so that processes agree in time."""

TYP = "at+jwt"
"""RFC 9068, section 2.1: what keeps an access token from being taken for another kind of JWT."""

Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class SigningKey(keys.Key):
    """A key with its private half."""

    private: ec.EllipticCurvePrivateKey


class KeyRing:
    """The keys in `folder`. Raises ConfigError, with every file's fault, where they cannot be read at the start."""

    def __init__(self, *, folder: Path, clock: Callable[[], datetime]) -> None:
        self._folder = folder
        self._clock = clock
        self._stamp: Stamp = _stamp(folder)
        self._keys: Mapping[str, SigningKey] = _read(folder)
        self._key_set = keys.key_set(self._keys.values())

    async def key_set(self) -> str:
        """The JWK Set of all keys, as JSON."""
        return self._key_set

    def sign(self, claims: Mapping[str, Any], *, typ: str = TYP) -> str:
        """A JWS over these claims in compact form: an access token, or what else `typ` says it is."""
        key = keys.signing(self._keys.values(), now=self._clock())
        headers = {"typ": typ, "kid": key.key_id}
        return jwt.encode(dict(claims), key.private, algorithm=keys.ALGORITHM, headers=headers)

    async def follow(self) -> None:
        """Keeps up with the folder for as long as the process runs."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            self.look()

    def look(self) -> None:
        """Reads the folder again if it has changed."""
        try:
            stamp = _stamp(self._folder)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            fresh = _read(self._folder)
        except (OSError, ConfigError) as error:
            faults = error.faults if isinstance(error, ConfigError) else [type(error).__qualname__]
            logger.error("the signing keys cannot be read; the last ones stay in use", extra={"faults": faults})
            return
        self._keys = fresh
        self._key_set = keys.key_set(fresh.values())
        logger.info("signing keys read", extra={"key_ids": sorted(fresh)})


def _stamp(folder: Path) -> Stamp:
    stats = [(path.name, path.stat()) for path in sorted(folder.glob("*.pem"))]
    return tuple((name, stat.st_mtime_ns, stat.st_ino) for name, stat in stats)


def _read(folder: Path) -> dict[str, SigningKey]:
    found: dict[str, SigningKey] = {}
    faults: list[str] = []
    for path in sorted(folder.glob("*.pem")):
        try:
            key = _read_key(path)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            faults.append(f"{path.name} is not a private key on P-256 without a password ({type(error).__qualname__})")
            continue
        if key.key_id not in found or key.publish_time < found[key.key_id].publish_time:
            found[key.key_id] = key
    if not found and not faults:
        faults.append(
            f"there is no key in {folder}: make one with openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"
        )
    if faults:
        raise ConfigError(faults)
    return found


def _read_key(path: Path) -> SigningKey:
    private = load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
        raise TypeError("not a key on P-256")
    modified = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    numbers = private.public_key().public_numbers()
    key = keys.public_key(numbers.x, numbers.y, publish_time=keys.publish_time(path.stem, modified=modified))
    return SigningKey(key.key_id, key.public, key.publish_time, private)
