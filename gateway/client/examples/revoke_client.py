"""Takes the access of an information system away, within seconds and for good. For the profile of an operator."""

import asyncio
import sys

from solmu.authorisations.v1 import clients_pb2

from gateway.client import Client, Profile


async def main(profile: str, client_id: str = "library") -> None:
    """The client gets no more tokens, and those that it holds are refused."""
    name = f"clients/{client_id}"
    async with Client(Profile.load(profile)) as operator:
        known = await operator.call(operator.clients.GetClient, clients_pb2.GetClientRequest(name=name))
        # With the etag, so that nothing is revoked that somebody has just changed.
        request = clients_pb2.RevokeClientRequest(name=name, etag=known.etag)
        revoked = await operator.call(operator.clients.RevokeClient, request)
        print(f"{revoked.name} revoked at {revoked.revoke_time.ToJsonString()}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
