"""Any one process dies during a stream of sends: nothing acknowledged is lost, nothing is there twice."""

from __future__ import annotations

import asyncio
import os
import random
import signal

import pytest

from deploy.local import plan
from deploy.local.node import Node
from deploy.local.supervisor import Condition
from gateway.client import Client
from services.runtime import mesh
from tests.faults.rolling import Load
from tests.faults.sending import Sender, end_of_feed, events, stored

PROCESSES = (plan.POSTGRES, plan.NATS, *mesh.SERVICES, mesh.GATEWAY, plan.ENVOY)
PATIENCE = 90.0


async def kill(node: Node, name: str) -> None:
    """kill -9, and waits until the supervisor has put a new process in its place that is ready."""
    old = node.process(name).pid
    assert old is not None
    os.kill(old, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        while (pid := node.process(name).pid) in (None, old) or not _ready(node):
            await asyncio.sleep(0.02)
    assert pid != old


def _ready(node: Node) -> bool:
    return all(keeper.condition is Condition.READY for keeper in node.processes.values())


async def whole(client: Client, cursor: str, sender: Sender | Load) -> None:
    """Nothing that was acknowledged is lost or doubled, neither as a message nor as an event."""
    keys = set(sender.acknowledged)
    assert await stored(client, keys) == dict.fromkeys(keys, 1)
    types = ("message.accepted", "delivery.available")
    expected = {(name, kind) for name in sender.acknowledged.values() for kind in types}
    async with asyncio.timeout(PATIENCE):
        seen = await events(client, cursor, expected)
    happened = [(event.message, event.type) for event in seen]
    assert len(happened) == len(set(happened))
    for name in sender.acknowledged.values():
        assert [kind for message, kind in happened if message == name and kind in types] == list(types)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.timeout(240)
async def test_a_process_dies_during_a_stream_of_sends(mortal: Node, mailbox: str, permits: Client, name: str):
    cursor = await end_of_feed(permits)
    sender = Sender(permits, mailbox)
    async with asyncio.TaskGroup() as group:
        group.create_task(sender.run())
        await sender.until(20)
        await kill(mortal, name)
        await sender.until(20)
        sender.stop.set()
    await whole(permits, cursor, sender)


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_processes_die_at_random_for_minutes(mortal: Node, mailbox: str, permits: Client):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    cursor = await end_of_feed(permits)
    senders = [Sender(permits, mailbox) for _ in range(4)]
    async with asyncio.TaskGroup() as group:
        for sender in senders:
            group.create_task(sender.run())
        for number in range(40):
            await asyncio.sleep(chance.uniform(0.2, 2))
            name = chance.choice(PROCESSES)
            print(f"{number:3} kill -9 {name}")
            await kill(mortal, name)
        for sender in senders:
            sender.stop.set()
    for sender in senders:
        await whole(permits, cursor, sender)
    print(f"{sum(len(sender.acknowledged) for sender in senders)} messages acknowledged, none lost, none twice")
