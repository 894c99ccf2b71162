"""The mandates that all are measured on, and questions whose answers follow from how they were made.

Mandates come in groups of ten around an accountants' firm:

    four companies let the firm act for them,
    the firm lets its accountant represent it,
    four companies let one person each act for them, and a fifth took that back.

Nothing is random, so that every engine and every run has the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

from services.runtime.facts.rules import Kind

GROUP = 10
"""Mandates in a group."""

CLIENTS, PERSONS = 4, 5
"""Companies that the firm acts for, and persons who act for a company each; the last one's mandate has ended."""

THEME = "bench"
NAME_LETTERS = 26
_STRIDE = 7919
"""A prime: questions jump from group to group, so that no cache of a few rows helps."""

DAYS = 365
LAID = datetime.now(UTC).replace(microsecond=0) - timedelta(days=2)
"""When the mandates were given, for so many days."""

END, REVOKED = LAID + timedelta(days=DAYS), LAID + timedelta(days=1)
"""When they end for those who know instants only, and when the revoked ones were revoked."""


@dataclass(frozen=True, slots=True)
class Given:
    """One mandate."""

    number: int
    principal: str
    delegate: str
    kind: Kind = Kind.ACT
    revoked: bool = False

    @property
    def end(self) -> datetime:
        """When it ends, or ended."""
        return REVOKED if self.revoked else END


@dataclass(frozen=True, slots=True)
class Asked:
    """One question, and the answer to it."""

    delegate: str
    principal: str
    allowed: bool


def name(collection: str, number: int) -> str:
    """A party's name, of the form that the node gives: `persons/` or `organisations/` and 26 letters."""
    text = ""
    while len(text) < NAME_LETTERS:
        number, digit = divmod(number, 26)
        text = chr(ord("a") + digit) + text
    return f"{collection}/{text}"


def firm(group: int) -> str:
    """The accountants' firm of a group."""
    return name("organisations", group * GROUP)


def accountant(group: int) -> str:
    """The one who represents it."""
    return name("persons", group * GROUP)


def client(group: int, number: int) -> str:
    """A company that the firm acts for."""
    return name("organisations", group * GROUP + 1 + number)


def person(group: int, number: int) -> str:
    """A person who acts for a company."""
    return name("persons", group * GROUP + 1 + number)


def company(group: int, number: int) -> str:
    """That company."""
    return name("organisations", group * GROUP + 1 + CLIENTS + number)


def mandates(begin: int, end: int) -> Iterator[Given]:
    """The mandates from one number to another: whole groups."""
    for group in range(begin // GROUP, end // GROUP):
        first = group * GROUP
        for number in range(CLIENTS):
            yield Given(first + number, client(group, number), firm(group))
        yield Given(first + CLIENTS, firm(group), accountant(group), kind=Kind.REPRESENT)
        for number in range(PERSONS):
            revoked = number == PERSONS - 1
            yield Given(first + CLIENTS + 1 + number, company(group, number), person(group, number), revoked=revoked)


def direct(size: int, *, begin: int = 0) -> Iterator[Asked]:
    """Questions about a mandate of one's own: half are allowed, a quarter ask a stranger's company or came too late."""
    groups, turn = size // GROUP, begin
    while True:
        group, number = turn * _STRIDE % groups, turn // 4 % (PERSONS - 1)
        who = person(group, number)
        yield (
            Asked(who, company(group, number), allowed=True),
            Asked(who, company((group + 1) % groups, number), allowed=False),
            Asked(who, company(group, number), allowed=True),
            Asked(person(group, PERSONS - 1), company(group, PERSONS - 1), allowed=False),
        )[turn % 4]
        turn += 1


def represented(size: int, *, begin: int = 0) -> Iterator[Asked]:
    """Questions about acting for a firm's client: half are allowed, half ask for a client of the next firm."""
    groups, turn = size // GROUP, begin
    while True:
        group, number = turn * _STRIDE % groups, turn // 2 % CLIENTS
        of = group if turn % 2 == 0 else (group + 1) % groups
        yield Asked(accountant(group), client(of, number), allowed=turn % 2 == 0)
        turn += 1


def of_accountants(size: int, run: int) -> Iterator[Asked]:
    """Questions in runs of one accountant each, about the firm's clients and those of other firms: half and half."""
    groups, turn = size // GROUP, 0
    while True:
        group, number = turn // run * _STRIDE % groups, turn // 2 % CLIENTS
        other = (group + 1 + turn % run) % groups
        allowed = turn % 2 == 0 or other == group
        yield Asked(accountant(group), client(group if allowed else other, number), allowed=allowed)
        turn += 1


def batch(questions: Iterator[Asked], count: int) -> list[Asked]:
    """The next questions."""
    return list(islice(questions, count))


def now() -> float:
    """The time of a question, in seconds since 1970."""
    return time.time()
