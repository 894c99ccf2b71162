"""Sends the same message to many residents over one stream; each has a result of its own."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import aclosing

from google.protobuf import json_format
from solmu.messages.v1 import messages_pb2

from gateway.client import Client, Profile


async def main(profile: str, batch: str, *persons: str) -> None:
    """`batch` names the batch; with the person's place in it, it is the key of each message."""

    def requests() -> Iterator[messages_pb2.SendMessageRequest]:
        for place, person in enumerate(persons or ["150390-900B"]):
            message = {
                "recipient": {"identifier": {"scheme": "SCHEME_FI_HETU", "value": person}},
                "title": "Water will be shut off on Monday",
                "bodies": [{"language": "en", "text": "From 9 to 12, in the whole street."}],
                "kind": "KIND_INFORMATION",
            }
            one = {"parent": "units/permits", "idempotencyKey": f"{batch}-{place}", "message": message}
            yield json_format.ParseDict(one, messages_pb2.SendMessageRequest())

    refused = 0
    async with (
        Client(Profile.load(profile)) as office,
        aclosing(office.send_all(requests())) as results,
    ):
        async for result in results:
            if result.HasField("refusal"):
                refused += 1
                print(f"{result.index}: refused, {result.refusal.message}")
            else:
                print(f"{result.index}: {result.message.name}")
    sys.exit(1 if refused else 0)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
