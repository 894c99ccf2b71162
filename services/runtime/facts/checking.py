"""Checks: may this party act for that one, in this theme, at this instant. Pure rules.

The rules are those of `CheckService.Check`, in its order. They are asked with
all facts that could matter to the question; how the facts were found is not
their business, so that a service with a database and a consumer with facts in
memory judge alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import IntEnum, IntFlag
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

from services.runtime.facts.rules import ADULT_AGE, CUSTODIAN, GUARDIAN_OF_ALL, GUARDIANS, RegisterRight, Rules

DEEPEST = 4
"""Mandates in the longest chain that any theme allows."""

DEAD, DISSOLVED = "dead", "dissolved"
ENDED_PARTY = frozenset({DEAD, DISSOLVED})
"""Blocks under which a party does not even act for itself."""


class Effect(IntFlag):
    """What a block blocks; numbered as in the contract."""

    NONE = 0
    ACTING = 1
    BEING_ACTED_FOR = 2
    BOTH = 3


class Basis(IntEnum):
    """On what a right rests; numbered as in the contract."""

    NONE = 0
    SELF = 1
    REGISTER = 2
    MANDATE = 3
    REPRESENTED_MANDATE = 4


class Reason(IntEnum):
    """Why an act is denied, as coarsely as relying parties hear it; numbered as in the contract."""

    NONE = 0
    NO_RIGHT = 1
    ASSURANCE_TOO_LOW = 2
    JOINTLY_ONLY = 3


class Outcome(IntEnum):
    """What a rule says; numbered as in the contract."""

    ALLOWS = 1
    DENIES = 2
    SILENT = 3


class Shortfall(IntEnum):
    """Why something that a rule met did not count; numbered as in the contract."""

    NONE = 0
    NOT_YET = 1
    ENDED = 2
    NOT_CONFIRMED = 3
    SPECIFIER = 4
    JOINTLY = 5
    AGE = 6
    ASSURANCE = 7
    DEPTH = 8
    THEME = 9


class Rule(IntEnum):
    """The rules; numbered as in the contract."""

    BLOCK = 1
    SELF = 2
    REGISTER_RIGHT = 3
    ACT = 4
    REPRESENT = 5


class Window(NamedTuple):
    """The instants between which something holds, half-open; without an end where `end` is None."""

    start: datetime
    end: datetime | None

    def shortfall(self, at: datetime) -> Shortfall:
        """Why it does not hold at an instant."""
        if at < self.start:
            return Shortfall.NOT_YET
        return Shortfall.ENDED if self.end is not None and at >= self.end else Shortfall.NONE


class Block(NamedTuple):
    """What takes rights away from a party: towards all, or towards one counterpart."""

    name: str
    party: str
    counterpart: str
    kind: str
    effect: Effect
    window: Window


class Holding(NamedTuple):
    """That a register gives the delegate a role towards the principal."""

    name: str
    role: str
    alone: bool
    window: Window
    ages: Mapping[int, datetime] = MappingProxyType({})
    """When the child reaches each age that a theme names, and that of majority; empty for who is no child."""


class Link(NamedTuple):
    """One mandate in a chain."""

    name: str
    specifier: str
    window: Window


class Chain(NamedTuple):
    """Mandates from the delegate to the principal: any number to represent, then one to act."""

    links: tuple[Link, ...]
    nodes: tuple[str, ...] = ()
    """The organisations in between, the delegate's own first."""


class Question(NamedTuple):
    """What is asked."""

    delegate: str
    principal: str
    theme_id: str
    at: datetime
    specifier: str = ""
    through: str = ""
    assurance_level: int = 0


class Facts(NamedTuple):
    """All facts that could matter to one question."""

    blocks: Sequence[Block] = ()
    holdings: Sequence[Holding] = ()
    chains: Sequence[Chain] = ()


class Item(NamedTuple):
    """A mandate or record that a rule met."""

    name: str
    window: Window
    shortfall: Shortfall = Shortfall.NONE


class Step(NamedTuple):
    """One rule's judgement."""

    rule: Rule
    outcome: Outcome
    items: tuple[Item, ...] = ()


