"""SpiceDB: its library in the process, over the node's PostgreSQL, with a caveat for the time in which a mandate holds.

Asked for full consistency, which is what a check of the node gives; its default
answers from a snapshot that may be seconds old.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import asyncpg
from authzed.api.v1 import (
    CheckBulkPermissionsRequest,
    CheckBulkPermissionsRequestItem,
    CheckPermissionRequest,
    CheckPermissionResponse,
    Consistency,
    ObjectReference,
    SubjectReference,
)
from google.protobuf.struct_pb2 import Struct
from spicedb_embedded import EmbeddedSpiceDB, StartOptions

from services.runtime import tls
from services.runtime.facts.rules import Kind
from tests.bench.checks import world
from tests.bench.checks.measuring import Figures, measure
from tests.bench.checks.peers.running import run
from tests.bench.checks.world import Asked, Given

SCHEMA = """
caveat in_force(start timestamp, end timestamp, now timestamp) { start <= now && now < end }
definition persons {}
definition organisations {
    relation delegate: persons with in_force
    relation firm: organisations with in_force
    relation representative: persons with in_force
    permission represent = representative
    permission act = delegate + firm->represent
}
"""

CHUNK = 50_000

# The tables that this release of SpiceDB expects, without the way that its migrations take to them.
TABLES = """
create table alembic_version (version_num varchar not null);
insert into alembic_version values ('populate-schema-tables');
create table metadata (unique_id varchar primary key);
insert into metadata values (gen_random_uuid()::text);
create table relation_tuple_transaction (
    timestamp timestamp not null default (now() at time zone 'UTC'),
    xid xid8 not null default pg_current_xact_id() primary key,
    snapshot pg_snapshot not null default pg_current_snapshot(),
    metadata jsonb not null default '{}'
);
create index on relation_tuple_transaction (timestamp);
insert into relation_tuple_transaction (timestamp) values (to_timestamp(0));
create table namespace_config (
    namespace varchar not null,
    serialized_config bytea not null,
    created_xid xid8 not null default pg_current_xact_id(),
    deleted_xid xid8 not null default '9223372036854775807',
    primary key (namespace, created_xid, deleted_xid),
    unique (namespace, deleted_xid)
);
create table caveat (
    name varchar not null,
    definition bytea not null,
    created_xid xid8 not null default pg_current_xact_id(),
    deleted_xid xid8 not null default '9223372036854775807',
    primary key (name, deleted_xid),
    unique (name, created_xid, deleted_xid)
);
create table relation_tuple (
    namespace varchar not null,
    object_id varchar not null,
    relation varchar not null,
    userset_namespace varchar not null,
    userset_object_id varchar not null,
    userset_relation varchar not null,
    caveat_name varchar,
    caveat_context jsonb,
    created_xid xid8 not null default pg_current_xact_id(),
    deleted_xid xid8 not null default '9223372036854775807',
    expiration timestamptz,
    primary key (namespace, object_id, relation, userset_namespace, userset_object_id, userset_relation,
                 created_xid, deleted_xid),
    unique (namespace, object_id, relation, userset_namespace, userset_object_id, userset_relation, deleted_xid)
);
create index on relation_tuple (userset_object_id, userset_namespace, userset_relation, namespace, relation);
create index on relation_tuple (namespace, relation, userset_namespace)
    include (userset_object_id, userset_relation, caveat_name, caveat_context)
    where deleted_xid = '9223372036854775807'::xid8;
create table relationship_counter (
    name varchar primary key,
    serialized_filter bytea not null,
    current_count bigint not null default 0,
    updated_revision_snapshot pg_snapshot,
    created_xid xid8 not null default pg_current_xact_id(),
    deleted_xid xid8 not null default '9223372036854775807',
    unique (name, deleted_xid)
);
create table schema (
    name varchar not null,
    chunk_index int not null,
    chunk_data bytea not null,
    created_xid xid8 not null default pg_current_xact_id(),
    deleted_xid xid8 not null default '9223372036854775807',
    primary key (name, chunk_index, created_xid)
);
create table schema_revision (
    name varchar not null default 'current',
    hash bytea not null,
    created_xid xid8 not null default pg_current_xact_id(),
    deleted_xid xid8 not null default '9223372036854775807',
    primary key (name, created_xid)
);
"""

_LAY = """
insert into relation_tuple (namespace, object_id, relation, userset_namespace, userset_object_id, userset_relation,
                            caveat_name, caveat_context)
