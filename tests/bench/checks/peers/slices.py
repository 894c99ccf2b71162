"""The facts that concern one question, for engines that hold none: from a dictionary, which costs nothing to speak of."""

from __future__ import annotations

from collections import defaultdict

from services.runtime.facts.rules import Kind
from tests.bench.checks import world
from tests.bench.checks.world import Asked, Given

Concerning = tuple[list[Given], list[Given]]
"""Mandates to act that the delegate or its firms hold of the principal, and those to represent these firms."""


class Slices:
    """Mandates by who holds them."""

    def __init__(self, size: int) -> None:
        self._to_act: dict[tuple[str, str], list[Given]] = defaultdict(list)
        self._to_represent: dict[str, list[Given]] = defaultdict(list)
        for one in world.mandates(0, size):
            if one.kind is Kind.ACT:
                self._to_act[one.delegate, one.principal].append(one)
            else:
                self._to_represent[one.delegate].append(one)

    def of(self, question: Asked) -> Concerning:
        """What concerns a question."""
        represents = self._to_represent.get(question.delegate, [])
        holders = [question.delegate, *(one.principal for one in represents)]
        acts = [one for holder in holders for one in self._to_act.get((holder, question.principal), [])]
        return acts, represents