class Verdict(NamedTuple):
    """The answer."""

    allowed: bool
    reason: Reason = Reason.NONE
    basis: Basis = Basis.NONE
    role: str = ""
    mandates: tuple[str, ...] = ()
    through: str = ""
    expire: datetime | None = None
    assurance_level: int = 0
    """How surely the delegate must be known in this theme."""
    steps: tuple[Step, ...] = ()


_NO_CHAIN = Chain(())


class _Way(NamedTuple):
    """A right that a rule found."""

    expire: datetime | None
    role: str = ""
    chain: Chain = _NO_CHAIN


def judge(question: Question, rules: Rules, facts: Facts) -> Verdict:
    """Judges one question by the facts."""
    if facts.blocks and (blocked := _blocked(question, rules, facts)):
        return _denied(rules, Reason.NO_RIGHT, (Step(Rule.BLOCK, Outcome.DENIES, blocked),))
    steps: tuple[Step, ...] = (_NO_BLOCK,)
    reason = Reason.NO_RIGHT
    for silent, basis, find in _RULES:
        ways, items = find(question, rules, facts)
        if ways:
            steps = (*steps, Step(silent.rule, Outcome.ALLOWS, items))
            return _allowed(question, rules, basis, ways[0] if len(ways) == 1 else max(ways, key=_lasting), steps)
        if not items:
            steps = (*steps, silent)
            continue
        steps = (*steps, Step(silent.rule, Outcome.SILENT, items))
        if any(item.shortfall is Shortfall.JOINTLY for item in items):
            reason = Reason.JOINTLY_ONLY
    return _denied(rules, reason, steps)


def _denied(rules: Rules, reason: Reason, steps: tuple[Step, ...]) -> Verdict:
    return Verdict(allowed=False, reason=reason, assurance_level=rules.assurance_level, steps=steps)


def _allowed(question: Question, rules: Rules, basis: Basis, way: _Way, steps: tuple[Step, ...]) -> Verdict:
    if 0 < question.assurance_level < rules.assurance_level:
        return _denied(rules, Reason.ASSURANCE_TOO_LOW, steps)
    links, nodes = way.chain
    return Verdict(
        allowed=True,
        basis=basis,
        role=way.role,
        mandates=tuple([link.name for link in links]),
        through=nodes[0] if nodes else "",
        expire=way.expire,
        assurance_level=rules.assurance_level,
        steps=steps,
    )


def _blocked(question: Question, rules: Rules, facts: Facts) -> tuple[Item, ...]:
    itself = question.delegate == question.principal
    found = []
    for block in facts.blocks:
        if block.window.shortfall(question.at) is not Shortfall.NONE:
            continue
        if itself:
            counts = block.party == question.principal and block.kind in ENDED_PARTY
        else:
            counts = _counts(block, rules) and (
                _hits(block, question.delegate, question.principal, Effect.ACTING)
                or _hits(block, question.principal, question.delegate, Effect.BEING_ACTED_FOR)
            )
        if counts:
            found.append(Item(block.name, block.window))
    return tuple(found)


def _hits(block: Block, party: str, towards: str, effect: Effect) -> bool:
    return block.party == party and block.counterpart in ("", towards) and bool(block.effect & effect)


def _counts(block: Block, rules: Rules) -> bool:
    """Whether a block counts in a theme: a ban on acting for others counts in every theme."""
    return bool(block.effect & Effect.ACTING) or block.kind not in rules.ignored_blocks


def _self(question: Question, *_: object) -> _Found:
    itself = question.delegate == question.principal and not question.through
    return ([_Way(None)], ()) if itself else _NOTHING


def _by_register(question: Question, rules: Rules, facts: Facts) -> _Found:
    if not facts.holdings:
        return _NOTHING
    ways, items = [], []
    for holding in facts.holdings:
        accepted = [right for right in rules.register_rights if _is_role(holding.role, right.role)]
        if question.through:
            accepted = []
        best, shortfall = None, Shortfall.THEME
        for right in accepted:
            expire, short = _role_right(question, holding, right)
            if short is Shortfall.NONE:
                best = max(best, _Way(expire, holding.role), key=_lasting) if best else _Way(expire, holding.role)
            shortfall = short
        if best:
            ways.append(best)
            shortfall = Shortfall.NONE
        items.append(Item(holding.name, holding.window, shortfall))
    return ways, tuple(items)


