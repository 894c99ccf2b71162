"""Bodies of envelopes, and for whom they are: sealed while they come, kept in frames, read from any place."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from datetime import datetime
from uuid import UUID

from services.exchange import envelope_store
from services.runtime.database import Connection, Database, Row
from services.runtime.errors import NotFound
from services.runtime.sealing import Vault

FRAME = 256 * 1024
"""Bytes that are sealed, kept and read at once."""

IN_MEMORY = 1024 * 1024
"""Of a body that is coming; the rest waits in a file, sealed."""

_BEHALF = "on behalf of"
"""The context in which it is sealed who stands behind an envelope."""

_SEALED = FRAME + 28
"""A frame with its nonce and tag."""


class IncomingBody:
    """A body that is coming. Nothing of it is ever in the clear but the frame at hand."""

    def __init__(self, vault: Vault, envelope_id: UUID) -> None:
        self.envelope_id = envelope_id
        self.data_key = vault.new_key(owner=_owner(envelope_id))
        self.on_behalf_of = b""
        """For whom it is, as it travels beside the statement; empty: for the member itself."""
        self.size = 0
        self._sealer = vault.sealer(self.data_key, owner=_owner(envelope_id))
        self._digest = hashlib.sha256()
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115  # closed by close()
        self._rest = bytearray()
        self._frames = 0

    @property
    def sha256(self) -> bytes:
        """The digest of what has come."""
        return self._digest.digest()

    async def write(self, data: bytes) -> None:
        """Takes the next bytes."""
        self._digest.update(data)
        self.size += len(data)
        self._rest += data
        while len(self._rest) >= FRAME:
            await self._seal(bytes(self._rest[:FRAME]))
            del self._rest[:FRAME]

    async def keep(self, transaction: Connection, *, until: datetime) -> None:
        """Keeps the whole of it, where it was not kept already."""
        if self._rest:
            await self._seal(bytes(self._rest))
            self._rest.clear()
        if not await envelope_store.insert_content(
            transaction,
            self.envelope_id,
            data_key=self.data_key,
            on_behalf_of=self._sealer.seal(self.on_behalf_of, context=_BEHALF) if self.on_behalf_of else None,
            keep_until=until,
        ):
            return
        self._file.seek(0)
        for frame in range(self._frames):
            sealed = await asyncio.to_thread(self._file.read, _SEALED)
            await envelope_store.insert_frame(transaction, self.envelope_id, frame, sealed)

    def close(self) -> None:
        """Forgets what is not kept."""
        self._file.close()

    async def _seal(self, frame: bytes) -> None:
        sealed = self._sealer.seal(frame, context=str(self._frames))
        self._frames += 1
        await asyncio.to_thread(self._file.write, sealed)


async def read(database: Database, vault: Vault, envelope_id: UUID, *, offset: int = 0) -> AsyncIterator[bytes]:
    """A body from `offset` on, a frame at a time. Raises NotFound, CONTENT_NOT_KEPT."""
    data_key = await envelope_store.data_key(database, envelope_id)
    if data_key is None:
        raise NotFound("CONTENT_NOT_KEPT", "the content is not kept, or no longer")
    sealer = vault.sealer(data_key, owner=_owner(envelope_id))
    first, skip = divmod(offset, FRAME)
    async for frame, sealed in envelope_store.frames(database, envelope_id, first=first):
        content = sealer.open(sealed, context=str(frame))
        yield content[skip:] if frame == first else content


def on_behalf_of(vault: Vault, row: Row) -> bytes:
    """For whom the envelope of a row with its content's columns is; empty: for the member itself."""
    if row["on_behalf_of"] is None:
        return b""
    return vault.sealer(row["data_key"], owner=_owner(row["envelope_id"])).open(row["on_behalf_of"], context=_BEHALF)


def _owner(envelope_id: UUID) -> str:
    return f"envelopes/{envelope_id}"
