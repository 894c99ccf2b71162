"""The facts that checks rest on, from PostgreSQL: all for thousands of questions in one statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Protocol
from uuid import UUID

from services.authorisations.checking import Block, Chain, Effect, Facts, Holding, Link, Question, Window
from services.authorisations.revision_store import Head
from services.runtime.database import Connection, Database, Row

_HEAD, _THEME, _STALE, _BLOCK, _HOLDING, _CHAIN = range(6)

_HOPS = """
    hop as (
        select q.number, q.theme_id, q.at, m.principal as node, array[m.principal] as nodes,
               array[q.delegate, m.principal] as seen,
               array[m.mandate_id] as ids, array[m.specifier] as specifiers,
               array[m.held_from] as starts, array[m.held_until] as ends
          from question q
          join mandate m on m.delegate = q.delegate and m.theme_id = q.theme_id
                        and m.kind = 2 and m.held_from is not null
         where $6 or (m.held_from <= q.at and q.at < m.held_until)
        union all
        select h.number, h.theme_id, h.at, m.principal, h.nodes || m.principal, h.seen || m.principal,
               h.ids || m.mandate_id, h.specifiers || m.specifier, h.starts || m.held_from, h.ends || m.held_until
          from hop h
          join mandate m on m.delegate = h.node and m.theme_id = h.theme_id and m.kind = 2 and m.held_from is not null
         where cardinality(h.ids) < 3 and m.principal <> all (h.seen)
           and ($6 or (m.held_from <= h.at and h.at < m.held_until))
    )"""
"""Chains of mandates to represent, from each question's delegate on; three at most, and one to act follows."""

_FACTS = f"""
with recursive question as (
    select * from unnest($1::int[], $2::text[], $3::text[], $4::text[], $5::timestamptz[])
        as q (number, delegate, principal, theme_id, at)
), {_HOPS}, party as (
    select number, at, delegate as party from question
    union select number, at, principal from question
    union select number, at, node from hop
)
select {_HEAD} as sort, revision::int8 as number, null::text[] as names, null::text[] as nodes,
       null::text[] as specifiers, array[commit_time] as starts, null::timestamptz[] as ends,
       null::text as text, false as alone, 0::smallint as effect, epoch as content, null::uuid as record
  from fact_head
union all
select {_THEME}, 0, array[theme_id], null, null, null, null, null, false, 0, document, null
  from theme where theme_id = any($4) and state <> 1
union all
select {_STALE}, 0, array[register_id], contents, null, null, null, null, false, 0, null, null
  from register where greatest_age is not null and coalesce(as_of + greatest_age < $7, true)
union all
select {_BLOCK}, p.number, array['registers/' || r.register_id || '/records/' || r.record, r.subject, r.object], null,
       null, array[r.held_from], array[r.held_until], r.block, false, r.effect, null, null
  from party p join register_record r on r.subject = p.party and r.effect <> 0
 where r.held_from <= p.at and (r.held_until is null or p.at < r.held_until)
union all
select {_HOLDING}, q.number, array['registers/' || r.register_id || '/records/' || r.record], null,
       null, array[r.held_from], array[r.held_until], r.role, r.alone, 0, r.birth_day, r.record
  from question q join register_record r on r.subject = q.delegate and r.object = q.principal and r.role <> ''
 where $6 or (r.held_from <= q.at and (r.held_until is null or q.at < r.held_until))
union all
select {_CHAIN}, q.number, array[m.mandate_id::text], '{{}}', array[m.specifier],
       array[m.held_from], array[m.held_until], null, false, 0, null, null
  from question q join mandate m on m.delegate = q.delegate and m.principal = q.principal
                                and m.theme_id = q.theme_id and m.kind = 1 and m.held_from is not null
 where $6 or (m.held_from <= q.at and q.at < m.held_until)
union all
select {_CHAIN}, q.number, (h.ids || m.mandate_id)::text[], h.nodes, h.specifiers || m.specifier,
       h.starts || m.held_from, h.ends || m.held_until, null, false, 0, null, null
  from hop h join question q using (number)
  join mandate m on m.delegate = h.node and m.principal = q.principal
                and m.theme_id = q.theme_id and m.kind = 1 and m.held_from is not null
 where $6 or (m.held_from <= q.at and q.at < m.held_until)
"""


class Opens(Protocol):
    """Opens sealed days of birth."""

    def open(self, sealed: bytes, *, record: UUID) -> date:
        """The day."""


@dataclass
class Found:
    """What one statement found for all questions."""

    head: Head
    documents: dict[str, bytes] = field(default_factory=dict)
    """What each theme says."""
    stale: dict[str, frozenset[str]] = field(default_factory=dict)
    """Registers that have not spoken for longer than they may, and what they speak of."""
    facts: dict[int, Facts] = field(default_factory=dict)
    """By the number of the question; none where nothing is known."""


