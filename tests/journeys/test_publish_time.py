"""A message that a case system hands in before it may be seen."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

from solmu.messages.v1 import feed_pb2, messages_pb2

from deploy.local import demo_clients
from deploy.local.node import Node
from gateway.client import Client, Profile

PATIENCE = 30.0
"""Seconds that the node may take."""


async def test_a_message_appears_at_its_publish_time_by_itself(node: Node):
    def client(declared: demo_clients.DemoClient) -> Client:
        return Client(Profile.load(node.state.clients / declared.client_id))

    async with client(demo_clients.PERMITS) as office, client(demo_clients.RESIDENT) as resident:
        mailbox = (await resident.rest("POST", "/v1/mailboxes:open", {}))["name"]
        message = messages_pb2.Message(
            recipient=messages_pb2.Recipient(mailbox=mailbox),
            title="The matter is decided",
            bodies=[messages_pb2.Body(language="en", text="The board has met.")],
        )
        publish_time = datetime.now(UTC) + timedelta(seconds=3)
        message.publish_time.FromDatetime(publish_time)
        request = messages_pb2.SendMessageRequest(
            parent=f"units/{demo_clients.UNIT}", message=message, idempotency_key="board-1"
        )
        sent = await office.call(office.messages.SendMessage, request, attempts=5)
        assert sent.state == messages_pb2.Message.STATE_SCHEDULED
        name = f"{mailbox}/messages/{sent.name.split('/')[3]}"

        async def released():
            asked = feed_pb2.StreamEventsRequest(parent=f"units/{demo_clients.UNIT}", types=["message.released"])
            async with aclosing(office.stream(office.feed.StreamEvents, asked)) as stream:
                async for event in stream:
                    if event.message == sent.name:
                        return event
            raise AssertionError

        event = await asyncio.wait_for(released(), PATIENCE)
        assert event.time.ToDatetime(UTC) >= publish_time
        opened = await resident.rest("POST", f"/v1/{name}:open", {})
        assert opened["bodies"][0]["text"] == "The board has met."
