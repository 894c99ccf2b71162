"""The clients that the embedded node gives its people to try it with.

    operator      runs the node: registers clients, makes units, opens mailboxes
    permits       the permits office's back-office system: sends decisions
    resident      the mailbox of a resident: reads and opens them
    print-house   prints and posts what goes on paper
    portal        the city's portal: people log in to it, and it acts in their names

`operator` is declared by the deployment (`secrets/clients.json`), because
somebody has to be there first. With it the others are registered through the
edge, and the permits office gets its unit, as any operator would do it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from solmu.authorisations.v1 import clients_pb2
from solmu.messages.v1 import units_pb2
from solmu.types.v1.types_pb2 import LocalizedText, NationalIdentifier

from deploy import files, pki
from deploy.local.state import State
from gateway.client import Client, Profile
from services.runtime.errors import AlreadyExists

PROFILE = "profile.json"
"""What the command line and the Python client read: where the edge is, and with what to call it."""

ATTEMPTS = 10
"""Tries of each call: the edge is ready a moment before all that is behind it has met."""

UNIT = "permits"
"""The permits office as a unit: `units/permits`."""


@dataclass(frozen=True, kw_only=True)
class DemoClient:
    """One client: an information system and the organisation that runs it."""

    client_id: str
    display_name: str
    owner: Mapping[str, str]
    """The organisation's identifier: scheme and value. The values are of the form, and nobody's."""
    scopes: tuple[str, ...]
    redirect_uris: tuple[str, ...] = ()
    """Where people who logged in are sent back to."""


CITY = {"scheme": "FI_YTUNNUS", "value": "9999999-2"}
"""Well formed, and no organisation's."""

PERSON = {"scheme": "FI_HETU", "value": "150390-900B"}
"""Of the range that the register keeps for tests: no person's."""

OPERATOR = DemoClient(
    client_id="operator",
    display_name="Operator of the node",
    owner=CITY,
    scopes=("clients.manage", "mailboxes.manage", "units.manage"),
)
PERMITS = DemoClient(
    client_id="permits",
    display_name="Back-office system of the permits office",
    owner=CITY,
    scopes=(
        "attachments.read",
        "attachments.write",
        "mailboxes.lookup",
        "messages.read",
        "messages.send",
        "webhooks.manage",
    ),
)
RESIDENT = DemoClient(
    client_id="resident",
    display_name="Mailbox of a resident",
    owner=PERSON,
    scopes=("attachments.read", "attachments.write", "mailbox.read", "mailbox.write"),
)
PRINT_HOUSE = DemoClient(
    client_id="print-house",
    display_name="Print house",
    owner={"scheme": "FI_YTUNNUS", "value": "8888888-3"},  # well formed, and no organisation's
    scopes=("attachments.read", "letters.print"),
)
PORTAL = DemoClient(
    client_id="portal",
    display_name="Portal of the city",
    owner=CITY,
    scopes=(
        "attachments.read",
        "attachments.write",
        "mailbox.read",
        "mailbox.write",
        "mandates.read",
        "mandates.write",
    ),
    redirect_uris=("http://127.0.0.1:8445/",),
)
"""It runs on the person's own machine (`solmu log-in`), so people are sent back to loopback."""

CLIENTS = (OPERATOR, PERMITS, RESIDENT, PRINT_HOUSE, PORTAL)


def declare(state: State) -> None:
    """Writes the clients that `authorisations` takes over at its start: the operator."""
    declared = {
        "client_id": OPERATOR.client_id,
        "display_name": OPERATOR.display_name,
        "owner": dict(OPERATOR.owner),
        "scopes": list(OPERATOR.scopes),
    }
    files.write(state.declared_clients, json.dumps({"clients": [declared]}, indent=2) + "\n")


async def provision(state: State, *, node: str, edge: str) -> None:
    """Gives every client its certificate and profile, and has it registered.

    Runs after each start, when the edge at `edge` is ready. Raises Fault where
    the node refuses.
    """
    for client in CLIENTS:
        equip(state, client, node=node, edge=edge)
    async with Client(Profile.load(state.clients / OPERATOR.client_id)) as operator:
        for client in (PERMITS, RESIDENT, PRINT_HOUSE, PORTAL):
            await register(operator, client)
        await _make_unit(operator)


def equip(state: State, client: DemoClient, *, node: str, edge: str) -> Path:
    """Gives a client what it needs to call the edge: certificate, key, authority and profile. Answers their folder."""
    authority = pki.Authority.load(state.public)
    folder = state.clients / client.client_id
    authority.keep(pki.Identity.information_system(node, client.client_id), folder)
    files.write(folder / pki.AUTHORITY, authority.certificate_path.read_bytes(), mode=pki.PUBLIC)
    _write_profile(folder, client, edge)
    return folder


def identifier(owner: Mapping[str, str]) -> NationalIdentifier:
    """A client's owner as the contracts name it."""
    return NationalIdentifier(scheme=NationalIdentifier.Scheme.Value(f"SCHEME_{owner['scheme']}"), value=owner["value"])


async def register(operator: Client, client: DemoClient) -> None:
    """Has a client registered, if it is not."""
    request = clients_pb2.CreateClientRequest(
        client_id=client.client_id,
        client=clients_pb2.Client(
            display_name=client.display_name,
            owner=identifier(client.owner),
            scopes=client.scopes,
            redirect_uris=client.redirect_uris,
        ),
    )
    try:
        await operator.call(operator.clients.CreateClient, request, attempts=ATTEMPTS)
    except AlreadyExists:
        pass


async def _make_unit(operator: Client) -> None:
    names = [LocalizedText(language="en", text="Permits office"), LocalizedText(language="fi", text="Lupapalvelut")]
    request = units_pb2.CreateUnitRequest(unit_id=UNIT, unit=units_pb2.Unit(display_names=names))
    try:
        await operator.call(operator.units.CreateUnit, request, attempts=ATTEMPTS)
    except AlreadyExists:
        pass


def _write_profile(folder: Path, client: DemoClient, edge: str) -> None:
    profile = {
        "edge": edge,
        "client_id": client.client_id,
        "certificate": pki.CERTIFICATE,
        "key": pki.KEY,
        "authorities": pki.AUTHORITY,
        "scopes": list(client.scopes),
    }
    if client.redirect_uris:
        profile["redirect_uri"] = client.redirect_uris[0]
    files.write(folder / PROFILE, json.dumps(profile, indent=2) + "\n")
