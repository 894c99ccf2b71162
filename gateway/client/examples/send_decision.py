"""Sends a file to a resident as a decision: the job that a case system has most."""

import asyncio
import sys
from pathlib import Path

from solmu.messages.v1 import messages_pb2
from solmu.types.v1.types_pb2 import NationalIdentifier

from gateway.client import AlreadyExists, Client, FailedPrecondition, Profile


async def main(profile: str, file: str, case: str, unit: str = "units/permits", person: str = "150390-900B") -> None:
    """`case` is the idempotency key: run twice, this sends once."""
    async with Client(Profile.load(profile)) as office:
        attachment = await office.upload_file(Path(file), progress=_tell)
        request = messages_pb2.SendMessageRequest(
            parent=unit,
            idempotency_key=case,
            message=messages_pb2.Message(
                recipient=messages_pb2.Recipient(
                    identifier=NationalIdentifier(scheme=NationalIdentifier.SCHEME_FI_HETU, value=person)
                ),
                title="A decision in your case",
                bodies=[messages_pb2.Body(language="en", text="The decision is attached.")],
                attachments=[
                    messages_pb2.MessageAttachment(
                        attachment=attachment.name, role=messages_pb2.MessageAttachment.ROLE_MAIN
                    )
                ],
                correlation_id=case,
            ),
        )
        try:
            message = await office.call(office.messages.SendMessage, request)
        except AlreadyExists as fault:
            # The file was uploaded anew, so the content is another: the case had its decision.
            print(f"sent before: {fault.metadata['message']}")
            return
        except FailedPrecondition as fault:
            if fault.reason != "MAILBOX_NOT_ACTIVE":
                raise
            sys.exit("The resident has no mailbox here: send it on paper.")
        print(f"sent: {message.name}")


def _tell(done: int, total: int) -> None:
    print(f"{done} of {total} bytes", file=sys.stderr)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