def _role_right(question: Question, holding: Holding, right: RegisterRight) -> tuple[datetime | None, Shortfall]:
    if short := holding.window.shortfall(question.at):
        return None, short
    if not holding.alone and not right.jointly_is_enough:
        return None, Shortfall.JOINTLY
    expire = holding.window.end
    until = min(filter(None, (right.until_age, ADULT_AGE if holding.role == CUSTODIAN else 0)), default=0)
    if until and holding.ages:
        reached = holding.ages.get(until)
        if reached is None or question.at >= reached:
            return None, Shortfall.AGE
        expire = min(expire, reached) if expire else reached
    return expire, Shortfall.NONE


def _is_role(held: str, wanted: str) -> bool:
    return held == wanted or (held == GUARDIAN_OF_ALL and wanted in GUARDIANS)


def _acting(question: Question, rules: Rules, facts: Facts) -> _Found:
    if question.through:
        return _NOTHING
    return _by_chains(question, rules, facts, [chain for chain in facts.chains if not chain.nodes])


def _representing(question: Question, rules: Rules, facts: Facts) -> _Found:
    through = question.through
    chains = [chain for chain in facts.chains if chain.nodes and (not through or through == chain.nodes[0])]
    return _by_chains(question, rules, facts, chains)


def _by_chains(question: Question, rules: Rules, facts: Facts, chains: Sequence[Chain]) -> _Found:
    if not chains:
        return _NOTHING
    ways, items = list[_Way](), list[Item]()
    for chain in chains:
        deep = len(chain.links) > rules.greatest_depth or _in_circle(question, chain)
        holds, expire = not deep, None
        for link in chain.links:
            shortfall = Shortfall.DEPTH if deep else _link_shortfall(question, link)
            items.append(Item(link.name, link.window, shortfall))
            holds = holds and not shortfall
            end = link.window.end
            if end is not None and (expire is None or end < expire):
                expire = end
        if facts.blocks and (between := _blocks_between(question, rules, facts, chain)):
            items += between
            holds = False
        if holds:
            ways.append(_Way(expire, chain=chain))
    return ways, tuple(items)


def _link_shortfall(question: Question, link: Link) -> Shortfall:
    if short := link.window.shortfall(question.at):
        return short
    return Shortfall.NONE if not link.specifier or link.specifier == question.specifier else Shortfall.SPECIFIER


def _in_circle(question: Question, chain: Chain) -> bool:
    visited = {question.delegate, question.principal, *chain.nodes}
    return len(visited) < len(chain.nodes) + 2


def _blocks_between(question: Question, rules: Rules, facts: Facts, chain: Chain) -> list[Item]:
    """Blocks that stop an organisation in between: from acting at all, or between it and its neighbours."""
    visited = (question.delegate, *chain.nodes, question.principal)
    return [
        Item(block.name, block.window)
        for block in facts.blocks
        if block.window.shortfall(question.at) is Shortfall.NONE and _counts(block, rules)
        for actor, actee in pairwise(visited)
        if _hits(block, actor, actee, Effect.ACTING) or _hits(block, actee, actor, Effect.BEING_ACTED_FOR)
    ]


def _lasting(way: _Way) -> tuple[bool, float]:
    """Orders ways by how long they last; one without an end lasts longest."""
    return way.expire is None, way.expire.timestamp() if way.expire else 0.0


_Found = tuple[Sequence[_Way], tuple[Item, ...]]
"""The ways that a rule found, and what it met."""
_Finder = Callable[[Question, Rules, Facts], _Found]

_NOTHING: _Found = (), ()

_NO_BLOCK = Step(Rule.BLOCK, Outcome.SILENT)
_RULES: tuple[tuple[Step, Basis, _Finder], ...] = (
    (Step(Rule.SELF, Outcome.SILENT), Basis.SELF, _self),
    (Step(Rule.REGISTER_RIGHT, Outcome.SILENT), Basis.REGISTER, _by_register),
    (Step(Rule.ACT, Outcome.SILENT), Basis.MANDATE, _acting),
    (Step(Rule.REPRESENT, Outcome.SILENT), Basis.REPRESENTED_MANDATE, _representing),
)
"""The rules after blocks, each with what it says where it meets nothing."""
