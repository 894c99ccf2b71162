"""One signature for many statements, where the key's token is slow.

While the token is busy with one batch the next gathers: a token that signs ten
times a second serves a thousand exchanges a second, and one that is idle signs
at once.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from services.exchange.evidence import signatures
from services.exchange.evidence.signatures import MAX_BATCH, PinnedKey, PrivateKey, Signature
from services.exchange.evidence.statements import Statement


@dataclass(frozen=True)
class _Waiting:
    statement: Statement
    done: asyncio.Future[Signature]


class BatchSigner:
    """Signs for one key."""

    def __init__(self, *, key: PrivateKey, pinned: PinnedKey) -> None:
        self._key = key
        self._pinned = pinned
        self._waiting: list[_Waiting] = []
        self._worker: asyncio.Task[None] | None = None

    async def sign(self, statement: Statement) -> Signature:
        """The statement's signature. Raises what the key raises, such as Unavailable, KEY_TOKEN_UNAVAILABLE."""
        waiting = _Waiting(statement, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await waiting.done

    async def _work(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            statements = [each.statement for each in batch]
            try:
                made = await asyncio.to_thread(self._sign, statements)
            except Exception as error:  # noqa: BLE001  # whoever waits is told
                for each in batch:
                    if not each.done.done():
                        each.done.set_exception(error)
                continue
            for each, signature in zip(batch, made, strict=True):
                if not each.done.done():
                    each.done.set_result(signature)

    def _sign(self, statements: list[Statement]) -> list[Signature]:
        now = int(time.time())
        if len(statements) == 1:
            return [signatures.sign(statements[0], key=self._key, pinned=self._pinned, now=now)]
        return signatures.sign_batch(statements, key=self._key, pinned=self._pinned, now=now)
