"""Many messages over one stream, some hundred in each request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator

from solmu.messages.v1 import messages_pb2

MOST = 250
"""Messages of a request: with more, what they share is too little of their cost to matter."""

MOST_BYTES = 1 << 20
"""Bytes of a request, unless a single message has more; the node takes 4 MiB."""


async def requests(
    messages: Iterable[messages_pb2.SendMessageRequest],
) -> AsyncIterator[messages_pb2.SendMessagesRequest]:
    """The requests of a stream that sends messages, made as the stream takes them."""
    for batch in _batches(messages):
        yield messages_pb2.SendMessagesRequest(messages=batch)


def _batches(messages: Iterable[messages_pb2.SendMessageRequest]) -> Iterator[list[messages_pb2.SendMessageRequest]]:
    batch: list[messages_pb2.SendMessageRequest] = []
    size = 0
    for message in messages:
        size += message.ByteSize()
        if batch and (len(batch) == MOST or size > MOST_BYTES):
            yield batch
            batch, size = [], message.ByteSize()
        batch.append(message)
    if batch:
        yield batch
