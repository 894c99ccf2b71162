"""Lays a million mandates as the service would have made them, in a minute.

One mandate of each shape is made by the service's own rules and written by its
own store; the others are copies of its rows in which the parties are exchanged.
`tests/integration/authorisations/test_loading.py` holds a copy to rows that the
service made. What is not laid is what only the service's callers see: the audit
record, events, and the memory of requests.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import asyncpg
from solmu.authorisations.v1.themes_pb2 import Theme as ThemeMessage

from services.authorisations import confirming, days, mandate_store, mandates, messages, revision_store
from services.authorisations.mandates import Actor
from services.authorisations.theme_store import ThemeStore
from services.authorisations.themes import State, Theme
from services.runtime.facts.rules import Kind
from services.runtime.facts.wire import rules_in
from tests.bench.checks.world import DAYS, LAID, REVOKED, Given

CHUNK = 10_000
"""Mandates copied in one statement."""

ZONE = ZoneInfo("Europe/Helsinki")
PRINCIPAL, DELEGATE = f"organisations/{'template' * 3}pr", f"persons/{'template' * 3}de"

_COPY = """
with new as (
    select * from unnest($1::uuid[], $2::text[], $3::text[]) as new (id, principal, delegate)
), laid as (
    insert into mandate (mandate_id, kind, principal, delegate, theme_id, specifier, first_day, last_day, start_time,
                         end_time, stored, rule, confirmers, confirm_until, requested_by, group_id, create_time,
                         update_time, confirmations, confirm_time, ending, issued_under, renews, revision,
                         held_from, held_until)
    select new.id, t.kind, new.principal, new.delegate, t.theme_id, t.specifier, t.first_day, t.last_day, t.start_time,
           t.end_time, t.stored, replace(t.rule::text, $5, new.principal)::jsonb, array[new.principal],
           t.confirm_until, replace(t.requested_by::text, $5, new.principal)::jsonb, new.id, t.create_time,
           t.update_time, replace(t.confirmations::text, $5, new.principal)::jsonb, t.confirm_time,
           replace(t.ending::text, $5, new.principal)::jsonb, null, null, t.revision, t.held_from, t.held_until
      from new, mandate t where t.mandate_id = $4
)
insert into mandate_event (mandate_id, number, happening, time, state, actor, renewed_by, ending)
select new.id, e.number, e.happening, e.time, e.state, replace(e.actor::text, $5, new.principal)::jsonb, null,
       replace(e.ending::text, $5, new.principal)::jsonb
  from new, mandate_event e where e.mandate_id = $4"""


async def lay_theme(connection: asyncpg.Connection, theme_id: str) -> None:
    """A theme in use, in which all may be given."""
    terms = [ThemeMessage.LongestTerm(kind=kind, months=60) for kind in (Kind.ACT, Kind.REPRESENT)]  # type: ignore[arg-type]
    document = messages.theme_document(ThemeMessage(longest_terms=terms), theme_id=theme_id)
    theme = Theme(
        theme_id=theme_id,
        uri=ThemeMessage.FromString(document).uri,
        owner=PRINCIPAL,
        document=document,
        rules=rules_in(document),
        state=State.ACTIVE,
        create_time=LAID,
        update_time=LAID,
        activate_time=LAID,
    )
    await ThemeStore(rules_in).insert(connection, theme)  # type: ignore[arg-type]


async def lay(
    connection: asyncpg.Connection, given: Iterable[Given], *, theme_id: str, at: datetime = LAID, period: int = DAYS
) -> None:
    """Lays mandates that their principals gave at an instant, until a day so many days later."""
    templates = {}
    for kind, revoked in ((Kind.ACT, False), (Kind.ACT, True), (Kind.REPRESENT, False)):
        async with connection.transaction():
            templates[kind, revoked] = await _template(
                connection, kind, theme_id=theme_id, at=at, period=period, revoked_at=REVOKED if revoked else None
            )
    rest = iter(given)
    while chunk := list(islice(rest, CHUNK)):
        for shape, template in templates.items():
            alike = [one for one in chunk if (one.kind, one.revoked) == shape]
            columns = [uuid.uuid4() for _ in alike], [one.principal for one in alike], [one.delegate for one in alike]
            await connection.execute(_COPY, *columns, template, PRINCIPAL, timeout=600)
    for table in ("mandate_event", "mandate"):
        await connection.execute(f"delete from {table} where mandate_id = any($1)", list(templates.values()))
    await connection.execute("analyze mandate")


async def announce(connection: asyncpg.Connection) -> None:
    """Makes a revision whose changes are not kept: whoever follows the facts begins anew with a snapshot."""
    async with connection.transaction():
        await revision_store.advance(connection, now=LAID)  # type: ignore[arg-type]
        head = await revision_store.advance(connection, now=LAID)  # type: ignore[arg-type]
        await connection.execute("delete from fact_change")
        await revision_store.keep(connection, head, [b""])  # type: ignore[arg-type]


async def _template(
    connection: asyncpg.Connection,
    kind: Kind,
    *,
    theme_id: str,
    at: datetime,
    period: int,
    revoked_at: datetime | None,
) -> uuid.UUID:
    """A mandate that a principal gave, and where it is so took back."""
    last = (at.astimezone(ZONE).date() + timedelta(days=period)).isoformat()
    actor = Actor(party=PRINCIPAL, client="clients/test-system")
    mandate, events = mandates.requested(
        mandate_id=uuid.uuid4(),
        kind=kind,
        principal=PRINCIPAL,
        delegate=DELEGATE,
        theme_id=theme_id,
        specifier="",
        period=days.mandate_period("", last, now=at, zone=ZONE),
        rule=confirming.rule(confirming.Standing(principal=PRINCIPAL)),
        actor=actor,
        group_id=uuid.uuid4(),
        now=at,
    )
    if revoked_at is not None:
        mandate, ended = mandates.revoked(mandate, actor=actor, entitled=frozenset(), etag="", now=revoked_at)
        events = (*events, *ended)
    await mandate_store.insert(connection, mandate)  # type: ignore[arg-type]
    await mandate_store.append(connection, mandate.mandate_id, events)  # type: ignore[arg-type]
    return mandate.mandate_id
