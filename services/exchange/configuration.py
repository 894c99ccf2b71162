"""What this node's subsystems provide, to whom, and how: services, rights, groups, hostings, policies.

Each process holds a copy in memory and follows the database. Whoever must not
go by an old copy compares revisions (`Journal.append` tells the one in force).
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from solmu.exchange.v1 import access_rights_pb2, hosting_pb2, policies_pb2, services_pb2

from services.exchange import configuration_store, names, policies
from services.exchange.access import Pattern, Right
from services.exchange.policies import Policy
from services.runtime.database import PASSING, Connection, Database, Row

logger = logging.getLogger(__name__)

FOLLOW_INTERVAL = 0.5
"""Seconds between two looks at what other processes have changed."""


@dataclass(frozen=True)
class Service:
    """A service that a subsystem of this node provides."""

    identifier: str
    content: services_pb2.Service
    description_sha256: str
    create_time: datetime
    update_time: datetime
    revision: int

    @functools.cached_property
    def protocol(self) -> str:
        """As statements spell it."""
        return "grpc" if self.content.protocol == services_pb2.Service.PROTOCOL_GRPC else "http"

    @property
    def disabled(self) -> bool:
        """Whether it may not be called for the time being."""
        return self.content.state == services_pb2.Service.STATE_DISABLED

    def operations(self) -> dict[str, Pattern]:
        """Its endpoints by the ids of their operations."""
        return {
            endpoint.operation_id: Pattern(endpoint.method, endpoint.path)
            for endpoint in self.content.endpoints
            if endpoint.operation_id
        }


@dataclass(frozen=True)
class Hosting:
    """What this node has to know of a subsystem."""

    content: hosting_pb2.Hosting
    revision: int

    def takes_client(self, client: str) -> bool:
        """Whether a client may speak in the subsystem's name."""
        return client in self.content.clients

    def takes_certificate(self, sha256: str, *, now: datetime) -> bool:
        """Whether who opened its connection with a certificate may."""
        return any(
            one.sha256 == sha256 and (not one.HasField("expire_time") or one.expire_time.ToDatetime(tzinfo=UTC) > now)
            for one in self.content.certificates
        )


@dataclass(frozen=True)
class Snapshot:
    """The configuration of one revision. Identifiers are spelt with "/"."""

    revision: int
    services: Mapping[str, Service] = field(default_factory=dict)
    rights: Mapping[str, tuple[Right, ...]] = field(default_factory=dict)
    """By parent: "services", "topics" or "inbox", a space, and the identifier."""
    right_rows: tuple[Row, ...] = ()
    groups: Mapping[tuple[str, str], tuple[access_rights_pb2.LocalGroup, int]] = field(default_factory=dict)
    """By subsystem and code: the group and its revision."""
    hostings: Mapping[str, Hosting] = field(default_factory=dict)
    policies: Mapping[str, Policy] = field(default_factory=dict)
    policy_rows: Mapping[str, Row] = field(default_factory=dict)
    maintenance: hosting_pb2.Maintenance = field(default_factory=hosting_pb2.Maintenance)

    def hosting(self, subsystem: str) -> Hosting:
        """What is known of a subsystem; nothing where nothing was set."""
        return self.hostings.get(subsystem) or Hosting(hosting_pb2.Hosting(), 0)

    def policy(self, name: str) -> Policy:
        """A policy by its resource name; the default one where it is empty."""
        return self.policies[name.rpartition("/")[2] or policies.DEFAULT]

    def policy_of_subsystem(self, subsystem: str) -> Policy:
        """What goes for the exchanges of a subsystem."""
        return self.policy(self.hosting(subsystem).content.policy)

    def policy_of_service(self, service: Service) -> Policy:
        """What goes for the exchanges of a service."""
        if service.content.policy:
            return self.policy(service.content.policy)
        return self.policy_of_subsystem(names.subsystem_of(service.identifier))

    def services_of(self, subsystem: str) -> list[Service]:
        """The services of a subsystem, by identifier."""
        return [service for identifier, service in self.services.items() if names.subsystem_of(identifier) == subsystem]


class Configuration:
    """The configuration of a process."""

    def __init__(self, *, database: Database) -> None:
        self._database = database
        self._loading = asyncio.Lock()
        self.current = Snapshot(0)

    async def load(self) -> Snapshot:
        """Takes the configuration as it is in the database now.

        One load goes after the other, so that none brings back what the next has replaced.
        """
        async with self._loading:
            revision = await configuration_store.revision(self._database)
            if revision != self.current.revision:
                async with self._database.transaction() as transaction:
                    await transaction.execute("set transaction isolation level repeatable read")
                    self.current = await _read(transaction)
            return self.current

    async def follow(self) -> None:
        """Loads what other processes change, for as long as the process runs."""
        while True:
            await asyncio.sleep(FOLLOW_INTERVAL)
            try:
                await self.load()
            except PASSING as error:
                logger.warning("configuration not read", extra={"error": type(error).__qualname__})


