"""The service keys of a database: opened at the start, made where there is none, moved to another root.

Each generation may be wrapped by several roots at once, so that a node changes
its root process by process: wrap with the new one, restart the processes with
it one after another, then drop the old one.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Sequence

from services.runtime.config import ConfigError
from services.runtime.database import PASSING, Connection, Database, Row
from services.runtime.keys import store
from services.runtime.keys.root import FileRoot, Root, RootError
from services.runtime.sealing import FIRST, KEY_BYTES, UNMARKED, Vault

logger = logging.getLogger(__name__)

READING: tuple[type[Exception], ...] = (ConfigError, *PASSING)
"""What a look for new keys rides out."""

LOOK_INTERVAL = 60.0
"""Seconds between two looks for a new generation."""

TAKES_EFFECT_AFTER = 600.0
"""Seconds from the making of a generation until it wraps: by then every process has it."""


async def open_vault(database: Database, root: Root) -> Vault:
    """The vault of a database's keys. Raises RootError where the root does not open them."""
    async with database.transaction() as transaction:
        await store.lock(transaction)
        ages = await store.generations(transaction)
        if not ages:
            ages[FIRST] = TAKES_EFFECT_AFTER
            await _add(transaction, FIRST, os.urandom(KEY_BYTES), root)
        wrapped = await store.wrappings(transaction)
        if UNMARKED in ages and not any(row["generation"] == UNMARKED for row in wrapped):
            await _adopt(transaction, root)
            wrapped = await store.wrappings(transaction)
    return Vault(await _opened(wrapped, ages, root), current=_current(ages))


async def follow(vault: Vault, database: Database, root: Root, *, interval: float = LOOK_INTERVAL) -> None:
    """Takes new generations into a vault, for as long as the process runs."""
    while True:
        await asyncio.sleep(interval)
        try:
            ages = await store.generations(database)
            if ages.keys() != set(vault.generations):
                vault.take(await _opened(await store.wrappings(database), ages, root))
            vault.use(_current(ages))
        except READING as error:
            logger.error("a new service key is not read", extra={"error": type(error).__qualname__})


async def wrap(database: Database, root: Root, new: Root) -> list[int]:
    """Has another root, or the same one after a rotation of its own, wrap every generation. Raises RootError.

    What it wrapped is opened again before it is kept.
    """
    async with database.transaction() as transaction:
        await store.lock(transaction)
        ages = await store.generations(transaction)
        keys = await _opened(await store.wrappings(transaction), ages, root)
        for generation, key in keys.items():
            await _keep(transaction, generation, key, new)
    return sorted(keys)


async def drop(database: Database, root: Root, name: str) -> int:
    """Takes away what the root `name` wrapped, unless it is the one in use. Raises RootError."""
    if name == root.name:
        raise RootError(f"{name} is in use: name another root first, which has wrapped the keys")
    async with database.transaction() as transaction:
        await store.lock(transaction)
        wrapped = [row for row in await store.wrappings(transaction) if row["root"] != name]
        await _opened(wrapped, await store.generations(transaction), root)
        return await store.drop_root(transaction, name)


async def renew(database: Database, root: Root) -> int:
    """Makes a new generation; answers its number. Raises RootError while keys are being moved between roots."""
    async with database.transaction() as transaction:
        await store.lock(transaction)
        ages = await store.generations(transaction)
        if others := {row["root"] for row in await store.wrappings(transaction)} - {root.name}:
            raise RootError(f"the keys are being moved between roots: drop {', '.join(sorted(others))} first")
        generation = max(ages) + 1
        await _add(transaction, generation, os.urandom(KEY_BYTES), root)
    return generation


async def _add(transaction: Connection, generation: int, key: bytes, root: Root) -> None:
    await store.add_generation(transaction, generation)
    await _keep(transaction, generation, key, root)


async def _keep(transaction: Connection, generation: int, key: bytes, root: Root) -> None:
    wrapped = await root.wrap(key, context=_context(generation))
    if await root.unwrap(wrapped, context=_context(generation)) != key:
        raise RootError(f"{root.name} does not open what it wrapped: it is not to be used")
    await store.put_wrapping(transaction, generation, root.name, wrapped)


async def _adopt(transaction: Connection, root: Root) -> None:
    """Takes the file that has wrapped data keys itself as the first generation."""
    if not isinstance(root, FileRoot):
        raise RootError("the node's keys are still wrapped by its root file: start once with that, then move them")
    await _keep(transaction, UNMARKED, root.key, root)


async def _opened(wrapped: Sequence[Row], ages: Iterable[int], root: Root) -> dict[int, bytes]:
    ours = {row["generation"]: row["wrapped"] for row in wrapped if row["root"] == root.name}
    if missing := sorted(set(ages) - ours.keys()):
        others = sorted({row["root"] for row in wrapped if row["generation"] in missing}) or ["none"]
        raise RootError(
            f"{root.name} has not wrapped the keys of this database; these have: {', '.join(others)}. Name the right "
            "one; or, to move them to this one, run `python -m services.runtime.keys wrap` with the right one set"
        )
    return {generation: await root.unwrap(ours[generation], context=_context(generation)) for generation in ours}


def _current(ages: dict[int, float]) -> int:
    """The newest generation that every process has; the only one, while it is the only one."""
    return max((each for each, age in ages.items() if age >= TAKES_EFFECT_AFTER), default=min(ages))


def _context(generation: int) -> str:
    return f"service key {generation}"
