"""A sender that does not give up, and a reader that checks what became of it all."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from dataclasses import dataclass, field

from solmu.messages.v1 import feed_pb2, messages_pb2

from deploy.local import demo_clients
from gateway.client import Client

UNIT = f"units/{demo_clients.UNIT}"
ATTEMPTS = 60
"""With up to two seconds between them, more than any restart takes."""


@dataclass
class Sender:
    """Sends one message after the other until it is told to stop, each until it is acknowledged."""

    client: Client
    mailbox: str
    acknowledged: dict[str, str] = field(default_factory=dict)
    """The name of the message by its idempotency key."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        while not self.stop.is_set():
            key = str(uuid.uuid4())
            request = messages_pb2.SendMessageRequest(
                parent=UNIT,
                idempotency_key=key,
                message=messages_pb2.Message(
                    recipient=messages_pb2.Recipient(mailbox=self.mailbox),
                    title="Decision",
                    bodies=[messages_pb2.Body(language="en", text="Granted.")],
                ),
            )
            sent = await self.client.call(self.client.messages.SendMessage, request, attempts=ATTEMPTS, timeout=5)
            self.acknowledged[key] = sent.name

    async def until(self, count: int) -> None:
        """Waits until this many more messages have been acknowledged."""
        target = len(self.acknowledged) + count
        while len(self.acknowledged) < target:
            await asyncio.sleep(0.02)


async def stored(client: Client, keys: set[str]) -> Counter[str]:
    """How many messages the unit has under each of these keys."""
    found: Counter[str] = Counter()
    token = ""
    while True:
        asked = messages_pb2.ListMessagesRequest(parent=UNIT, page_size=1000, page_token=token)
        page = await client.call(client.messages.ListMessages, asked, attempts=ATTEMPTS)
        found.update(message.idempotency_key for message in page.messages if message.idempotency_key in keys)
        token = page.next_page_token
        if not token:
            return found


async def events(client: Client, cursor: str, expected: set[tuple[str, str]]) -> list[feed_pb2.Event]:
    """What an idempotent reader sees after a cursor: each event once, until all that is expected has come."""
    seen: dict[str, feed_pb2.Event] = {}
    while not expected <= {(event.message, event.type) for event in seen.values()}:
        asked = feed_pb2.ListEventsRequest(parent=UNIT, cursor=cursor, page_size=1000)
        page = await client.call(client.feed.ListEvents, asked, attempts=ATTEMPTS)
        seen.update((event.id, event) for event in page.events)
        cursor = page.next_cursor
        if not page.events:
            await asyncio.sleep(0.05)
    return list(seen.values())


async def end_of_feed(client: Client) -> str:
    """The cursor behind the last event that is there."""
    cursor = ""
    while True:
        asked = feed_pb2.ListEventsRequest(parent=UNIT, cursor=cursor, page_size=1000)
        page = await client.call(client.feed.ListEvents, asked, attempts=ATTEMPTS)
        cursor = page.next_cursor
        if not page.events:
            return cursor
