"""What a process knows of its node is as new as the database, in whatever order its loads end."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from solmu.exchange.v1 import directory_pb2

from services.exchange import configuration, directory_store, key_store
from services.exchange.configuration import Configuration
from services.exchange.keys import KeyRing
from services.exchange.meshes import Meshes
from tests.integration.exchange import calls, mesh
from tests.integration.exchange.mesh import Node


class Dawdling:
    """A part of loads that, of one, ends when it is let."""

    def __init__(self, genuine: Any) -> None:
        self._genuine = genuine
        self.whose: asyncio.Task[Any] | None = None
        self.read, self.go = asyncio.Event(), asyncio.Event()

    async def __call__(self, *given: Any, **named: Any) -> Any:
        found = await self._genuine(*given, **named)
        if asyncio.current_task() is self.whose:
            self.read.set()
            await self.go.wait()
        return found


async def overtaken(part: Any, dawdling: Dawdling, change: Callable[[], Awaitable[Any]]) -> None:
    """Two loads, of which the first has read what was before a change, and ends last if it can."""
    first = dawdling.whose = asyncio.create_task(part.load())
    await dawdling.read.wait()
    await change()
    second = asyncio.create_task(part.load())
    await asyncio.wait({second}, timeout=1)  # it waits for the first, or is done
    dawdling.go.set()
    await asyncio.gather(first, second)


async def test_the_configuration(nodes: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch) -> None:
    company = nodes[1]
    part, dawdling = Configuration(database=company.database), Dawdling(configuration._read)
    monkeypatch.setattr(configuration, "_read", dawdling)
    await overtaken(part, dawdling, lambda: calls.policy(company))
    assert part.current.revision == company.exchange.configuration.current.revision


async def test_the_keys(nodes: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch) -> None:
    company = nodes[1]
    part = KeyRing(database=company.database, vault=company.exchange.ring._vault)
    dawdling = Dawdling(key_store.keys)
    monkeypatch.setattr(key_store, "keys", dawdling)
    await overtaken(part, dawdling, lambda: company.new_key(directory_pb2.KEY_USE_LOG))
    assert part._keys.keys() == company.exchange.ring._keys.keys()


async def test_the_directories(nodes: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch) -> None:
    city, company = nodes
    part, dawdling = Meshes(database=company.database, outbox=None), Dawdling(directory_store.meshes)

    async def change() -> None:
        await mesh.publish(city)
        await company.refresh()

    monkeypatch.setattr(directory_store, "meshes", dawdling)
    await overtaken(part, dawdling, change)
    assert part.own.known == company.exchange.meshes.own.known
