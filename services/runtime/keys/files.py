"""A key in a file: 32 bytes as they are, or wrapped by the node's root.

A wrapped file begins with a line that says so, then the root's name on a line,
then what the root wrapped.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from services.runtime import config
from services.runtime.keys.root import Root, RootError
from services.runtime.sealing import KEY_BYTES

WRAPPED = b"solmu wrapped key"

_CONTEXT = "key file"


@dataclass(frozen=True)
class KeyFile:
    """What a file of a key holds."""

    content: bytes = field(repr=False)

    async def opened(self, root: Root | None) -> bytes:
        """The key. Raises RootError where it is wrapped, and not by this root."""
        if len(self.content) == KEY_BYTES:
            return self.content
        _, name, wrapped = self.content.split(b"\n", 2)
        if root is None or root.name != name.decode():
            raise RootError(f"a key file was wrapped by {name.decode()}: name that, or wrap the key anew")
        return await root.unwrap(wrapped, context=_CONTEXT)


def read(value: str) -> KeyFile:
    """Reads a setting that names the file. Raises ValueError."""
    content = config.file(value).read_bytes()
    if len(content) != KEY_BYTES and not content.startswith(WRAPPED + b"\n"):
        raise ValueError(f"{value} holds {len(content)} bytes; a key has {KEY_BYTES}, or was wrapped by a root")
    return KeyFile(content)


async def wrapped(key: bytes, root: Root) -> bytes:
    """What a wrapped file holds. Raises RootError."""
    return b"\n".join((WRAPPED, root.name.encode(), await root.wrap(key, context=_CONTEXT)))
