"""What may be rights of a party, in order, from PostgreSQL: candidates that checks then judge."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from services.runtime.database import Connection

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
    reader: Connection,
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