async def facts(
    reader: Database | Connection,
    questions: Sequence[Question],
    *,
    now: datetime,
    birth_days: Opens,
    all_times: bool = False,
) -> Found:
    """The facts that could matter to the questions; with `all_times` those that do not hold at their instant too."""
    rows = await reader.fetch(
        _FACTS,
        list(range(len(questions))),
        [question.delegate for question in questions],
        [question.principal for question in questions],
        [question.theme_id for question in questions],
        [question.at for question in questions],
        all_times,
        now,
    )
    first = next(row for row in rows if row["sort"] == _HEAD)
    found = Found(Head(first["content"], first["number"], first["starts"][0]))
    for row in rows:
        _sort(found, row, birth_days)
    return found


def _sort(found: Found, row: Row, birth_days: Opens) -> None:
    sort = row["sort"]
    if sort == _THEME:
        found.documents[row["names"][0]] = row["content"]
    elif sort == _STALE:
        found.stale[row["names"][0]] = frozenset(row["nodes"])
    elif sort == _CHAIN:
        links = zip(row["names"], row["specifiers"], row["starts"], row["ends"], strict=True)
        chain = Chain(
            tuple(Link(f"mandates/{name}", specifier, Window(start, end)) for name, specifier, start, end in links),
            tuple(row["nodes"]),
        )
        _of(found, row).chains.append(chain)
    elif sort == _HOLDING:
        sealed = row["content"]
        birth_day = birth_days.open(sealed, record=row["record"]) if sealed else None
        holding = Holding(row["names"][0], row["text"], row["alone"], _window(row), birth_day)
        _of(found, row).holdings.append(holding)
    elif sort == _BLOCK:
        name, party, counterpart = row["names"]
        block = Block(name, party, counterpart, row["text"], Effect(row["effect"]), _window(row))
        _of(found, row).blocks.append(block)


def _of(found: Found, row: Row) -> Facts:
    return found.facts.setdefault(row["number"], Facts())


def _window(row: Row) -> Window:
    return Window(row["starts"][0], row["ends"][0])


Candidate = tuple[str, str, str]
"""The other party, a theme and a specifier of something that may be a right."""

_FORWARD = """
with recursive hop as (
    select m.principal as node, m.theme_id, m.specifier, array[m.delegate, m.principal] as seen
      from mandate m where m.delegate = $1 and m.kind = 2 and m.held_from <= $2 and $2 < m.held_until
    union
    select m.principal, m.theme_id, case h.specifier when '' then m.specifier else h.specifier end,
           h.seen || m.principal
      from hop h join mandate m on m.delegate = h.node and m.theme_id = h.theme_id and m.kind = 2
     where cardinality(h.seen) < 4 and m.principal <> all (h.seen) and m.held_from <= $2 and $2 < m.held_until
), candidate as (
    select m.principal as other, m.theme_id, m.specifier
      from mandate m where m.delegate = $1 and m.kind = 1 and m.held_from <= $2 and $2 < m.held_until
    union
    select m.principal, m.theme_id, case h.specifier when '' then m.specifier else h.specifier end
      from hop h join mandate m on m.delegate = h.node and m.theme_id = h.theme_id and m.kind = 1
     where m.held_from <= $2 and $2 < m.held_until
    union
    select r.object, t.theme_id, ''
      from register_record r join unnest($3::text[], $4::text[]) as t (theme_id, role) using (role)
     where r.subject = $1 and r.held_from <= $2 and (r.held_until is null or $2 < r.held_until)
)"""

_BACKWARD = """
with recursive hop as (
    select m.delegate as node, m.theme_id, m.specifier, array[m.principal, m.delegate] as seen
      from mandate m where m.principal = $1 and m.kind = 1 and m.held_from <= $2 and $2 < m.held_until
    union
    select m.delegate, m.theme_id, case h.specifier when '' then m.specifier else h.specifier end,
           h.seen || m.delegate
      from hop h join mandate m on m.principal = h.node and m.theme_id = h.theme_id and m.kind = 2
     where cardinality(h.seen) < 5 and m.delegate <> all (h.seen) and m.held_from <= $2 and $2 < m.held_until
), candidate as (
    select node as other, theme_id, specifier from hop
    union
    select r.subject, t.theme_id, ''
      from register_record r join unnest($3::text[], $4::text[]) as t (theme_id, role) using (role)
     where r.object = $1 and r.held_from <= $2 and (r.held_until is null or $2 < r.held_until)
)"""

_PAGE = """
select other, theme_id, specifier from candidate
 where ($5 = '' or theme_id = $5) and ($6 = '' or other = $6) and other <> $1
   and (other collate "C", theme_id collate "C", specifier collate "C") > ($7, $8, $9)
 order by other collate "C", theme_id collate "C", specifier collate "C" limit $10"""


async def candidates(
    reader: Database | Connection,
    party: str,
    *,
    forward: bool,
    at: datetime,
    roles: Sequence[tuple[str, str]],
    theme_id: str,
    other: str,
    after: Candidate,
    limit: int,
) -> list[Candidate]:
    """What may be rights of the party (`forward`) or towards it, in order, for checks to judge.

    `roles` are the roles that themes accept, as (theme, role).
    """
    rows = await reader.fetch(
        (_FORWARD if forward else _BACKWARD) + _PAGE,
        party,
        at,
        [theme for theme, _ in roles],
        [role for _, role in roles],
        theme_id,
        other,
        *after,
        limit,
    )
    return [(row["other"], row["theme_id"], row["specifier"]) for row in rows]
