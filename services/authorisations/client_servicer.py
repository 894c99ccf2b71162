"""ClientService: registers information systems, and takes their access away."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from solmu.authorisations.v1 import clients_pb2

from services.authorisations import callers, clients, events, messages, store, translate
from services.authorisations.audit_log import AuditLog
from services.authorisations.clients import Client, Rules
from services.runtime import pages
from services.runtime.database import Connection, Database
from services.runtime.errors import not_found
from services.runtime.outbox import Outbox
from services.runtime.parties import PartyNames
from services.runtime.revocations import Revocations


class ClientServicer:
    """Answers ClientService. `clock` gives the time, with its zone."""

    def __init__(
        self,
        *,
        database: Database,
        outbox: Outbox,
        revocations: Revocations,
        parties: PartyNames,
        rules: Rules,
        audit: AuditLog,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._revocations = revocations
        self._parties = parties
        self._rules = rules
        self._audit = audit
        self._clock = clock

    async def CreateClient(self, request: clients_pb2.CreateClientRequest) -> clients_pb2.Client:
        """Registers a client."""
        client = translate.client_to_register(request, parties=self._parties, rules=self._rules, now=self._clock())
        async with self._database.transaction() as transaction:
            await store.insert(transaction, client)
            await self._record(transaction, "CreateClient", client)
        return translate.client_message(client)

    async def GetClient(self, request: clients_pb2.GetClientRequest) -> clients_pb2.Client:
        """Returns a client."""
        client = await store.find(self._database, _id(request.name))
        if client is None:
            raise not_found(request.name)
        return translate.client_message(client)

    async def ListClients(self, request: clients_pb2.ListClientsRequest) -> clients_pb2.ListClientsResponse:
        """Returns a page of clients."""
        question = f"clients {request.show_revoked}"
        size = pages.size(request.page_size)
        after = pages.key(request.page_token, question=question)
        found = await store.page(self._database, after=after, size=size + 1, show_revoked=request.show_revoked)
        shown = found[:size]
        return clients_pb2.ListClientsResponse(
            clients=[translate.client_message(client) for client in shown],
            next_page_token=pages.token(shown[-1].client_id, question=question) if len(found) > size else "",
        )

    async def UpdateClient(self, request: clients_pb2.UpdateClientRequest) -> clients_pb2.Client:
        """Changes a client."""
        changes = translate.changes(request)
        async with self._database.transaction() as transaction:
            client = await store.find_for_update(transaction, _id(request.client.name))
            if client is None:
                raise not_found(request.client.name)
            fresh = clients.changed(client, changes, etag=request.client.etag, rules=self._rules, now=self._clock())
            if fresh is not client:
                await store.update(transaction, fresh)
                await self._record(transaction, "UpdateClient", fresh)
        return translate.client_message(fresh)

    async def RevokeClient(self, request: clients_pb2.RevokeClientRequest) -> clients_pb2.Client:
        """Revokes a client, here at once and elsewhere by the event that commits with it."""
        async with self._database.transaction() as transaction:
            client = await store.find_for_update(transaction, _id(request.name))
            if client is None:
                raise not_found(request.name)
            fresh = clients.revoked(client, etag=request.etag, now=self._clock())
            if fresh is not client:
                assert fresh.revoke_time is not None
                await store.update(transaction, fresh)
                await store.refuse_tokens(transaction, fresh.client_id, revoke_time=fresh.revoke_time)
                await self._outbox.append(transaction, [events.client_revoked(fresh)])
                await self._record(transaction, "RevokeClient", fresh)
        self._outbox.wake()
        await self._revocations.look()
        return translate.client_message(fresh)

    async def _record(self, transaction: Connection, method: str, client: Client) -> None:
        record = translate.client_record(method, client, actor=messages.actor(callers.actor()))
        await self._audit.record([record], writer=transaction)


def _id(name: str) -> str:
    return name.removeprefix("clients/")
