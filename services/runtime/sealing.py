"""Content at rest under a hierarchy of keys (AES-256-GCM).

The root key, a secret file, wraps data keys; a data key seals what belongs to
one owner, such as a mailbox. Destroying a wrapped data key erases all that it
sealed. Each sealed value is bound to what it is (its context), so that a value
moved to another row or column does not open.
"""

from __future__ import annotations

import hashlib
import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.runtime.errors import Internal

KEY_BYTES = 32
NONCE_BYTES = 12
"""Random; under one data key 2^32 values may be sealed before a repeat is likelier than 2^-32 (NIST SP 800-38D)."""


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
    """Makes and opens data keys under the root key, 32 bytes."""

    def __init__(self, root_key: bytes) -> None:
        self._root = Sealer(root_key)
        self._digest_key = hmac.digest(root_key, b"solmu content digest", hashlib.sha256)

    def digest(self, content: bytes) -> bytes:
        """A keyed digest (HMAC-SHA256): equal for equal content, and telling nothing of it without the root key."""
        return hmac.digest(self._digest_key, content, hashlib.sha256)

    def new_key(self, *, owner: str) -> bytes:
        """A new data key, wrapped; kept beside what it seals."""
        return self._root.seal(AESGCM.generate_key(KEY_BYTES * 8), context=owner)

    def sealer(self, wrapped: bytes, *, owner: str) -> Sealer:
        """What seals and opens with a wrapped data key."""
        return Sealer(self._root.open(wrapped, context=owner))