async def _read(transaction: Connection) -> Snapshot:
    revision = await configuration_store.revision(transaction)
    services = {row["identifier"]: service_of(row) for row in await configuration_store.services(transaction)}
    groups = {
        (row["subsystem"], row["code"]): (
            access_rights_pb2.LocalGroup.FromString(row["content"]),
            int(row["revision"]),
        )
        for row in await configuration_store.groups(transaction)
    }
    right_rows = tuple(await configuration_store.rights(transaction))
    rights: dict[str, list[Right]] = defaultdict(list)
    for row in right_rows:
        rights[row["parent"]].append(_right(row, services, groups))
    hostings = {
        row["subsystem"]: Hosting(hosting_pb2.Hosting.FromString(row["content"]), row["revision"])
        for row in await configuration_store.hostings(transaction)
    }
    policy_rows = {row["policy_id"]: row for row in await configuration_store.policies(transaction)}
    maintenance = await configuration_store.maintenance(transaction)
    return Snapshot(
        revision,
        services,
        {parent: tuple(found) for parent, found in rights.items()},
        right_rows,
        groups,
        hostings,
        {policy_id: policy_of(row) for policy_id, row in policy_rows.items()},
        policy_rows,
        hosting_pb2.Maintenance.FromString(maintenance or b""),
    )


def service_of(row: Row) -> Service:
    """A service from its row."""
    return Service(
        row["identifier"],
        services_pb2.Service.FromString(row["content"]),
        row["description_sha256"] or "",
        row["create_time"],
        row["update_time"],
        row["revision"],
    )


def policy_of(row: Row) -> Policy:
    """A policy from its row."""
    return Policy(row["policy_id"], row["revision"], policies_pb2.ExchangePolicy.FromString(row["content"]))


def _right(
    row: Row,
    services: Mapping[str, Service],
    groups: Mapping[tuple[str, str], tuple[access_rights_pb2.LocalGroup, int]],
) -> Right:
    content = access_rights_pb2.AccessRight.FromString(row["content"])
    patterns = [Pattern(pattern.method, pattern.path) for pattern in content.patterns]
    if content.operation_ids:
        kind, _, identifier = row["parent"].partition(" ")
        service = services.get(identifier) if kind == "services" else None
        operations = service.operations() if service is not None else {}
        patterns += [operations[one] for one in content.operation_ids if one in operations]
    if not patterns and content.operation_ids:
        subjects: frozenset[str] = frozenset()  # of operations that are gone nothing is left
    else:
        subjects = frozenset(_subjects(content, groups))
    return Right(
        right_name(row),
        subjects,
        tuple(patterns),
        content.expire_time.ToDatetime(tzinfo=UTC) if content.HasField("expire_time") else None,
    )


def _subjects(
    content: access_rights_pb2.AccessRight,
    groups: Mapping[tuple[str, str], tuple[access_rights_pb2.LocalGroup, int]],
) -> list[str]:
    kind = content.WhichOneof("subject")
    if kind == "subsystem":
        return [names.identifier(content.subsystem, 4)]
    if kind == "global_group":
        parts = content.global_group.split("/")
        return [f"group {parts[1]}/{parts[3]}"]
    parts = content.local_group.split("/")
    found = groups.get((parts[1].replace("~", "/"), parts[3]))
    return [names.identifier(subsystem, 4) for subsystem in found[0].subsystems] if found is not None else []


def parent_of(name: str) -> str:
    """What a right is to, as rights are kept by it: from the name of a service, topic or inbox, or of a right."""
    parts = name.split("/")
    if parts[2] == "inbox":
        return f"inbox {names.identifier(name, 4)}"
    return f"{parts[2]} {names.service(name)}"


def right_name(row: Row) -> str:
    """The resource name of a right."""
    kind, _, identifier = row["parent"].partition(" ")
    subsystem = names.resource("subsystems", names.subsystem_of(identifier))
    if kind == "inbox":
        return f"{subsystem}/inbox/accessRights/{row['access_right_id']}"
    code = identifier[len(names.subsystem_of(identifier)) + 1 :].replace("/", "~")
    return f"{subsystem}/{kind}/{code}/accessRights/{row['access_right_id']}"
