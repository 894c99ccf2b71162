"""Clients from registration to revocation, in the database."""

import asyncio
from datetime import UTC
from typing import Any

import pytest
from solmu.authorisations.v1.audit_pb2 import AuditRecord, SearchAuditRecordsRequest
from solmu.authorisations.v1.clients_pb2 import (
    Client,
    GetClientRequest,
    ListClientsRequest,
    RevokeClientRequest,
    UpdateClientRequest,
)
from solmu.authorisations.v1.events_pb2 import ClientRevoked

from services.runtime.errors import Aborted, AlreadyExists, FailedPrecondition, Fault, InvalidArgument, NotFound
from tests.integration.authorisations.service import Service, calls_as


def update(client: Client, *paths: str, **fields: Any) -> UpdateClientRequest:
    request = UpdateClientRequest(client=Client(name=client.name, **fields))
    request.update_mask.paths.extend(paths)
    return request


async def revocation_events(service: Service, client: Client) -> list[ClientRevoked]:
    rows = await service.database.fetch(
        "select payload from outbox where type = $1", ClientRevoked.DESCRIPTOR.full_name
    )
    events = [ClientRevoked.FromString(row["payload"]) for row in rows]
    return [event for event in events if event.client == client.name]


async def test_what_is_registered_is_read_back(service: Service) -> None:
    created = await service.register(scopes=["messages.send", "messages.read"])
    assert created == await service.clients.GetClient(GetClientRequest(name=created.name))
    assert created.state == Client.STATE_ACTIVE
    assert created.party.startswith("organisations/")
    assert list(created.scopes) == ["messages.read", "messages.send"]
    assert created.certificate_uri == f"spiffe://solmu/{created.name.replace('clients', 'client')}"
    assert created.create_time == created.update_time
    assert not created.HasField("revoke_time")


async def test_an_id_is_given_once_even_after_revocation(service: Service) -> None:
    client = await service.register()
    await service.clients.RevokeClient(RevokeClientRequest(name=client.name))
    with pytest.raises(AlreadyExists) as refusal:
        await service.register(client.name.removeprefix("clients/"))
    assert refusal.value.reason == "RESOURCE_EXISTS"


async def test_a_certificate_uri_is_given_once(service: Service) -> None:
    first = await service.register(certificate_uri="https://partner.example/systems/1")
    with pytest.raises(AlreadyExists) as refusal:
        await service.register(certificate_uri=first.certificate_uri)
    assert refusal.value.reason == "CERTIFICATE_URI_TAKEN"
    other = await service.register()
    with pytest.raises(AlreadyExists):
        await service.clients.UpdateClient(update(other, certificate_uri=first.certificate_uri))


async def test_an_unknown_scope_registers_nothing(service: Service) -> None:
    before = await service.database.fetchval("select count(*) from client")
    with pytest.raises(InvalidArgument):
        await service.register(scopes=["messages.send", "no.such"])
    assert await service.database.fetchval("select count(*) from client") == before


async def test_the_identity_code_of_the_owner_is_stored_nowhere(service: Service) -> None:
    await service.register()
    rows = await service.database.fetch("select client::text as line from client")
    assert not any("0201256" in row["line"] for row in rows)


async def test_a_client_that_is_not_there_is_not_found(service: Service) -> None:
    nobody = Client(name="clients/nobody-here")
    for call in (
        service.clients.GetClient(GetClientRequest(name=nobody.name)),
        service.clients.UpdateClient(update(nobody, display_name="New")),
        service.clients.RevokeClient(RevokeClientRequest(name=nobody.name)),
    ):
        with pytest.raises(NotFound) as refusal:
            await call
        assert refusal.value.metadata == {"resource": nobody.name}


async def pages_of(service: Service, **fields: Any) -> list[list[str]]:
    pages, token = [], ""
    while True:
        request = ListClientsRequest(page_token=token, **fields)
        response = await service.clients.ListClients(request)
        pages.append([client.name for client in response.clients])
        token = response.next_page_token
        if not token:
            return pages


async def test_pages_hold_every_client_once_and_in_order(service: Service) -> None:
    await service.database.execute("truncate client")
    names = [(await service.register()).name for _ in range(7)]
    assert await pages_of(service, page_size=3) == [names[:3], names[3:6], names[6:]]
    assert await pages_of(service, page_size=7) == [names]
    assert await pages_of(service) == [names]


async def test_revoked_clients_are_listed_on_demand(service: Service) -> None:
    await service.database.execute("truncate client")
    kept, revoked = await service.register(), await service.register()
    await service.clients.RevokeClient(RevokeClientRequest(name=revoked.name))
    assert await pages_of(service) == [[kept.name]]
    assert await pages_of(service, show_revoked=True) == [[kept.name, revoked.name]]


