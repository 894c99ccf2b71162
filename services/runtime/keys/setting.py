"""The setting that names the root.

/run/solmu/root.key                 a file of 32 random bytes
pkcs11:token=...;object=...?...     an AES key in a token (`token_root`)
unix:///run/kms/plugin.sock         a key behind a KMS plugin (`kms_root`)
"""

from __future__ import annotations

from typing import Any

from services.runtime import config
from services.runtime.keys import kms_root, token_root
from services.runtime.keys.root import SETTING, FileRoot, Root


def root(value: str) -> Root:
    """Reads it. Raises ValueError and OSError."""
    scheme = value.partition(":")[0]
    if scheme == token_root.SCHEME:
        return token_root.root(value)
    if scheme == kms_root.SCHEME:
        return kms_root.root(value)
    return FileRoot(config.key(value))


def root_setting() -> Any:
    """The field of a settings class."""
    return config.setting(SETTING, root, doc="what wraps the service's keys: a file, a PKCS #11 URI or a KMS plugin")
