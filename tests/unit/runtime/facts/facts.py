"""Facts as the stream tells them."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from solmu.authorisations.v1.facts_pb2 import (
    AgeInstant,
    BlockFact,
    Fact,
    FactChange,
    MandateFact,
    RegisterFact,
    RegisterRightFact,
)
from solmu.authorisations.v1.parties_pb2 import TERMS_ALONE
from solmu.authorisations.v1.themes_pb2 import Theme

from services.runtime.facts.checking import Question
from services.runtime.facts.wire import timestamp

NOW = datetime(2026, 11, 21, 6, 30, tzinfo=UTC)
DAY = timedelta(days=1)
THEME = "themes/taxes"
PERSON, CHILD = (f"persons/{letter * 26}" for letter in "ab")
FIRM, COMPANY = (f"organisations/{letter * 26}" for letter in "fc")


def change(name: str, *, start: datetime = NOW - DAY, end: datetime | None = NOW + DAY, **content: Any) -> FactChange:
    end_time = timestamp(end) if end else None
    return FactChange(name=name, fact=Fact(name=name, start_time=timestamp(start), end_time=end_time, **content))


def theme(**fields: Any) -> FactChange:
    return change(THEME, end=None, theme=Theme(**fields))


def mandate(
    delegate: str, principal: str, *, kind: int = 1, name: str = "", specifier: str = "", **held: Any
) -> FactChange:
    said = MandateFact(kind=kind, principal=principal, delegate=delegate, theme=THEME, specifier=specifier)  # type: ignore[arg-type]
    return change(name or f"mandates/{uuid.uuid4()}", mandate=said, **held)


def right(delegate: str, principal: str, role: str, ages: dict[int, datetime], **held: Any) -> FactChange:
    reached = [AgeInstant(age=age, reach_time=timestamp(time)) for age, time in ages.items()]
    said = RegisterRightFact(delegate=delegate, principal=principal, role=role, terms=TERMS_ALONE, ages=reached)
    return change(f"registers/r/records/{uuid.uuid4()}", register_right=said, **held)


def block(party: str, effect: int, **held: Any) -> FactChange:
    said = BlockFact(party=party, kind="disputed", effect=effect)  # type: ignore[arg-type]
    return change(f"registers/r/records/{uuid.uuid4()}", block=said, **held)


def register(*contents: str, end: datetime | None) -> FactChange:
    return change("registers/r", end=end, register=RegisterFact(contents=contents))


def question(delegate: str = PERSON, principal: str = COMPANY, *, at: datetime = NOW, **fields: Any) -> Question:
    return Question(delegate=delegate, principal=principal, theme_id="taxes", at=at, **fields)