async def test_a_page_token_of_another_list_is_refused(service: Service) -> None:
    await service.register()
    await service.register()
    first = await service.clients.ListClients(ListClientsRequest(page_size=1))
    for token, show_revoked in (
        (first.next_page_token, True),
        ("nonsense", False),
        (first.next_page_token[:-2], False),
    ):
        with pytest.raises(InvalidArgument) as refusal:
            await service.clients.ListClients(ListClientsRequest(page_token=token, show_revoked=show_revoked))
        assert refusal.value.reason == "NAME_INVALID"


async def test_an_update_changes_what_the_mask_names(service: Service) -> None:
    client = await service.register()
    changed = await service.clients.UpdateClient(update(client, "scopes", display_name="Ignored"))
    assert list(changed.scopes) == []
    assert changed.display_name == "Case system"
    assert changed.etag != client.etag
    assert changed.update_time.ToDatetime(UTC) > client.update_time.ToDatetime(UTC)
    assert changed == await service.clients.GetClient(GetClientRequest(name=client.name))


async def test_where_people_are_sent_back_to_is_read_back_and_changed(service: Service) -> None:
    client = await service.register(redirect_uris=["https://portal.example/back"])
    assert await service.clients.GetClient(GetClientRequest(name=client.name)) == client
    changed = await service.clients.UpdateClient(update(client, "redirect_uris"))
    assert list(changed.redirect_uris) == []
    assert changed == await service.clients.GetClient(GetClientRequest(name=client.name))


async def test_an_update_to_what_is_there_keeps_the_etag(service: Service) -> None:
    client = await service.register()
    assert await service.clients.UpdateClient(UpdateClientRequest(client=client)) == client


async def test_of_two_updates_of_one_state_one_is_refused(service: Service) -> None:
    client = await service.register()

    async def attempt(text: str) -> Client | Fault:
        try:
            return await service.clients.UpdateClient(update(client, display_name=text, etag=client.etag))
        except Fault as refusal:
            return refusal

    outcomes = await asyncio.gather(*(attempt(f"name {number}") for number in range(8)))
    refusals = [outcome for outcome in outcomes if isinstance(outcome, Fault)]
    assert len(refusals) == 7
    assert {(type(refusal), refusal.reason) for refusal in refusals} == {(Aborted, "ETAG_MISMATCH")}


async def test_a_revocation_and_its_event_commit_together(service: Service) -> None:
    client = await service.register()
    revoked = await service.clients.RevokeClient(RevokeClientRequest(name=client.name, etag=client.etag))
    assert revoked.state == Client.STATE_REVOKED
    (event,) = await revocation_events(service, client)
    assert event.revoke_time == revoked.revoke_time
    await service.revocations.load()
    assert service.revocations.revoked(client.name.removeprefix("clients/"))


async def test_every_change_of_a_client_stands_in_the_record_with_who_made_it(service: Service) -> None:
    calls_as("organisations/" + "b" * 26, client="operator")
    client = await service.register()
    await service.clients.UpdateClient(update(client, "display_name", display_name="New"))
    await service.clients.UpdateClient(update(client, "display_name", display_name="New"))
    with pytest.raises(Aborted):
        await service.clients.RevokeClient(RevokeClientRequest(name=client.name, etag="0"))
    await service.clients.RevokeClient(RevokeClientRequest(name=client.name))
    await service.clients.RevokeClient(RevokeClientRequest(name=client.name))
    search = SearchAuditRecordsRequest(resource=client.name, kinds=[AuditRecord.KIND_CLIENT], purpose="test")
    records = (await service.audit.SearchAuditRecords(search)).records
    assert [record.method.rpartition("/")[2] for record in records] == ["RevokeClient", "UpdateClient", "CreateClient"]
    assert {record.actor.client for record in records} == {"clients/operator"}
    assert {record.parties[0].name for record in records} == {client.party}


async def test_a_revocation_that_is_refused_leaves_nothing(service: Service) -> None:
    client = await service.register()
    with pytest.raises(Aborted):
        await service.clients.RevokeClient(RevokeClientRequest(name=client.name, etag="older"))
    assert await revocation_events(service, client) == []
    assert await service.clients.GetClient(GetClientRequest(name=client.name)) == client


async def test_revoking_again_changes_nothing_and_says_nothing(service: Service) -> None:
    client = await service.register()
    requests = [RevokeClientRequest(name=client.name) for _ in range(5)]
    answers = await asyncio.gather(*(service.clients.RevokeClient(request) for request in requests))
    assert all(answer == answers[0] for answer in answers)
    assert len(await revocation_events(service, client)) == 1


async def test_a_revoked_client_stays_as_it_is(service: Service) -> None:
    client = await service.register()
    await service.clients.RevokeClient(RevokeClientRequest(name=client.name))
    with pytest.raises(FailedPrecondition) as refusal:
        await service.clients.UpdateClient(update(client, display_name="New"))
    assert refusal.value.reason == "CLIENT_IS_REVOKED"
