"""Mandates and their history in PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

from services.authorisations import confirming
from services.authorisations.days import Period
from services.authorisations.mandates import Actor, Cause, Confirmation, Ending, Event, Happening, Mandate, State
from services.runtime.database import Connection, Database, Row
from services.runtime.facts.rules import Kind

_COLUMNS = (
    "mandate_id, kind, principal, delegate, theme_id, specifier, first_day, last_day, start_time, end_time, stored,"
    " rule, confirmers, confirm_until, requested_by, group_id, create_time, update_time, confirmations, confirm_time,"
    " ending, issued_under, renews, revision, held_from, held_until"
)
_PLACES = ", ".join(f"${number}" for number in range(1, _COLUMNS.count(",") + 2))


async def insert(transaction: Connection, mandate: Mandate) -> None:
    """Adds a mandate."""
    await transaction.execute(f"insert into mandate ({_COLUMNS}) values ({_PLACES})", *_values(mandate))


async def update(transaction: Connection, mandate: Mandate) -> None:
    """Writes what changes in a mandate's life."""
    start, end = mandate.held or (None, None)
    await transaction.execute(
        "update mandate set stored = $2, update_time = $3, confirmations = $4, confirm_time = $5, ending = $6,"
        " revision = $7, held_from = $8, held_until = $9 where mandate_id = $1",
        mandate.mandate_id,
        mandate.stored,
        mandate.update_time,
        _json([asdict(one) for one in mandate.confirmations]),
        mandate.confirm_time,
        _json(asdict(mandate.ending)) if mandate.ending else None,
        mandate.revision,
        start,
        end,
    )


async def append(transaction: Connection, mandate_id: UUID, events: Sequence[Event]) -> None:
    """Adds to a mandate's history. The caller holds the revision, so numbers do not collide."""
    await transaction.executemany(
        "insert into mandate_event (mandate_id, number, happening, time, state, actor, renewed_by, ending)"
        " select $1, coalesce(max(number), 0) + 1, $2, $3, $4, $5, $6, $7 from mandate_event where mandate_id = $1",
        [
            (
                mandate_id,
                event.happening,
                event.time,
                event.state,
                _json(asdict(event.actor)) if event.actor else None,
                event.renewed_by,
                _json(asdict(event.ending)) if event.ending else None,
            )
            for event in events
        ],
    )


async def events(reader: Database | Connection, mandate_id: UUID) -> list[Event]:
    """A mandate's history, the oldest first: a handful of rows."""
    rows = await reader.fetch(
        "select happening, time, state, actor, renewed_by, ending from mandate_event"
        " where mandate_id = $1 order by number",
        mandate_id,
    )
    return [
        Event(
            happening=Happening(row["happening"]),
            time=row["time"],
            state=State(row["state"]),
            actor=_actor(row["actor"]),
            renewed_by=row["renewed_by"],
            ending=_ending(row["ending"]),
        )
        for row in rows
    ]


async def find(reader: Database | Connection, mandate_id: UUID) -> Mandate | None:
    """The mandate of this id."""
    row = await reader.fetchrow(f"select {_COLUMNS} from mandate where mandate_id = $1", mandate_id)
    return _mandate(row) if row else None


async def find_all(reader: Database | Connection, mandate_ids: Collection[UUID]) -> list[Mandate]:
    """The mandates of these ids, in their order."""
    rows = await reader.fetch(
        f"select {_COLUMNS} from mandate"
        " join unnest($1::uuid[]) with ordinality as given (id, number) on mandate_id = id order by number",
        list(mandate_ids),
    )
    return [_mandate(row) for row in rows]


