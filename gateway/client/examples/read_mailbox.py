"""Opens what is unread in a resident's mailbox, and saves the attachments."""

import asyncio
import sys
from pathlib import Path

from solmu.messages.v1 import inbox_pb2, mailboxes_pb2

from gateway.client import Client, Profile


async def main(profile: str, folder: str) -> None:
    """An attachment is there when it is whole and its digest is that of the message."""
    async with Client(Profile.load(profile)) as resident:
        request = mailboxes_pb2.OpenMailboxRequest()
        mailbox = await resident.call(resident.mailboxes.OpenMailbox, request, attempts=3)
        unread = inbox_pb2.ListInboxMessagesRequest(parent=mailbox.name, unread_only=True)
        async for listed in resident.items(resident.inbox.ListInboxMessages, unread):
            asked = inbox_pb2.OpenInboxMessageRequest(name=listed.name)
            message = await resident.call(resident.inbox.OpenInboxMessage, asked)
            print(message.title)
            for attachment in message.attachments:
                file = Path(folder, attachment.file_name)
                name = f"{message.name}/{attachment.attachment}"
                await resident.download_file(name, file, sha256=attachment.sha256)
                print(f"  {file.name}, {attachment.size_bytes} bytes")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
