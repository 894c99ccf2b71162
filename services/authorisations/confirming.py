"""Who may give or confirm a mandate in a principal's name. Pure rules.

What the registers say becomes alternatives, any one of which is enough whole: a
sole custodian, all of several joint ones, "the chair, and one other member of
the board". Ending a mandate is wider on purpose: any one of all those named.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class Part:
    """So many of these parties."""

    parties: tuple[str, ...]
    needed: int = 1


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """Parts that are all needed, by different parties."""

    parts: tuple[Part, ...]
    basis: str = ""
    """What gives the right: a register's record, a mandate to issue, or "" for the principal itself."""


Rule = tuple[Alternative, ...]
"""Who must confirm: any one of the alternatives, whole."""


@dataclass(frozen=True, kw_only=True)
class Carer:
    """A custodian or guardian, as a register says."""

    party: str
    alone: bool
    basis: str
    until: datetime | None = None
    """When it ends, as known now; None for no end."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a role in an organisation."""

    party: str
    role: str


@dataclass(frozen=True, kw_only=True)
class SignatoryPart:
    """So many holders of these roles, or of these persons."""

    roles: tuple[str, ...]
    persons: tuple[str, ...]
    needed: int


@dataclass(frozen=True, kw_only=True)
class SignatoryRule:
    """Who signs for an organisation, as a register says: any one alternative, whole."""

    alternatives: tuple[tuple[SignatoryPart, ...], ...]
    basis: str


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What the registers say of a principal, at one instant."""

    principal: str
    minor: bool = False
    incompetent: bool = False
    """A register limits the person's competence: it does not confirm for itself."""
    carers: tuple[Carer, ...] = ()
    signatories: tuple[SignatoryRule, ...] = ()
    holders: tuple[Holder, ...] = ()


def rule(standing: Standing) -> Rule:
    """Who confirms for the principal.

    A child or a person of limited competence is confirmed for by those who
    look after them; one who is looked after and competent may confirm too. An
    organisation is confirmed for by its signatories where a register names
    them, else by itself. Empty where nobody can.
    """
    if standing.signatories:
        return tuple(
            alternative
            for signatories in standing.signatories
            for parts in signatories.alternatives
            if (alternative := _signing(parts, standing.holders, signatories.basis)) is not None
        )
    itself = () if standing.minor or standing.incompetent else (_one(standing.principal, ""),)
    alone = tuple(_one(carer.party, carer.basis) for carer in standing.carers if carer.alone)
    jointly = [carer for carer in standing.carers if not carer.alone]
    together = _together(jointly) if jointly else ()
    return itself + alone + together


def until(standing: Standing) -> datetime | None:
    """When the last of those ends who look after one that does not confirm for itself; None for no end, or for others.

    What they give in its name does not reach beyond.
    """
    ends = [carer.until for carer in standing.carers]
    if not ends or not (standing.minor or standing.incompetent) or None in ends:
        return None
    return max(end for end in ends if end is not None)


def upheld(alternatives: Rule, confirmed: Collection[tuple[str, str]], carers: Collection[str]) -> bool:
    """Whether what was confirmed, as (party, basis), is enough without those who look after the principal no longer."""
    left = [party for party, basis in confirmed if not basis.startswith("registers/") or party in carers]
    return satisfied(alternatives, left) is not None


def upheld_until(alternatives: Rule, confirmed: Collection[tuple[str, str]], carers: Sequence[Carer]) -> Carer | None:
    """The one with the end of whose care, as known now, what was confirmed is enough no longer; None for no such end.

    `confirmed` is as in `upheld`.
    """
    for carer, end in sorted(((one, one.until) for one in carers if one.until is not None), key=lambda one: one[1]):
        left = {one.party for one in carers if one.until is None or one.until > end}
        if not upheld(alternatives, confirmed, left):
            return carer
    return None


def satisfied(alternatives: Rule, confirmed: Collection[str]) -> Alternative | None:
    """The first alternative whose parts those who confirmed fill, each of them counted once."""
    return next((one for one in alternatives if _fills(one.parts, confirmed)), None)


def parties(alternatives: Rule) -> frozenset[str]:
    """All who may confirm."""
    return frozenset(party for one in alternatives for part in one.parts for party in part.parties)


def basis_for(alternatives: Rule, party: str) -> str:
    """On what a party's right to confirm rests."""
    return next(one.basis for one in alternatives if any(party in part.parties for part in one.parts))


def _one(party: str, basis: str) -> Alternative:
    return Alternative(parts=(Part(parties=(party,)),), basis=basis)


def _together(jointly: Sequence[Carer]) -> Rule:
    named = tuple(sorted({carer.party for carer in jointly}))
    return (Alternative(parts=(Part(parties=named, needed=len(named)),), basis=jointly[0].basis),)


def _signing(parts: Iterable[SignatoryPart], holders: Sequence[Holder], basis: str) -> Alternative | None:
    filled = []
    for part in parts:
        of_role = {holder.party for holder in holders if holder.role in part.roles}
        may = tuple(sorted(of_role | set(part.persons)))
        if len(may) < part.needed:
            return None
        filled.append(Part(parties=may, needed=part.needed))
    return Alternative(parts=tuple(filled), basis=basis)


def _fills(parts: Sequence[Part], confirmed: Collection[str]) -> bool:
    """Whether each place of each part can be given to another party: a matching by augmenting paths."""
    places = [set(part.parties) & set(confirmed) for part in parts for _ in range(part.needed)]
    taken: dict[str, int] = {}

    def seat(place: int, tried: set[str]) -> bool:
        for party in places[place] - tried:
            tried.add(party)
            if party not in taken or seat(taken[party], tried):
                taken[party] = place
                return True
        return False

    return all(seat(place, set()) for place in range(len(places)))