async def alike(reader: Database | Connection, mandate: Mandate) -> list[Mandate]:
    """Mandates that give, or would give, the same right at some time, this one left out."""
    rows = await reader.fetch(
        f"select {_COLUMNS} from mandate where delegate = $1 and principal = $2 and theme_id = $3 and kind = $4"
        " and specifier = $5 and mandate_id <> $6 and stored in (1, 2, 4) order by mandate_id",
        mandate.delegate,
        mandate.principal,
        mandate.theme_id,
        mandate.kind,
        mandate.specifier,
        mandate.mandate_id,
    )
    return [_mandate(row) for row in rows]


async def issued_under(reader: Database | Connection, mandate_id: UUID) -> list[Mandate]:
    """Mandates given under a mandate to issue that wait or may hold."""
    rows = await reader.fetch(
        f"select {_COLUMNS} from mandate where issued_under = $1 and stored in (1, 2, 4) order by mandate_id",
        mandate_id,
    )
    return [_mandate(row) for row in rows]


async def open_of(reader: Database | Connection, parties: Collection[str]) -> list[Mandate]:
    """Mandates of any of the parties, on either side, that wait or may hold."""
    rows = await reader.fetch(
        f"select {_COLUMNS} from mandate where stored in (1, 2, 4)"
        " and (principal = any($1) or delegate = any($1)) order by mandate_id",
        list(parties),
    )
    return [_mandate(row) for row in rows]


async def principals(reader: Connection, parties: Collection[str]) -> set[str]:
    """Those of the parties in whose names mandates wait or may hold."""
    rows = await reader.fetch(
        "select distinct principal from mandate where stored in (1, 2, 4) and principal = any($1)", list(parties)
    )
    return {row["principal"] for row in rows}


async def issuing(reader: Database | Connection, *, delegate: str, principal: str, at: datetime) -> list[Mandate]:
    """Mandates to issue that a party holds from a principal, itself or through an organisation, at an instant."""
    rows = await reader.fetch(
        f"select {_COLUMNS} from mandate issue where kind = $3 and principal = $2"
        " and held_from <= $4 and $4 < held_until and (delegate = $1 or exists ("
        " select from mandate through where through.kind = $5 and through.delegate = $1"
        " and through.principal = issue.delegate and through.theme_id = issue.theme_id"
        " and through.specifier in ('', issue.specifier)"
        " and through.held_from <= $4 and $4 < through.held_until)) order by end_time desc, mandate_id",
        delegate,
        principal,
        Kind.ISSUE,
        at,
        Kind.ISSUE_REPRESENT,
    )
    return [_mandate(row) for row in rows]


async def page(
    reader: Database | Connection,
    *,
    principal: str | None = None,
    delegate: str | None = None,
    confirmer: str | None = None,
    theme_id: str,
    states: Collection[State],
    at: datetime,
    before: UUID | None,
    size: int,
    everyone: bool = False,
    asked_for_by: datetime | None = None,
) -> list[Mandate]:
    """At most `size` mandates, the newest first, older than `before`, and asked for by an instant.

    The party is named for each side that counts; one of them is enough, or with
    `everyone` all that are named. States are those at the instant `at`.
    """
    sides, values = [], []
    for column, value in (("principal = ", principal), ("delegate = ", delegate), ("confirmers @> ", confirmer)):
        if value is not None:
            values.append([value] if column.startswith("confirmers") else value)
            kind = "::text[]" if column.startswith("confirmers") else ""
            waiting = " and stored in (1, 2)" if kind else ""
            sides.append(f"({column}${len(values) + 6}{kind}{waiting})")
    rows = await reader.fetch(
        f"select {_COLUMNS} from mandate where ({(' and ' if everyone else ' or ').join(sides)})"
        " and ($1 = '' or theme_id = $1) and ($2::uuid is null or mandate_id < $2)"
        " and (cardinality($3::smallint[]) = 0 or case"
        "  when stored in (1, 2, 4) and (ending ->> 'time')::timestamptz <= $4 then 11"
        "  when stored in (1, 2) and confirm_until <= $4 then 8"
        "  when stored = 4 and end_time <= $4 then 5"
        "  when stored = 4 and start_time > $4 then 3"
        "  else stored end = any($3))"
        " and ($6::timestamptz is null or create_time <= $6)"
        " order by mandate_id desc limit $5",
        theme_id,
        before,
        sorted(states),
        at,
        size,
        asked_for_by,
        *values,
    )
    return [_mandate(row) for row in rows]


