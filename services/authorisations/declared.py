"""Clients that the deployment declares in a file, so that a new node has somebody who can call it.

The file is JSON:

    {"clients": [{"client_id": "operator", "display_name": "Operator",
                  "owner": {"scheme": "FI_YTUNNUS", "value": "0201256-6"},
                  "scopes": ["clients.manage"],
                  "certificate_uri": "spiffe://solmu/client/operator"}]}

`certificate_uri` may be left out. A client that proves itself by assertions has
`"authentication": "PRIVATE_KEY_JWT"` and its key set, `jwks`, beside these; one
to which people log in has `redirect_uris`, one that may ask about some themes
only has `themes`. Each
entry obeys the rules of `ClientService.CreateClient`, and is brought up to date
at every start. An entry that is taken out revokes nothing, and one whose client
has been revoked stays revoked.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import protovalidate
from solmu.authorisations.v1 import clients_pb2
from solmu.types.v1.types_pb2 import Actor, NationalIdentifier

from services.authorisations import store, translate
from services.authorisations.audit_log import AuditLog
from services.authorisations.clients import Client, Rules
from services.runtime.config import ConfigError
from services.runtime.database import Database
from services.runtime.errors import Fault
from services.runtime.parties import PartyNames

logger = logging.getLogger(__name__)

MEMBERS = frozenset(
    {
        "client_id",
        "display_name",
        "owner",
        "scopes",
        "certificate_uri",
        "authentication",
        "jwks",
        "redirect_uris",
        "themes",
    }
)


def read(path: Path, *, parties: PartyNames, rules: Rules, now: datetime) -> list[Client]:
    """The clients of the file. Raises ConfigError with every fault, without identity codes."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["clients"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError([f"{path} is not a JSON object with clients ({type(error).__qualname__})"]) from None
    clients: list[Client] = []
    faults: list[str] = []
    if not isinstance(entries, list):
        raise ConfigError([f"{path}: clients is not a list"])
    for number, entry in enumerate(entries):
        where = f"{path}: clients[{number}]"
        try:
            request = _request(entry)
            broken = list(_violations(request))
            faults += [f"{where}.{fault}" for fault in broken]
            if not broken:
                clients.append(translate.client_to_register(request, parties=parties, rules=rules, now=now))
        except Fault as fault:
            defects = "".join(f" ({field}: {defect})" for field, defect in fault.violations)
            faults.append(f"{where}: {fault.message}{defects}")
        except (TypeError, ValueError, KeyError, AttributeError):
            members = ", ".join(sorted(MEMBERS))
            faults.append(f"{where} has a member of the wrong type, or one that is not of {members}")
    for client_id, times in Counter(client.client_id for client in clients).items():
        if times > 1:
            faults.append(f"{path}: {client_id} is declared twice")
    if faults:
        raise ConfigError(faults)
    return clients


async def apply(database: Database, clients: list[Client], *, audit: AuditLog) -> None:
    """Brings the database up to date with the file. Raises ConfigError where another client has a declared URI."""
    deployment = Actor(client="services/authorisations")
    try:
        async with database.transaction() as transaction:
            changed, revoked = await store.declare(transaction, clients)
            records = [translate.client_record("UpdateClient", client, actor=deployment) for client in changed]
            await audit.record(records, writer=transaction)
    except Fault as fault:
        raise ConfigError([f"the declared clients: {fault.message}"]) from None
    if revoked:
        logger.warning("declared clients stay revoked", extra={"client_ids": revoked})


def _request(entry: dict[str, Any]) -> clients_pb2.CreateClientRequest:
    if entry.keys() - MEMBERS:
        raise KeyError
    owner = entry["owner"]
    identifier = NationalIdentifier(
        scheme=NationalIdentifier.Scheme.Value(f"SCHEME_{owner['scheme']}"), value=owner["value"]
    )
    client = clients_pb2.Client(
        display_name=entry["display_name"],
        owner=identifier,
        scopes=entry["scopes"],
        certificate_uri=entry.get("certificate_uri", ""),
        authentication=clients_pb2.Client.Authentication.Value(
            f"AUTHENTICATION_{entry.get('authentication', 'TLS_CLIENT_AUTH')}"
        ),
        jwks=json.dumps(entry["jwks"]) if "jwks" in entry else "",
        redirect_uris=entry.get("redirect_uris", ()),
        themes=entry.get("themes", ()),
    )
    return clients_pb2.CreateClientRequest(client_id=entry["client_id"], client=client)


def _violations(request: clients_pb2.CreateClientRequest) -> Iterator[str]:
    for violation in protovalidate.collect_violations(request):
        elements = violation.proto.field.elements if violation.proto.field else ()
        path = ".".join(element.field_name for element in elements)
        yield f"{path.removeprefix('client.')}: {violation.proto.message}"
