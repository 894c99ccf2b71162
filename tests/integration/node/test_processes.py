"""A node whose service messages has two processes: they share the work, and each stands in for the other."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator

import grpc
import pytest
from solmu.messages.v1 import feed_pb2, mailboxes_pb2, messages_pb2

from deploy.local import demo_clients
from deploy.local.node import Node, NodeSettings, running
from gateway.client import Client
from tests.integration.node.callers import profile
from tests.integration.node.test_telemetry import metrics

PATIENCE = 60
UNIT = f"units/{demo_clients.UNIT}"
PROCESSES = ("messages", "messages.2")


@pytest.fixture(scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    settings = NodeSettings(state=tmp_path_factory.mktemp("two") / "state", edge_port=0, messages_processes=2)
    async with running(settings) as started:
        yield started


@pytest.fixture(scope="module")
async def mailbox(node: Node) -> str:
    async with Client(profile(node, demo_clients.RESIDENT.client_id)) as resident:
        return (await resident.call(resident.mailboxes.OpenMailbox, mailboxes_pb2.OpenMailboxRequest())).name


def message(mailbox: str, key: str) -> messages_pb2.SendMessageRequest:
    return messages_pb2.SendMessageRequest(
        parent=UNIT,
        idempotency_key=key,
        message=messages_pb2.Message(
            recipient=messages_pb2.Recipient(mailbox=mailbox),
            title="Notice",
            bodies=[messages_pb2.Body(language="en", text="The street is closed.")],
        ),
    )


async def streamed(node: Node, process: str) -> int:
    told = await metrics(node, process)
    counted = re.search(
        r'solmu_calls_total\{code="OK",method="solmu.messages.v1.MessageService.SendMessages"\} ([0-9.]+)', told
    )
    return int(float(counted[1])) if counted else 0


async def test_two_streams_meet_two_processes_and_one_feed_tells_of_both(node: Node, mailbox: str):
    before = [await streamed(node, process) for process in PROCESSES]
    names = set()
    async with Client(profile(node, demo_clients.PERMITS.client_id)) as permits, asyncio.timeout(PATIENCE):
        streams = []
        for number in range(2):
            stream = permits.messages.SendMessages(metadata=await permits.metadata())
            await stream.write(messages_pb2.SendMessagesRequest(messages=[message(mailbox, f"stream-{number}")]))
            answer = await stream.read()
            assert isinstance(answer, messages_pb2.SendMessagesResponse)
            (result,) = answer.results
            names.add(result.message.name)
            streams.append(stream)
        for stream in streams:
            await stream.done_writing()
            assert await stream.read() == grpc.aio.EOF
        feed = permits.feed.StreamEvents(feed_pb2.StreamEventsRequest(parent=UNIT), metadata=await permits.metadata())
        told = set()
        async for event in feed:
            told.add(event.message)
            if names <= told:
                break
        feed.cancel()
    after = [await streamed(node, process) for process in PROCESSES]
    assert [now - then for then, now in zip(before, after, strict=True)] == [1, 1]


@pytest.mark.parametrize("killed", PROCESSES)
async def test_a_process_that_dies_is_stood_in_for(node: Node, mailbox: str, killed: str):
    keeper = node.process(killed)
    restarts, pid = keeper.restarts, keeper.pid
    assert pid is not None
    async with Client(profile(node, demo_clients.PERMITS.client_id)) as permits, asyncio.timeout(PATIENCE):
        sent: list[str] = []
        os.kill(pid, signal.SIGKILL)
        while keeper.restarts == restarts or not keeper.ready.is_set():
            request = message(mailbox, f"{killed}-{len(sent)}")
            sent.append((await permits.call(permits.messages.SendMessage, request)).name)
        again = await permits.call(permits.messages.SendMessage, message(mailbox, f"{killed}-0"))
    assert len(set(sent)) == len(sent) > 0
    assert again.name == sent[0]