async def remember(
    transaction: Connection, *, party: str, request_id: UUID, digest: bytes, mandates: Sequence[Mandate]
) -> None:
    """Keeps the result of a creation."""
    await transaction.execute(
        "insert into mandate_request (party, request_id, digest, mandates) values ($1, $2, $3, $4)",
        party,
        request_id,
        digest,
        [mandate.mandate_id for mandate in mandates],
    )


async def remembered(reader: Database | Connection, *, party: str, request_id: UUID) -> tuple[bytes, list[UUID]] | None:
    """The digest and the result of an earlier creation."""
    row = await reader.fetchrow(
        "select digest, mandates from mandate_request where party = $1 and request_id = $2", party, request_id
    )
    return (row["digest"], row["mandates"]) if row else None


def _values(mandate: Mandate) -> tuple[object, ...]:
    start, end = mandate.held or (None, None)
    return (
        mandate.mandate_id,
        mandate.kind,
        mandate.principal,
        mandate.delegate,
        mandate.theme_id,
        mandate.specifier,
        mandate.period.first_day,
        mandate.period.last_day,
        mandate.period.start,
        mandate.period.end,
        mandate.stored,
        _json([asdict(one) for one in mandate.rule]),
        sorted(confirming.parties(mandate.rule)),
        mandate.confirm_until,
        _json(asdict(mandate.requested_by)),
        mandate.group_id,
        mandate.create_time,
        mandate.update_time,
        _json([asdict(one) for one in mandate.confirmations]),
        mandate.confirm_time,
        _json(asdict(mandate.ending)) if mandate.ending else None,
        mandate.issued_under,
        mandate.renews,
        mandate.revision,
        start,
        end,
    )


def _mandate(row: Row) -> Mandate:
    return Mandate(
        mandate_id=row["mandate_id"],
        kind=Kind(row["kind"]),
        principal=row["principal"],
        delegate=row["delegate"],
        theme_id=row["theme_id"],
        specifier=row["specifier"],
        period=Period(
            first_day=row["first_day"], last_day=row["last_day"], start=row["start_time"], end=row["end_time"]
        ),
        stored=State(row["stored"]),
        rule=tuple(_alternative(one) for one in json.loads(row["rule"])),
        confirm_until=row["confirm_until"],
        requested_by=Actor(**json.loads(row["requested_by"])),
        group_id=row["group_id"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        confirmations=tuple(
            Confirmation(**{**one, "time": datetime.fromisoformat(one["time"])})
            for one in json.loads(row["confirmations"])
        ),
        confirm_time=row["confirm_time"],
        ending=_ending(row["ending"]),
        issued_under=row["issued_under"],
        renews=row["renews"],
        revision=row["revision"],
    )


def _alternative(value: dict[str, Any]) -> confirming.Alternative:
    parts = tuple(confirming.Part(parties=tuple(part["parties"]), needed=part["needed"]) for part in value["parts"])
    return confirming.Alternative(parts=parts, basis=value["basis"])


def _actor(text: str | None) -> Actor | None:
    return Actor(**json.loads(text)) if text else None


def _ending(text: str | None) -> Ending | None:
    if text is None:
        return None
    value = json.loads(text)
    return Ending(
        cause=Cause(value["cause"]),
        time=datetime.fromisoformat(value["time"]),
        ended_by=Actor(**value["ended_by"]) if value["ended_by"] else None,
        record=value["record"],
        proposal=value.get("proposal", ""),
    )


def _json(value: object) -> str:
    return json.dumps(value, default=lambda one: one.isoformat())
