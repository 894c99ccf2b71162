"""A node of its own for tests that kill its processes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from solmu.messages.v1 import mailboxes_pb2

from deploy.local import demo_clients
from deploy.local.node import Node, NodeSettings, running
from gateway.client import Client, Profile


@pytest.fixture(scope="session")
async def mortal(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """The node."""
    settings = NodeSettings(state=tmp_path_factory.mktemp("mortal") / "state", edge_port=0)
    async with running(settings) as node:
        await demo_clients.provision(node.state, node=settings.node, edge=node.edge)
        yield node


@pytest.fixture(scope="session")
async def mailbox(mortal: Node) -> str:
    """A resident's open mailbox there."""
    async with Client(Profile.load(mortal.state.clients / "resident")) as resident:
        opened = await resident.call(resident.mailboxes.OpenMailbox, mailboxes_pb2.OpenMailboxRequest())
        return opened.name


@pytest.fixture
async def permits(mortal: Node) -> AsyncIterator[Client]:
    """The permits office's client there."""
    async with Client(Profile.load(mortal.state.clients / "permits")) as client:
        yield client