select 'organisations', object, relation, subject_type, subject, '...', 'in_force',
       jsonb_build_object('start', $5::text, 'end', until)
  from unnest($1::text[], $2::text[], $3::text[], $4::text[], $6::text[])
       as given (object, relation, subject_type, subject, until)"""


def _time(of: datetime) -> str:
    return of.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _tuple(one: Given) -> tuple[str, str, str, str, str]:
    kind, _, holder = one.delegate.partition("/")
    relation = "representative" if one.kind is Kind.REPRESENT else "delegate" if kind == "persons" else "firm"
    return one.principal.partition("/")[2], relation, kind, holder, _time(one.end)


async def _lay(connection: asyncpg.Connection, given: Iterator[Given]) -> None:
    async with connection.transaction():
        await connection.execute("insert into relation_tuple_transaction default values")
        while chunk := list(islice(given, CHUNK)):
            objects, relations, kinds, holders, ends = zip(*(_tuple(one) for one in chunk), strict=True)
            columns = objects, relations, kinds, holders, _time(world.LAID), ends
            await connection.execute(_LAY, *columns, timeout=600)
    await connection.execute("analyze relation_tuple")


class SpiceDB:
    """SpiceDB by its library's functions, as its Python package calls them."""

    def __init__(self, engine: EmbeddedSpiceDB) -> None:
        self._stub = engine.permissions()

    async def one(self, question: Asked) -> bool:
        """Whether it is allowed."""
        resource, subject = _references(question)
        request = CheckPermissionRequest(
            consistency=Consistency(fully_consistent=True),
            resource=resource,
            permission="act",
            subject=subject,
            context=_context(),
        )
        return _allows(self._stub.CheckPermission(request).permissionship)

    async def many(self, questions: Sequence[Asked]) -> list[bool]:
        """The same of a batch."""
        request = CheckBulkPermissionsRequest(consistency=Consistency(fully_consistent=True))
        for question in questions:
            resource, subject = _references(question)
            request.items.append(
                CheckBulkPermissionsRequestItem(
                    resource=resource, permission="act", subject=subject, context=_context()
                )
            )
        pairs = self._stub.CheckBulkPermissions(request).pairs
        return [_allows(pair.item.permissionship) for pair in pairs]


def _references(question: Asked) -> tuple[ObjectReference, SubjectReference]:
    resource = ObjectReference(object_type="organisations", object_id=question.principal.partition("/")[2])
    holder = ObjectReference(object_type="persons", object_id=question.delegate.partition("/")[2])
    return resource, SubjectReference(object=holder)


def _context() -> Struct:
    context = Struct()
    context["now"] = _time(datetime.now(UTC))
    return context


def _allows(permissionship: int) -> bool:
    return bool(permissionship == CheckPermissionResponse.PERMISSIONSHIP_HAS_PERMISSION)


async def _measure(arguments: argparse.Namespace) -> Figures:
    files = tls.Files(Path(arguments.certificate), Path(arguments.key), Path(arguments.authorities))
    connection = await asyncpg.connect(arguments.database, ssl=tls.client_context(files))
    laid = await connection.fetchval("select to_regclass('relation_tuple')") is not None
    if not laid:
        await connection.execute(TABLES)
    proof = f"sslmode=verify-ca&sslcert={files.certificate}&sslkey={files.key}&sslrootcert={files.authorities}"
    options = StartOptions(datastore="postgres", datastore_uri=f"{arguments.database}?{proof}")
    engine = await asyncio.to_thread(EmbeddedSpiceDB.start, None if laid else SCHEMA, [], options=options)
    try:
        begin = await connection.fetchval("select count(*) from relation_tuple")
        await _lay(connection, world.mandates(begin, arguments.size))
        return await measure(
            SpiceDB(engine),
            arguments.size,
            seconds=arguments.seconds,
            batch=arguments.batch,
            others=[int(arguments.postgres)],
        )
    finally:
        engine.close()
        await connection.close()


if __name__ == "__main__":
    run(_measure, "database", "certificate", "key", "authorities", "postgres")
