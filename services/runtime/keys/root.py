"""What wraps the keys of a service, and the simplest of it: a file."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Protocol

from services.runtime.config import ConfigError
from services.runtime.errors import Internal
from services.runtime.sealing import Sealer

SETTING = "SOLMU_ROOT_KEY"


class RootError(ConfigError):
    """The root cannot be used, or is another one; says what to do."""

    def __init__(self, problem: str) -> None:
        super().__init__([f"{SETTING}: {problem}"])


class Root(Protocol):
    """Wraps keys of 32 bytes. Both methods raise RootError."""

    @property
    def name(self) -> str:
        """Which root it is, without a secret: what is wrapped is kept under this name."""

    async def wrap(self, key: bytes, *, context: str) -> bytes:
        """A key, wrapped; it unwraps for the same context only."""

    async def unwrap(self, wrapped: bytes, *, context: str) -> bytes:
        """The key."""


@dataclass(frozen=True)
class FileRoot:
    """A file of 32 random bytes: whoever may read it may use it."""

    key: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """With a check value, so that another file is known as another root."""
        return f"file:{self._derived('name').hex()[:16]}"

    async def wrap(self, key: bytes, *, context: str) -> bytes:
        """By AES-256-GCM."""
        return self._sealer.seal(key, context=context)

    async def unwrap(self, wrapped: bytes, *, context: str) -> bytes:
        """The key."""
        try:
            return self._sealer.open(wrapped, context=context)
        except Internal:
            raise RootError("the file is not the one that wrapped the keys: put the right one in place") from None

    @property
    def _sealer(self) -> Sealer:
        return Sealer(self._derived("wrap"))

    def _derived(self, purpose: str) -> bytes:
        return hmac.digest(self.key, f"solmu root {purpose}".encode(), hashlib.sha256)
