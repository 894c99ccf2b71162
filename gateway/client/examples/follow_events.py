"""Follows what happens to a unit's messages, and goes on where it was when it is started again."""

import asyncio
import sys
from contextlib import aclosing
from pathlib import Path

from gateway.client import Client, Profile


async def main(profile: str, cursor: str, unit: str = "units/permits", stop_after: str = "delivery.opened") -> None:
    """`cursor` is the file that remembers. A case system would go on for ever, and know an event again by its id."""
    async with (
        Client(Profile.load(profile)) as office,
        aclosing(office.follow(unit, cursor=Path(cursor))) as events,
    ):
        async for event in events:
            print(f"{event.time.ToJsonString()}  {event.type:20}  {event.correlation_id or event.message}")
            if event.type == stop_after:
                break


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
