"""Lists what a unit sent and where it is, without asyncio."""

import sys

from solmu.messages.v1 import messages_pb2

from gateway.client import Profile, SyncClient


def main(profile: str, unit: str = "units/permits") -> None:
    """Page after page, latest first."""
    with SyncClient(Profile.load(profile)) as office:
        for message in office.items(office.messages.ListMessages, messages_pb2.ListMessagesRequest(parent=unit)):
            state = messages_pb2.Message.State.Name(message.state).removeprefix("STATE_").lower()
            print(f"{message.create_time.ToJsonString()}  {state:10}  {message.name}  {message.correlation_id}")


if __name__ == "__main__":
    main(*sys.argv[1:])
