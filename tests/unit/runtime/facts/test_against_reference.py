"""Facts that come and go at random are judged as by one who walks every one of them, and as a fresh snapshot is."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from solmu.authorisations.v1.facts_pb2 import BlockFact, Fact, FactChange, MandateFact

from services.runtime.facts.checking import Basis, Effect, Question, Verdict
from services.runtime.facts.rules import Kind
from services.runtime.facts.table import FactTable
from services.runtime.facts.wire import instant, micros
from tests.unit.runtime.facts.facts import NOW, THEME, change, theme

HOUR = timedelta(hours=1)
PARTIES = [f"persons/{letter * 26}" for letter in "ab"] + [f"organisations/{letter * 26}" for letter in "cde"]
MANDATES = [f"mandates/0193f2a0-0000-7000-8000-{number:012}" for number in range(12)]
BLOCKS = [f"registers/r/records/{number}" for number in range(3)]
SPECIFIERS = ["", "", "plot-1", "plot-2"]

parties = st.sampled_from(PARTIES)
specifiers = st.sampled_from(SPECIFIERS)
windows = st.tuples(st.integers(-3, 2), st.one_of(st.none(), st.integers(1, 4))).map(
    lambda of: (NOW + of[0] * HOUR, None if of[1] is None else NOW + (of[0] + of[1]) * HOUR)
)


@st.composite
def mandates(draw: st.DrawFn) -> FactChange:
    delegate = draw(parties)
    said = MandateFact(
        kind=draw(st.sampled_from([Kind.ACT, Kind.ACT, Kind.REPRESENT, Kind.REPRESENT, Kind.ISSUE])),  # type: ignore[arg-type]
        delegate=delegate,
        principal=draw(parties.filter(lambda one: one != delegate)),
        theme=THEME,
        specifier=draw(specifiers),
    )
    start, end = draw(windows)
    return change(draw(st.sampled_from(MANDATES)), mandate=said, start=start, end=end)


@st.composite
def blocks(draw: st.DrawFn) -> FactChange:
    said = BlockFact(
        party=draw(parties),
        counterpart=draw(st.one_of(st.just(""), parties)),
        kind="disputed",
        effect=draw(st.sampled_from([1, 2, 3])),  # type: ignore[arg-type]
    )
    start, end = draw(windows)
    return change(draw(st.sampled_from(BLOCKS)), block=said, start=start, end=end)


ended = st.sampled_from(MANDATES + BLOCKS).map(lambda name: FactChange(name=name))
transactions = st.lists(st.lists(mandates() | mandates() | mandates() | blocks() | ended, max_size=8), max_size=5)
questions = st.builds(
    Question,
    delegate=parties,
    principal=parties,
    theme_id=st.just("taxes"),
    specifier=specifiers,
    through=st.sampled_from(["", "", "", *PARTIES]),
    at=st.integers(-6, 6).map(lambda halves: NOW + halves * HOUR / 2),
)


@dataclass
class Reference:
    """One who walks every fact."""

    facts: list[Fact]
    asked: Question
    depth: int

    def holds(self, fact: Fact) -> bool:
        ended = fact.HasField("end_time") and self.asked.at >= instant(micros(fact.end_time))
        return instant(micros(fact.start_time)) <= self.asked.at and not ended

    def blocked(self, actor: str, actee: str) -> bool:
        return any(
            (one.block.effect & Effect.ACTING and one.block.party == actor and one.block.counterpart in ("", actee))
            or (
                one.block.effect & Effect.BEING_ACTED_FOR
                and one.block.party == actee
                and one.block.counterpart in ("", actor)
            )
            for one in self.facts
            if one.HasField("block") and self.holds(one)
        )

    def ways(self, holder: str, visited: tuple[str, ...]) -> Iterator[tuple[Fact, ...]]:
        """Mandates from a holder on to the principal, over parties that were not visited."""
        if len(visited) > self.depth:
            return
        for one in self.facts:
            said = one.mandate
            if not (one.HasField("mandate") and said.delegate == holder and self.holds(one)):
                continue
            if said.specifier not in ("", self.asked.specifier) or self.blocked(holder, said.principal):
                continue
            if Kind(said.kind) is Kind.ACT and said.principal == self.asked.principal:
                yield (one,)
            if Kind(said.kind) is Kind.REPRESENT and said.principal not in (*visited, self.asked.principal):
                for rest in self.ways(said.principal, (*visited, said.principal)):
                    yield (one, *rest)

    def verdict(self) -> dict[str, Any]:
        """What matters of the answer; of several ways, those that last longest."""
        asked = self.asked
        if asked.delegate == asked.principal:
            return {"basis": Basis.NONE if asked.through else Basis.SELF, "expire": None, "mandates": {()}}
        found = [] if self.blocked(asked.delegate, asked.principal) else [*self.ways(asked.delegate, (asked.delegate,))]
        direct = [way for way in found if len(way) == 1 and not asked.through]
        through = [way for way in found if len(way) > 1 and asked.through in ("", way[0].mandate.principal)]
        chosen, basis = (direct, Basis.MANDATE) if direct else (through, Basis.REPRESENTED_MANDATE)
        if not chosen:
            return {"basis": Basis.NONE, "expire": None, "mandates": {()}}
        lasting = max(_end(way) for way in chosen)
        return {
            "basis": basis,
            "expire": None if lasting == datetime.max.replace(tzinfo=NOW.tzinfo) else lasting,
            "mandates": {tuple(one.name for one in way) for way in chosen if _end(way) == lasting},
        }


def _end(way: tuple[Fact, ...]) -> datetime:
    endless = datetime.max.replace(tzinfo=NOW.tzinfo)
    return min(instant(micros(one.end_time)) if one.HasField("end_time") else endless for one in way)


@settings(max_examples=60, deadline=None)
@given(transactions, st.integers(1, 4), st.lists(questions, min_size=1, max_size=15))
def test_every_answer_is_that_of_one_who_walks_all_facts(
    made: list[list[FactChange]], depth: int, asked: list[Question]
) -> None:
    table, kept = FactTable(), dict[str, FactChange]()
    table.apply([theme(greatest_depth=depth)])
    for transaction in made:
        table.apply(transaction)
        for one in transaction:
            kept.pop(one.name, None)
            if one.HasField("fact"):
                kept[one.name] = one
        fresh = FactTable()
        fresh.apply([theme(greatest_depth=depth), *kept.values()])
        for question in asked:
            verdict, explained, anew = (
                one.judge(question, now=NOW, explain=explain)
                for one, explain in ((table, False), (table, True), (fresh, False))
            )
            assert isinstance(verdict, Verdict)
            assert isinstance(explained, Verdict)
            reference = Reference([one.fact for one in kept.values()], question, depth).verdict()
            assert verdict.allowed is (reference["basis"] is not Basis.NONE)
            assert (verdict.basis, verdict.expire) == (reference["basis"], reference["expire"])
            assert verdict.mandates in reference["mandates"]
            assert verdict == anew
            assert verdict._replace(steps=(), mandates=()) == explained._replace(steps=(), mandates=())
