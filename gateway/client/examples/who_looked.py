"""Shows who looked at a resident's mail, by plain REST as in any language."""

import asyncio
import sys

from gateway.client import Client, Profile


async def main(profile: str) -> None:
    """The same JSON as `curl` sees."""
    async with Client(Profile.load(profile)) as resident:
        mailbox = (await resident.rest("POST", "/v1/mailboxes:open", {}))["name"]
        page = await resident.rest("GET", f"/v1/{mailbox}/accesses?pageSize=20")
        for access in page.get("accesses", []):
            print(f"{access['time']}  {access['method']}  {access['actor']['client']}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
