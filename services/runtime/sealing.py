"""Content at rest under a hierarchy of keys (AES-256-GCM).

A service key wraps data keys; a data key seals what belongs to one owner, such
as a mailbox. Destroying a wrapped data key erases all that it sealed. Each
sealed value is bound to what it is (its context), so that a value moved to
another row or column does not open. Where service keys come from is told in
`services/runtime/keys`.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Collection, Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from services.runtime.errors import Internal

KEY_BYTES = 32
NONCE_BYTES = 12
"""Random; under one data key 2^32 values may be sealed before a repeat is likelier than 2^-32 (NIST SP 800-38D)."""

TAG_BYTES = 16

UNMARKED = 0
"""The generation of service key whose data keys do not say which one wrapped them."""

FIRST = 1

MARK_BYTES = 4
"""Of the generation, in front of a wrapped data key."""

_UNMARKED_LENGTH = NONCE_BYTES + KEY_BYTES + TAG_BYTES


class Sealer:
    """Seals and opens under one data key."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, content: bytes, *, context: str) -> bytes:
        """Nonce and ciphertext."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, content, context.encode())

    def open(self, sealed: bytes, *, context: str) -> bytes:
        """The content. Raises Internal where it was sealed by another key, for another context, or changed since."""
        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context.encode())
        except InvalidTag:
            raise Internal("INTERNAL", "a sealed value does not open") from None


class Vault:
    """Makes and opens data keys under the service keys, 32 bytes each, by generation.

    New data keys are wrapped by the generation `current`; all generations open.
    """

    def __init__(self, keys: Mapping[int, bytes], *, current: int) -> None:
        self._wrapping: dict[int, Sealer] = {}
        self.take(keys)
        self.use(current)
        self._digest = HMAC(hmac.digest(keys[min(keys)], b"solmu content digest", "sha256"), SHA256())

    @property
    def generations(self) -> Collection[int]:
        """Those that it has."""
        return self._wrapping.keys()

    def take(self, keys: Mapping[int, bytes]) -> None:
        """More generations."""
        self._wrapping |= {generation: Sealer(key) for generation, key in keys.items()}

    def use(self, generation: int) -> None:
        """Wraps data keys by this generation from now on, which it has."""
        self._mark = b"" if generation == UNMARKED else generation.to_bytes(MARK_BYTES, "big")
        self._current = self._wrapping[generation]

    def digest(self, content: bytes) -> bytes:
        """A keyed digest (HMAC-SHA256): equal for equal content, and telling nothing of it without the first key."""
        digest = self._digest.copy()
        digest.update(content)
        return digest.finalize()

    def new_key(self, *, owner: str) -> bytes:
        """A new data key, wrapped; kept beside what it seals."""
        return self._mark + self._current.seal(AESGCM.generate_key(KEY_BYTES * 8), context=owner)

    def sealer(self, wrapped: bytes, *, owner: str) -> Sealer:
        """What seals and opens with a wrapped data key. Raises Internal."""
        generation, sealed = UNMARKED, wrapped
        if len(wrapped) > _UNMARKED_LENGTH:
            generation, sealed = int.from_bytes(wrapped[:MARK_BYTES], "big"), wrapped[MARK_BYTES:]
        key = self._wrapping.get(generation)
        if key is None:
            raise Internal("INTERNAL", "a data key is of a generation that this process does not have")
        return Sealer(key.open(sealed, context=owner))
