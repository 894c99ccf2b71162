"""PolicyService."""

from __future__ import annotations

from google.protobuf.message import Message
from solmu.exchange.v1 import policies_pb2, services_pb2

from services.exchange import configuration_store, policies
from services.exchange.configuration import Configuration, Snapshot
from services.exchange.servicers.masks import check_etag, merge
from services.runtime import pages
from services.runtime.database import Database, Row
from services.runtime.errors import AlreadyExists, FailedPrecondition, not_found

OUTPUT = ("name", "revision", "create_time", "update_time", "etag")
CHANGEABLE = tuple(field.name for field in policies_pb2.ExchangePolicy.DESCRIPTOR.fields if field.name not in OUTPUT)


class Policies:
    """Keeps exchange policies with all their revisions."""

    def __init__(self, *, database: Database, configuration: Configuration) -> None:
        self._database = database
        self._configuration = configuration

    async def CreateExchangePolicy(
        self, request: policies_pb2.CreateExchangePolicyRequest
    ) -> policies_pb2.ExchangePolicy:
        """Makes a policy."""
        content = _content(request.exchange_policy)
        policies.check(content)
        async with configuration_store.changing(self._database) as transaction:
            made = await configuration_store.insert_policy(
                transaction, request.exchange_policy_id, content.SerializeToString()
            )
        name = f"exchangePolicies/{request.exchange_policy_id}"
        if not made:
            raise AlreadyExists("RESOURCE_EXISTS", "there is a policy of this name", resource=name)
        return await self._current(name)

    async def GetExchangePolicy(self, request: policies_pb2.GetExchangePolicyRequest) -> policies_pb2.ExchangePolicy:
        """A policy, or a revision of it."""
        if not request.revision:
            return await self._current(request.name)
        row = await configuration_store.policy_revision(
            self._database, request.name.rpartition("/")[2], request.revision
        )
        if row is None:
            raise not_found(request.name)
        return _view(row)

    async def ListExchangePolicies(
        self, request: policies_pb2.ListExchangePoliciesRequest
    ) -> policies_pb2.ListExchangePoliciesResponse:
        """Policies, by name."""
        size, after = pages.size(request.page_size), pages.key(request.page_token, question="")
        rows = (await self._configuration.load()).policy_rows
        found = [policy_id for policy_id in sorted(rows) if policy_id > after]
        response = policies_pb2.ListExchangePoliciesResponse(
            exchange_policies=[_view(rows[policy_id]) for policy_id in found[:size]]
        )
        if len(found) > size:
            response.next_page_token = pages.token(found[size - 1], question="")
        return response

    async def UpdateExchangePolicy(
        self, request: policies_pb2.UpdateExchangePolicyRequest
    ) -> policies_pb2.ExchangePolicy:
        """Makes the next revision of a policy."""
        current = await self._current(request.exchange_policy.name)
        check_etag(request.exchange_policy.etag, current.revision)
        content = _content(current)
        merge(content, request.exchange_policy, request.update_mask, changeable=CHANGEABLE)
        policies.check(content)
        async with configuration_store.changing(self._database) as transaction:
            await configuration_store.set_policy(
                transaction, current.name.rpartition("/")[2], content.SerializeToString()
            )
        return await self._current(current.name)

    async def DeleteExchangePolicy(
        self, request: policies_pb2.DeleteExchangePolicyRequest
    ) -> policies_pb2.ExchangePolicy:
        """Deletes a policy by which nothing goes."""
        policy = await self._current(request.name)
        if policy.name == f"exchangePolicies/{policies.DEFAULT}" or _used(self._configuration.current, policy.name):
            raise FailedPrecondition("POLICY_IN_USE", "something goes by the policy")
        async with configuration_store.changing(self._database) as transaction:
            await configuration_store.delete_policy(transaction, policy.name.rpartition("/")[2])
        await self._configuration.load()
        return policy

    async def _current(self, name: str) -> policies_pb2.ExchangePolicy:
        row = (await self._configuration.load()).policy_rows.get(name.rpartition("/")[2])
        if row is None:
            raise not_found(name)
        return _view(row)


def _used(current: Snapshot, name: str) -> bool:
    contents: list[services_pb2.Service | object] = [service.content for service in current.services.values()]
    contents += [hosting.content for hosting in current.hostings.values()]
    return any(getattr(content, "policy", "") == name for content in contents)


def _content(policy: Message) -> policies_pb2.ExchangePolicy:
    content = policies_pb2.ExchangePolicy()
    content.MergeFrom(policy)  # type: ignore[arg-type]  # a policy
    for name in OUTPUT:
        content.ClearField(name)  # type: ignore[arg-type]  # one of OUTPUT
    return content


def _view(row: Row) -> policies_pb2.ExchangePolicy:
    shown = policies_pb2.ExchangePolicy.FromString(row["content"])
    shown.name = f"exchangePolicies/{row['policy_id']}"
    shown.revision = row["revision"]
    shown.create_time.FromDatetime(row["create_time"])
    shown.update_time.FromDatetime(row["update_time"])
    shown.etag = str(row["revision"])
    return shown
