"""Clients that the deployment declares, brought into the database at every start."""

import asyncio
import logging
from dataclasses import replace
from datetime import timedelta

import pytest
from solmu.authorisations.v1.audit_pb2 import AuditRecord, SearchAuditRecordsRequest
from solmu.authorisations.v1.clients_pb2 import GetClientRequest, RevokeClientRequest

from services.authorisations import declared, store
from services.authorisations.clients import Client
from services.runtime.config import ConfigError
from tests.integration.authorisations.service import Service, calls_as_operator, new_id
from tests.unit.authorisations.builders import NOW, client

LATER = NOW + timedelta(days=1)


async def stored(service: Service, declared_client: Client) -> Client:
    found = await store.find(service.database, declared_client.client_id)
    assert found is not None
    return found


async def test_a_declared_client_gets_tokens(service: Service) -> None:
    operator = client(new_id())
    await declared.apply(service.database, [operator], audit=service.audit_log)
    assert await stored(service, operator) == operator
    registered = await service.clients.GetClient(GetClientRequest(name=operator.name))
    assert (await service.issue(registered)).access_token


async def test_a_second_start_changes_nothing(service: Service) -> None:
    operator = client(new_id())
    await declared.apply(service.database, [operator], audit=service.audit_log)
    await declared.apply(
        service.database, [replace(operator, create_time=LATER, update_time=LATER)], audit=service.audit_log
    )
    assert await stored(service, operator) == operator


async def test_a_changed_declaration_changes_the_client(service: Service) -> None:
    operator = client(new_id())
    await declared.apply(service.database, [operator], audit=service.audit_log)
    back = ("https://portal.example/back",)
    changed = replace(operator, scopes=("messages.read",), redirect_uris=back, create_time=LATER, update_time=LATER)
    await declared.apply(service.database, [changed], audit=service.audit_log)
    assert await stored(service, operator) == replace(changed, create_time=NOW, revision=2)


async def test_what_the_deployment_changes_stands_in_the_record(service: Service) -> None:
    operator = client(new_id())
    for declaration in (operator, operator, replace(operator, scopes=("messages.read",))):
        await declared.apply(service.database, [declaration], audit=service.audit_log)
    calls_as_operator()
    search = SearchAuditRecordsRequest(resource=operator.name, kinds=[AuditRecord.KIND_CLIENT], purpose="test")
    records = (await service.audit.SearchAuditRecords(search)).records
    assert [record.actor.client for record in records] == ["services/authorisations"] * 2


async def test_a_revoked_client_stays_revoked(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    operator = client(new_id())
    calls_as_operator()
    await declared.apply(service.database, [operator], audit=service.audit_log)
    await service.clients.RevokeClient(RevokeClientRequest(name=operator.name))
    revoked = await stored(service, operator)
    with caplog.at_level(logging.WARNING):
        await declared.apply(
            service.database, [replace(operator, display_name="Back again", update_time=LATER)], audit=service.audit_log
        )
    assert await stored(service, operator) == revoked
    assert "stay revoked" in caplog.text


async def test_processes_that_start_together_do_not_hinder_each_other(service: Service) -> None:
    clients = [client(new_id()) for _ in range(20)]
    await asyncio.gather(
        *(declared.apply(service.database, clients[::step], audit=service.audit_log) for step in (1, -1, 1, -1))
    )
    assert [await stored(service, each) for each in clients] == clients


async def test_a_uri_that_another_client_has_ends_the_start_and_declares_nothing(service: Service) -> None:
    taken = await service.register(certificate_uri="https://partner.example/systems/2")
    first, second = client("a-first-one"), client(new_id(), certificate_uri=taken.certificate_uri)
    with pytest.raises(ConfigError, match="another client"):
        await declared.apply(service.database, [first, second], audit=service.audit_log)
    assert await store.find(service.database, first.client_id) is None
