"""Opens the mailbox of the resident in whose name the profile acts."""

import asyncio
import sys

from solmu.messages.v1 import mailboxes_pb2

from gateway.client import Client, Profile


async def main(profile: str) -> None:
    """Opening an open mailbox changes nothing, so it may be repeated."""
    async with Client(Profile.load(profile)) as resident:
        request = mailboxes_pb2.OpenMailboxRequest()
        mailbox = await resident.call(resident.mailboxes.OpenMailbox, request, attempts=3)
        print(f"{mailbox.name} is open")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
