"""A root in a token behind PKCS #11: an AES key that never leaves it.

Named as RFC 7512 names it: `pkcs11:token=LABEL;object=LABEL?module-path=LIBRARY&pin-source=FILE`.
Keys are wrapped by AES-GCM (CKM_AES_GCM) with a nonce of ours, 12 bytes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from services.runtime import config
from services.runtime.keys.root import RootError
from services.runtime.sealing import KEY_BYTES, NONCE_BYTES

if TYPE_CHECKING:
    from services.runtime.keys.session import Session

SCHEME = "pkcs11"


@dataclass(frozen=True)
class TokenRoot:
    """The key `label` in the token of a session: whoever has the PIN may use it."""

    session: Session
    label: str

    @property
    def name(self) -> str:
        """Token and key."""
        return f"{SCHEME}:token={quote(self.session.label)};object={quote(self.label)}"

    async def wrap(self, key: bytes, *, context: str) -> bytes:
        """Nonce and ciphertext."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + await self._using(lambda root, gcm: root.encrypt(key, **gcm(nonce, context)))

    async def unwrap(self, wrapped: bytes, *, context: str) -> bytes:
        """The key."""
        nonce, sealed = wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:]
        return await self._using(lambda root, gcm: root.decrypt(sealed, **gcm(nonce, context)))

    async def make(self) -> None:
        """Makes the key in the token. Raises RootError, also where there is one."""
        await asyncio.to_thread(self._make)

    def _make(self) -> None:
        import pkcs11  # noqa: PLC0415  # an optional extra

        wanted = {pkcs11.Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY, pkcs11.Attribute.LABEL: self.label}
        with self._opened() as session:
            if any(True for _ in session.get_objects(wanted)):
                raise RootError(f"the token has a key {self.label} already; it is used as it is")
            session.generate_key(
                pkcs11.KeyType.AES,
                KEY_BYTES * 8,
                label=self.label,
                store=True,
                capabilities=pkcs11.MechanismFlag.ENCRYPT | pkcs11.MechanismFlag.DECRYPT,
                template={pkcs11.Attribute.SENSITIVE: True, pkcs11.Attribute.EXTRACTABLE: False},
            )

    async def _using(self, work: Callable[[Any, Callable[[bytes, str], dict[str, Any]]], Any]) -> bytes:
        return await asyncio.to_thread(self._used, work)

    def _used(self, work: Callable[[Any, Callable[[bytes, str], dict[str, Any]]], Any]) -> bytes:
        import pkcs11  # noqa: PLC0415  # an optional extra

        def gcm(nonce: bytes, context: str) -> dict[str, Any]:
            parameters = pkcs11.GCMParams(nonce, context.encode(), 128)
            return {"mechanism": pkcs11.Mechanism.AES_GCM, "mechanism_param": parameters}

        with self._opened() as session:
            key = session.get_key(object_class=pkcs11.ObjectClass.SECRET_KEY, label=self.label)
            return bytes(work(key, gcm))

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """For one use: the root is needed seldom, and leaves no log-in behind."""
        from services.runtime.keys.session import TokenAway  # noqa: PLC0415  # an optional extra

        try:
            with self.session.use() as session:
                yield session
        except TokenAway as away:
            raise RootError(f"{away}; `python -m services.runtime.keys make` makes a key that is missing") from None
        finally:
            self.session.close()


def root(value: str) -> TokenRoot:
    """Reads a PKCS #11 URI. Raises ValueError."""
    parts = urlsplit(value)
    path = dict(_pairs(parts.path, ";"))
    query = dict(_pairs(parts.query, "&"))
    asked = {"token": path, "object": path, "module-path": query, "pin-source": query}
    if missing := [name for name, where in asked.items() if name not in where]:
        raise ValueError(f"the PKCS #11 URI lacks {', '.join(missing)}")
    if unknown := sorted((path.keys() | query.keys()) - asked.keys()):
        raise ValueError(f"the PKCS #11 URI has {', '.join(unknown)}, which nothing here reads")
    module = config.file(query["module-path"])
    pin = config.file(query["pin-source"].removeprefix("file:"))
    return TokenRoot(_session(module, path["token"], pin), path["object"])


def _session(module: Path, label: str, pin: Path) -> Session:
    try:
        from services.runtime.keys.session import Session  # noqa: PLC0415  # an optional extra
    except ImportError:
        raise ValueError("a token takes the extra pkcs11: pip install 'solmu[pkcs11]'") from None
    return Session(module, label, pin)


def _pairs(text: str, separator: str) -> Iterator[tuple[str, str]]:
    for each in filter(None, text.split(separator)):
        name, _, content = each.partition("=")
        yield name, unquote(content)
