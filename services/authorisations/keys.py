"""Signing keys: which one signs, and what is published. Pure rules.

Every key is published from the moment it is there. A new one signs only after
every verifier has had time to hear of it, so that rotation is one file added
and, later, one removed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

ALGORITHM = "ES256"

PUBLISH_BEFORE_USE = timedelta(minutes=10)
"""How long a key is published before it signs: many times the interval at which verifiers read the key set."""

COORDINATE_BYTES = 32
"""A coordinate of P-256 (RFC 7518, section 6.2.1.2)."""

_TIME = re.compile(r"(\d{8}T\d{6}Z)(?:[^0-9A-Za-z].*)?")


@dataclass(frozen=True)
class Key:
    """A key as verifiers see it."""

    key_id: str
    """RFC 7638 thumbprint of `public`."""
    public: Mapping[str, str]
    """Members of the JWK: `kty`, `crv`, `x`, `y`."""
    publish_time: datetime
    """Since when it has been in the key set."""


K = TypeVar("K", bound=Key)


def public_key(x: int, y: int, *, publish_time: datetime) -> Key:
    """The key with these coordinates on P-256."""
    public = {"crv": "P-256", "kty": "EC", "x": _coordinate(x), "y": _coordinate(y)}
    canonical = json.dumps(public, sort_keys=True, separators=(",", ":"))  # RFC 7638, section 3.3
    return Key(_base64url(hashlib.sha256(canonical.encode("ascii")).digest()), public, publish_time)


def publish_time(file_stem: str, *, modified: datetime) -> datetime:
    """Since when a key has been published, by the name of its file without the suffix.

    A name that begins with a time, "20261121T063000Z" or
    "20261121T063000Z-second", says it; any other key counts from when its file
    was last modified. A time in the name survives copies and restarts, so
    several processes agree.
    """
    match = _TIME.fullmatch(file_stem)
    if not match:
        return modified
    try:
        return datetime.strptime(match[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return modified


def signing(keys: Collection[K], *, now: datetime) -> K:
    """The key that signs now.

    The newest of those published for PUBLISH_BEFORE_USE; where none has been,
    as on a node's first day, the one published for longest. `keys` is not
    empty.
    """
    ripe = [key for key in keys if key.publish_time + PUBLISH_BEFORE_USE <= now]
    if ripe:
        return max(ripe, key=_age)
    return min(keys, key=_age)


def key_set(keys: Collection[Key]) -> str:
    """The JWK Set (RFC 7517) with which all these keys' signatures verify; the newest first."""
    listed = [
        {"kid": key.key_id, "use": "sig", "alg": ALGORITHM, **key.public}
        for key in sorted(keys, key=_age, reverse=True)
    ]
    return json.dumps({"keys": listed}, separators=(",", ":"))


def _age(key: Key) -> tuple[datetime, str]:
    return key.publish_time, key.key_id


def _coordinate(number: int) -> str:
    return _base64url(number.to_bytes(COORDINATE_BYTES, "big"))


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode("ascii")
