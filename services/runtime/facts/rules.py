"""What a theme allows, as checks and those who give mandates go by it. Values, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

CUSTODIAN = "custodian"
GUARDIAN_OF_ALL = "guardian-all"
GUARDIANS = frozenset({"guardian-property", "guardian-person"})
"""Roles that a guardian of all has, each."""

ALWAYS_MATTER = frozenset({"block", "person_status", "organisation_status"})
"""What registers say that every check rests on."""

RIGHTS_MATTER = frozenset({"custody", "guardianship", "organisation_role"})
"""What registers say that a check in a theme with register rights rests on."""

ADULT_AGE = 18
"""Years at which a person is of age, and custody ends."""

LEAST_AGE = 18
"""Years that a person on either side must have where the theme does not say."""

GREATEST_DEPTH = 2
"""How many mandates a right goes through at most where the theme does not say."""


class Kind(IntEnum):
    """What a delegate may do; numbered as in the contract."""

    ACT = 1
    REPRESENT = 2
    ISSUE = 3
    ISSUE_REPRESENT = 4


class PartyKind(IntEnum):
    """What may stand on a side; numbered as in the contract."""

    EITHER = 0
    PERSON = 1
    ORGANISATION = 2


@dataclass(frozen=True, kw_only=True)
class RegisterRight:
    """A right that a register's role gives without a mandate."""

    role: str
    until_age: int = 0
    """The age of the child that ends it; 0 for none of its own."""
    jointly_is_enough: bool = False


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a theme allows."""

    longest_terms: Mapping[Kind, int]
    """The kinds of mandate, each with its longest term in months."""
    principal_kind: PartyKind = PartyKind.EITHER
    delegate_kind: PartyKind = PartyKind.EITHER
    least_age: int = LEAST_AGE
    specifier_pattern: str = ""
    """Empty: no specifiers."""
    specifier_required: bool = False
    register_rights: tuple[RegisterRight, ...] = ()
    assurance_level: int = 0
    greatest_depth: int = GREATEST_DEPTH
    issued_end_with_issuer: bool = False
    ignored_blocks: frozenset[str] = frozenset()

    @cached_property
    def matters(self) -> frozenset[str]:
        """What registers must have spoken of lately for a check in the theme."""
        return ALWAYS_MATTER | RIGHTS_MATTER if self.register_rights else ALWAYS_MATTER

    @cached_property
    def roles(self) -> frozenset[str]:
        """Roles that may give a right: those that the theme names, and the guardian of all where it names one."""
        named = frozenset(right.role for right in self.register_rights)
        return named | {GUARDIAN_OF_ALL} if named & GUARDIANS else named
