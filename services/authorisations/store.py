"""The clients in PostgreSQL: all SQL of the service.

Writes take the transaction of their caller; reads take that or the database.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

import asyncpg

from services.authorisations.clients import Authentication, Client
from services.runtime.database import Connection, Database, Row
from services.runtime.errors import AlreadyExists, Fault

_COLUMNS = (
    "client_id, display_name, party, scopes, certificate_uri, create_time, update_time, revoke_time,"
    " authentication, jwks, redirect_uris, themes, revision"
)


async def insert(transaction: Connection, client: Client) -> None:
    """Adds a client. Raises AlreadyExists: RESOURCE_EXISTS, CERTIFICATE_URI_TAKEN."""
    try:
        await transaction.execute(
            f"insert into client ({_COLUMNS}) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
            *_values(client),
        )
    except asyncpg.UniqueViolationError as error:
        raise _taken(error, client) from None


async def find(reader: Database | Connection, client_id: str) -> Client | None:
    """The client of this id."""
    row = await reader.fetchrow(f"select {_COLUMNS} from client where client_id = $1", client_id)
    return _client(row) if row else None


async def find_for_update(transaction: Connection, client_id: str) -> Client | None:
    """The client of this id, held until the end of the transaction."""
    row = await transaction.fetchrow(f"select {_COLUMNS} from client where client_id = $1 for update", client_id)
    return _client(row) if row else None


async def page(reader: Database | Connection, *, after: str, size: int, show_revoked: bool) -> list[Client]:
    """At most `size` clients whose ids come after `after`, in order."""
    rows = await reader.fetch(
        f"select {_COLUMNS} from client"
        " where client_id > $1 and ($2 or revoke_time is null) order by client_id limit $3",
        after,
        show_revoked,
        size,
    )
    return [_client(row) for row in rows]


async def update(transaction: Connection, client: Client) -> None:
    """Writes a client that is held. Raises AlreadyExists, CERTIFICATE_URI_TAKEN."""
    try:
        await transaction.execute(
            "update client set display_name = $2, scopes = $3, certificate_uri = $4, update_time = $5,"
            " revoke_time = $6, authentication = $7, jwks = $8, redirect_uris = $9, themes = $10, revision = $11"
            " where client_id = $1",
            client.client_id,
            client.display_name,
            client.scopes,
            client.certificate_uri,
            client.update_time,
            client.revoke_time,
            client.authentication,
            client.jwks,
            client.redirect_uris,
            client.themes,
            client.revision,
        )
    except asyncpg.UniqueViolationError as error:
        raise _taken(error, client) from None


async def refuse_tokens(transaction: Connection, client_id: str, *, revoke_time: datetime) -> None:
    """Puts a client on this service's own list of revoked clients; the others hear of it by event."""
    await transaction.execute(
        "insert into revoked_client (client_id, revoke_time) values ($1, $2) on conflict do nothing",
        client_id,
        revoke_time,
    )


async def declare(transaction: Connection, clients: Collection[Client]) -> tuple[list[Client], list[str]]:
    """Adds the clients or brings them up to date.

    Returns those that changed, and the ids of those left aside because they are
    revoked.

    Raises AlreadyExists, CERTIFICATE_URI_TAKEN.
    """
    # Processes that start together do it one after another: each finds what the one before has written.
    await transaction.execute("lock table client in share row exclusive mode")
    changed = []
    for client in sorted(clients, key=lambda each: each.client_id):
        try:
            written = await transaction.fetchval(
                f"insert into client ({_COLUMNS}) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"
                " on conflict (client_id) do update set display_name = excluded.display_name,"
                " party = excluded.party, scopes = excluded.scopes, certificate_uri = excluded.certificate_uri,"
                " authentication = excluded.authentication, jwks = excluded.jwks,"
                " redirect_uris = excluded.redirect_uris, themes = excluded.themes,"
                " update_time = excluded.update_time, revision = client.revision + 1"
                " where client.revoke_time is null"
                " and (client.display_name, client.party, client.scopes, client.certificate_uri,"
                " client.authentication, client.jwks, client.redirect_uris, client.themes)"
                " is distinct from"
                " (excluded.display_name, excluded.party, excluded.scopes, excluded.certificate_uri,"
                " excluded.authentication, excluded.jwks, excluded.redirect_uris, excluded.themes) returning true",
                *_values(client),
            )
        except asyncpg.UniqueViolationError as error:
            raise _taken(error, client) from None
        if written:
            changed.append(client)
    rows = await transaction.fetch(
        "select client_id from client where client_id = any($1) and revoke_time is not null order by client_id",
        [client.client_id for client in clients],
    )
    return changed, [row["client_id"] for row in rows]


def _values(client: Client) -> tuple[object, ...]:
    return (
        client.client_id,
        client.display_name,
        client.party,
        client.scopes,
        client.certificate_uri,
        client.create_time,
        client.update_time,
        client.revoke_time,
        client.authentication,
        client.jwks,
        client.redirect_uris,
        client.themes,
        client.revision,
    )


def _client(row: Row) -> Client:
    listed = {name: tuple(row[name]) for name in ("scopes", "redirect_uris", "themes")}
    return Client(**{**row, **listed, "authentication": Authentication(row["authentication"])})


def _taken(error: asyncpg.UniqueViolationError, client: Client) -> Fault:
    if error.constraint_name == "client_certificate_uri":
        return AlreadyExists(
            "CERTIFICATE_URI_TAKEN",
            "another client is known by this certificate URI",
            certificate_uri=client.certificate_uri,
        )
    return AlreadyExists("RESOURCE_EXISTS", f"{client.name} exists already", resource=client.name)
