"""The facts in memory: SQLite tables that live and die with the process.

A mandate takes some 150 bytes. A check costs the same however many there are:
each look-up is one step down a tree. What belongs to one revision is applied
whole, between two checks.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from solmu.authorisations.v1.facts_pb2 import Fact, FactChange
from solmu.authorisations.v1.parties_pb2 import TERMS_ALONE

from services.runtime.errors import Fault, InvalidArgument, Unavailable
from services.runtime.facts import checking, wire
from services.runtime.facts.checking import (
    DEEPEST,
    Block,
    Chain,
    Effect,
    Facts,
    Holding,
    Link,
    Question,
    Verdict,
    Window,
)
from services.runtime.facts.rules import Kind, Rules

_SCHEMA = """
create table mandate (
    route     blob    not null,              -- whom it leads from, and to whom: see _route
    id        blob    not null,              -- the mandate's, 16 bytes
    kind      integer not null,
    principal text    not null,              -- of a mandate to represent, where a chain goes on
    specifier text    not null,
    start     integer not null,              -- microseconds since 1970, as all instants here
    end       integer,
    primary key (route, id)
) strict, without rowid;
create unique index mandate_id on mandate (id);
create table holding (
    name      text    not null primary key,
    delegate  text    not null,
    principal text    not null,
    role      text    not null,
    alone     integer not null,
    ages      text    not null,              -- JSON: by age the instant at which it is reached
    start     integer not null,
    end       integer
) strict;
create index holding_parties on holding (delegate, principal);
create table block (
    name        text    not null primary key,
    party       text    not null,
    counterpart text    not null,
    kind        text    not null,
    effect      integer not null,
    start       integer not null,
    end         integer
) strict;
create index block_party on block (party);
"""

_IN_FORCE = "(?1 or (start <= ?2 and (end is null or ?2 < end)))"
_ROUTE = "select id, kind, principal, specifier, start, end from mandate where route = "
_LAST = f"{_ROUTE} ?1"
_OUTGOING = f"{_ROUTE} ?1 union all {_ROUTE} ?2"
_HOLDINGS = (
    f"select name, role, alone, ages, start, end from holding where delegate = ?3 and principal = ?4 and {_IN_FORCE}"
)
_BLOCKS = f"select name, party, counterpart, kind, effect, start, end from block where party = ?3 and {_IN_FORCE}"

_PLACES = {"mandate": 7, "holding": 8, "block": 7}
_KEYS = {"mandate": "id", "holding": "name", "block": "name"}
_MANDATE_PREFIX = "mandates/"
_ACT = int(Kind.ACT)
_SALTED = blake2b(digest_size=16, salt=os.urandom(16))
_CHECKED_KINDS: frozenset[int] = frozenset({Kind.ACT, Kind.REPRESENT})

Judged = Verdict | Fault


class FactTable:
    """All facts of one revision."""

    def __init__(self) -> None:
        self._sql = sqlite3.connect(":memory:", isolation_level=None)
        self._sql.executescript(_SCHEMA)
        self._cursor = self._sql.cursor()  # kept, as a new one for each look-up costs more than the look-up
        self._rules: dict[str, Rules] = {}
        self._registers: dict[str, tuple[frozenset[str], int]] = {}
        self._holdings = self._blocks = False

    def close(self) -> None:
        """Gives the memory back."""
        self._sql.close()

    def apply(self, changes: Iterable[FactChange]) -> None:
        """Applies changes, all or none; the last of several of one fact counts."""
        rows: _Rows = {table: [] for table in _PLACES}
        gone: dict[str, list[tuple[object]]] = {table: [] for table in _PLACES}
        for change in {change.name: change for change in changes}.values():
            if not change.HasField("fact") or _gives_no_right_to_act(change.fact):
                self._leave(change.name, gone)
            elif (content := change.fact.WhichOneof("content")) == "theme":
                self._rules[change.name.removeprefix("themes/")] = wire.rules(change.fact.theme)
            elif content == "register":
                self._hear(change.fact)
            elif content is not None:
                _ROWS[content](change.fact, rows)
        self._write(rows, gone)

    def judge(self, question: Question, *, now: datetime, explain: bool = False) -> Judged:
        """The verdict; to be explained, also by what does not hold at the instant.

        In its place a Fault: InvalidArgument, THEME_UNSUITABLE; Unavailable,
        REGISTER_STALE, where a register should have spoken by `now`.
        """
        rules = self._rules.get(question.theme_id)
        if rules is None:
            theme = f"themes/{question.theme_id}"
            return InvalidArgument("THEME_UNSUITABLE", "there is no such theme", theme=theme)
        if self._registers and (stale := self._stale(rules, now)):
            return Unavailable("REGISTER_STALE", "a register has not spoken for too long", register=stale)
        return checking.judge(question, rules, self.facts(question, rules, explain=explain))

    def facts(self, question: Question, rules: Rules, *, explain: bool = False) -> Facts:
        """The facts that could matter to a question."""
        look = _Look(self._cursor, question, always=explain)
        chains = look.chains(depth=DEEPEST if explain else rules.greatest_depth)
        if not (self._blocks or self._holdings):
            return Facts(chains=chains)
        parties = {question.delegate, question.principal, *(node for chain in chains for node in chain.nodes)}
        return Facts(
            blocks=look.blocks(parties) if self._blocks else (),
            holdings=look.holdings() if self._holdings else (),
            chains=chains,
        )

    def _stale(self, rules: Rules, now: datetime) -> str:
        instant = wire.micros_of(now)
        for name, (contents, end) in self._registers.items():
            if end < instant and contents & rules.matters:
                return name
        return ""

    def _hear(self, fact: Fact) -> None:
        if fact.HasField("end_time"):
            self._registers[fact.name] = frozenset(fact.register.contents), wire.micros(fact.end_time)
        else:
            self._registers.pop(fact.name, None)

    def _leave(self, name: str, gone: dict[str, list[tuple[object]]]) -> None:
        if name.startswith(_MANDATE_PREFIX):
            gone["mandate"].append((_id(name),))
        else:  # a record was a right or a block
            gone["holding"].append((name,))
            gone["block"].append((name,))

    def _write(self, rows: _Rows, gone: dict[str, list[tuple[object]]]) -> None:
        self._sql.execute("begin")
        try:
            for table, places in _PLACES.items():
                if gone[table]:
                    self._sql.executemany(f"delete from {table} where {_KEYS[table]} = ?", gone[table])
                if rows[table]:
                    marks = ", ".join("?" * places)
                    self._sql.executemany(f"insert or replace into {table} values ({marks})", rows[table])
        except BaseException:
            self._sql.execute("rollback")
            raise
        self._sql.execute("commit")
        self._holdings = self._holdings or bool(rows["holding"])
        self._blocks = self._blocks or bool(rows["block"])


class _Look:
    """Finds what concerns one question: what holds at its instant, or with `always` at any."""

    def __init__(self, cursor: sqlite3.Cursor, question: Question, *, always: bool) -> None:
        self._cursor = cursor
        self._question = question
        self._when = (always, wire.micros_of(question.at))

    def chains(self, *, depth: int) -> list[Chain]:
        """Mandates from the delegate to the principal: any number to represent, then one to act."""
        found: list[Chain] = []
        ways = _BEGINNING
        for left in range(depth - 1, -1, -1):
            longer: list[_Way] = []
            for way in ways:
                self._follow(way, found, longer if left else None)
            ways = longer
        return found

    def _follow(self, way: _Way, found: list[Chain], longer: list[_Way] | None) -> None:
        """Adds what one mandate more makes of a way: chains that are whole, and those that may go on."""
        delegate, principal, theme = self._question[:3]
        mandates, nodes = way
        holder = nodes[-1] if nodes else delegate
        act = _route(holder, theme, principal)
        if longer is None:
            rows = self._cursor.execute(_LAST, (act,))
        else:
            rows = self._cursor.execute(_OUTGOING, (act, _route(holder, theme)))
        always, at = self._when
        for row in rows:
            _, kind, node, _, start, end = row
            if not always and not (start <= at and (end is None or at < end)):
                continue
            if kind == _ACT:
                found.append(Chain((*[_link(*one) for one in mandates], _link(*row)), nodes))
            elif longer is not None and node != delegate and node not in nodes:
                longer.append(((*mandates, row), (*nodes, node)))

    def holdings(self) -> list[Holding]:
        """What registers give the delegate towards the principal."""
        values = (*self._when, self._question.delegate, self._question.principal)
        return [
            Holding(name, role, bool(alone), _window(start, end), _ages(ages))
            for name, role, alone, ages, start, end in self._found(_HOLDINGS, values)
        ]

    def blocks(self, parties: Iterable[str]) -> list[Block]:
        """What is blocked of any of the parties."""
        return [
            Block(name, party, counterpart, kind, Effect(effect), _window(start, end))
            for one in sorted(parties)
            for name, party, counterpart, kind, effect, start, end in self._found(_BLOCKS, (*self._when, one))
        ]

    def _found(self, statement: str, values: tuple[object, ...]) -> list[Any]:
        return self._cursor.execute(statement, values).fetchall()


_Way = tuple[tuple[Any, ...], tuple[str, ...]]
"""Mandates to represent, one after another, as they lie in the table, and the organisations that they lead over."""

_BEGINNING: list[_Way] = [((), ())]

_Rows = dict[str, list[tuple[object, ...]]]


def _gives_no_right_to_act(fact: Fact) -> bool:
    return fact.HasField("mandate") and fact.mandate.kind not in _CHECKED_KINDS


def _mandate(fact: Fact, rows: _Rows) -> None:
    said = fact.mandate
    theme = said.theme.removeprefix("themes/")
    act = said.kind == _ACT
    route = _route(said.delegate, theme, said.principal) if act else _route(said.delegate, theme)
    principal = "" if act else said.principal
    rows["mandate"].append((route, _id(fact.name), said.kind, principal, said.specifier, *_held(fact)))


def _holding(fact: Fact, rows: _Rows) -> None:
    said = fact.register_right
    ages = json.dumps({one.age: wire.micros(one.reach_time) for one in said.ages})
    alone = said.terms == TERMS_ALONE
    rows["holding"].append((fact.name, said.delegate, said.principal, said.role, alone, ages, *_held(fact)))


def _block(fact: Fact, rows: _Rows) -> None:
    said = fact.block
    rows["block"].append((fact.name, said.party, said.counterpart, said.kind, said.effect, *_held(fact)))


_ROWS = {"mandate": _mandate, "register_right": _holding, "block": _block}


def _held(fact: Fact) -> tuple[int, int | None]:
    return wire.micros(fact.start_time), wire.micros(fact.end_time) if fact.HasField("end_time") else None


def _route(*parts: str) -> bytes:
    """What mandates are looked up by: delegate, theme and, of one to act, principal.

    It stands for the names, as they stand for identity codes: 128 bits of a
    salted hash do not meet by chance, and take a quarter of the room. A salt
    costs half of what a key does, and nobody outside the process knows it.
    """
    route = _SALTED.copy()
    route.update("\0".join(parts).encode())
    return route.digest()


def _id(name: str) -> bytes:
    return bytes.fromhex(name.removeprefix(_MANDATE_PREFIX).replace("-", ""))


def _link(id_: bytes, _: int, __: str, specifier: str, start: int, end: int | None) -> Link:
    return Link(_name(id_), specifier, _window(start, end))


def _name(id_: bytes) -> str:
    text = id_.hex()
    return f"{_MANDATE_PREFIX}{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@lru_cache(maxsize=16_384)
def _window(start: int, end: int | None) -> Window:
    return Window(wire.instant(start), None if end is None else wire.instant(end))


def _ages(of: str) -> dict[int, datetime]:
    return {int(age): wire.instant(time) for age, time in json.loads(of).items()}
