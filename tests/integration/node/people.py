"""Persons and organisations that call a node's edge, each as the owner of a client of its own."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import date, timedelta

from solmu.authorisations.v1 import clients_pb2
from solmu.types.v1.types_pb2 import NationalIdentifier

from deploy.local import demo_clients
from deploy.local.node import Node
from gateway.client import Client, Profile
from tests.integration.node.callers import Caller, profile

SCHEME = NationalIdentifier
_serial = itertools.count()
_MARKS = "0123456789ABCDEFHJKLMNPRSTUVWXY"


def person(born: date | None = None) -> NationalIdentifier:
    """A code of the range that the Finnish register keeps for tests: a person that no other test knows."""
    serial = next(_serial)
    born = born or date(1980, 5, 17) + timedelta(days=serial // 100)
    number = 900 + serial % 100
    digits = f"{born:%d%m%y}{number}"
    century = "A" if born.year >= 2000 else "-"
    code = f"{born:%d%m%y}{century}{number}{_MARKS[int(digits) % 31]}"
    return NationalIdentifier(scheme=SCHEME.SCHEME_FI_HETU, value=code)


def organisation(number: int) -> NationalIdentifier:
    """A Finnish business id of the right form."""
    weights = (7, 9, 10, 5, 8, 4, 2)
    while True:
        rest = sum(weight * int(digit) for weight, digit in zip(weights, f"{number:07}", strict=True)) % 11
        if rest != 1:
            value = f"{number:07}-{(11 - rest) % 11}"
            return NationalIdentifier(scheme=SCHEME.SCHEME_FI_YTUNNUS, value=value)
        number += 1


@asynccontextmanager
async def client_of(
    node: Node, owner: NationalIdentifier, *scopes: str, redirect_uris: Sequence[str] = ()
) -> AsyncIterator[Client]:
    """A client of this owner, registered by the operator, at the edge."""
    declared = demo_clients.DemoClient(
        client_id=f"test-{uuid.uuid4().hex[:12]}",
        display_name="Test",
        owner={"scheme": SCHEME.Scheme.Name(owner.scheme).removeprefix("SCHEME_"), "value": owner.value},
        scopes=tuple(scopes),
        redirect_uris=tuple(redirect_uris),
    )
    folder = demo_clients.equip(node.state, declared, node=node.settings.node, edge=node.edge)
    described = clients_pb2.Client(
        display_name=declared.display_name, owner=owner, scopes=declared.scopes, redirect_uris=declared.redirect_uris
    )
    async with Client(profile(node, "operator")) as operator:
        request = clients_pb2.CreateClientRequest(client_id=declared.client_id, client=described)
        await operator.call(operator.clients.CreateClient, request, attempts=5)
    async with Client(Profile.load(folder)) as client:
        yield client


async def caller(client: Client, *, scopes: Sequence[str] = ()) -> Caller:
    """The client as a caller by plain HTTP."""
    return Caller(client.profile.edge, client.profile.files, await client.token())
