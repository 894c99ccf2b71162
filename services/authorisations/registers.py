"""Registers: which record gives which right or block, and what an import must be. Pure rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from services.runtime.errors import FailedPrecondition, Fault, InvalidArgument
from services.runtime.facts.checking import Effect
from services.runtime.facts.rules import CUSTODIAN, GUARDIAN_OF_ALL

FAULTS_NAMED = 100
"""Faulty records that a refusal names; there may be more."""

CLOCK_SKEW = timedelta(minutes=5)
"""By how much a keeper's clock may be ahead of ours."""

GUARDIAN_ROLES = {1: "guardian-property", 2: "guardian-person", 3: GUARDIAN_OF_ALL}
"""The role of a guardian by the extent, numbered as in the contract."""

CARE_ROLES = frozenset({CUSTODIAN, *GUARDIAN_ROLES.values()})
"""Roles of those who look after another."""

BANKRUPTCY, DISSOLUTION = 4, 5
"""Phases of an organisation that end mandates, numbered as in the contract."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """What one record says."""

    record_id: str
    removed: bool = False
    what: str = ""
    """The field of the contract's RegisterRecord."""
    subject: str = ""
    object: str = ""
    role: str = ""
    alone: bool = False
    block: str = ""
    effect: Effect = Effect.NONE
    birth_day: date | None = None
    death: datetime | None = None
    """When the subject, a person, died."""
    phase: int = 0
    """What the subject, an organisation, goes through."""
    start: datetime | None = None
    """From when it holds, where the record says; the import's `as_of` otherwise."""
    end: datetime | None = None
    content: bytes = b""
    """The record as it is kept."""


@dataclass
class Stream:
    """What an import has brought so far, checked as it comes."""

    contents: frozenset[str]
    """What the register may say."""
    snapshot: bool
    count: int = 0
    faults: list[tuple[str, str]] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def take(self, said: Said | Fault) -> None:
        """Counts a record and notes what is wrong with it."""
        fault = said.message if isinstance(said, Fault) else self._defect(said)
        if fault and len(self.faults) < FAULTS_NAMED:
            self.faults.append((f"records[{self.count}]", fault))
        self.count += 1

    def close(self, announced: int | None) -> None:
        """Raises InvalidArgument, IMPORT_INVALID, where anything was wrong or the end is missing."""
        if announced is None:
            self.faults.append(("trailer", "the stream has no trailer"))
        elif announced != self.count:
            self.faults.append(("trailer.record_count", f"{self.count} records came, {announced} were announced"))
        if self.faults:
            raise invalid(self.faults)

    def _defect(self, said: Said) -> str:
        if said.record_id in self.seen:
            return "the record is there twice"
        self.seen.add(said.record_id)
        if said.removed:
            return "a snapshot removes by leaving out" if self.snapshot else ""
        if said.what not in self.contents:
            return "the register does not speak of this"
        return ""


def invalid(faults: Sequence[tuple[str, str]]) -> InvalidArgument:
    """The refusal of an import, naming its faults."""
    return InvalidArgument("IMPORT_INVALID", "nothing was applied", violations=faults[:FAULTS_NAMED])


def in_order(
    *,
    register: str,
    snapshot: bool,
    builds_on: str,
    latest: str,
    as_of: datetime,
    latest_as_of: datetime | None,
    now: datetime,
) -> None:
    """Whether an import follows the last one.

    Raises FailedPrecondition, IMPORT_OUT_OF_ORDER; InvalidArgument,
    IMPORT_INVALID, where it speaks of a time to come.
    """
    if as_of > now + CLOCK_SKEW:
        raise invalid([("header.as_of", "lies in the future")])
    late = latest_as_of is not None and as_of < latest_as_of
    if late or (not snapshot and (not latest or builds_on != latest)):
        raise FailedPrecondition(
            "IMPORT_OUT_OF_ORDER",
            "the import does not follow the last one",
            register=register,
            latest_import=latest,
        )
