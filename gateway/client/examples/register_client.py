"""Registers an information system, so that it can get tokens. For the profile of an operator."""

import asyncio
import sys

from solmu.authorisations.v1 import clients_pb2
from solmu.types.v1.types_pb2 import NationalIdentifier

from gateway.client import AlreadyExists, Client, Profile


async def main(profile: str, client_id: str = "library") -> None:
    """Its certificate has the URI `spiffe://<node>/client/<client id>`; see `solmu clients csr`."""
    request = clients_pb2.CreateClientRequest(
        client_id=client_id,
        client=clients_pb2.Client(
            display_name="Loan system of the library",
            owner=NationalIdentifier(scheme=NationalIdentifier.SCHEME_FI_YTUNNUS, value="9999999-2"),
            scopes=["messages.read", "messages.send"],
        ),
    )
    async with Client(Profile.load(profile)) as operator:
        try:
            client = await operator.call(operator.clients.CreateClient, request)
        except AlreadyExists:
            print(f"{client_id} is registered already")
        else:
            print(f"{client.name} may have {', '.join(client.scopes)}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
