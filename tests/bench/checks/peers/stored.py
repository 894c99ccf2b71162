"""The facts that concern questions, for engines that hold none: from PostgreSQL, as who asks would keep them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import asyncpg

from services.runtime import tls
from services.runtime.facts.rules import Kind
from tests.bench.checks import world
from tests.bench.checks.peers.slices import Concerning
from tests.bench.checks.world import Asked, Given

POOL = 8

_TABLE = """
create table given (
    number    bigint  not null,
    delegate  text    not null,
    principal text    not null,
    kind      integer not null,
    revoked   boolean not null
)"""
_INDEXES = """
create index on given (delegate, principal);
create index on given (principal, delegate)
"""
_FIND = """
with represented as (select * from given where delegate = $1 and kind = $3)
select * from represented
union all
select * from given where principal = any($2) and kind <> $3
   and (delegate = $1 or delegate in (select principal from represented))"""


class Stored:
    """Mandates in a database of their own, over TLS: one statement for a call, so that each sees what is committed."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    @classmethod
    async def lay(cls, address: str, files: tls.Files, size: int) -> Stored:
        """Mandates laid."""
        pool = await asyncpg.create_pool(address, ssl=tls.client_context(files), min_size=1, max_size=POOL)
        rows = ((one.number, one.delegate, one.principal, one.kind, one.revoked) for one in world.mandates(0, size))
        await pool.execute(_TABLE)
        await pool.copy_records_to_table("given", records=rows, timeout=600)
        await pool.execute(_INDEXES, timeout=600)
        await pool.execute("analyze given", timeout=600)
        return cls(pool)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._pool.close()

    async def of(self, questions: Sequence[Asked]) -> list[Concerning]:
        """What concerns each of one delegate's questions."""
        principals = list({question.principal for question in questions})
        acts, represents = defaultdict[str, list[Given]](list), list[Given]()
        for number, delegate, principal, kind, revoked in await self._pool.fetch(
            _FIND, questions[0].delegate, principals, int(Kind.REPRESENT)
        ):
            one = Given(number, principal, delegate, Kind(kind), revoked)
            (represents if one.kind is Kind.REPRESENT else acts[principal]).append(one)
        return [(acts[question.principal], represents) for question in questions]
