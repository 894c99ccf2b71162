"""cedarpy: the mandates that concern a question are handed to it as entities, or with `--held` all are held parsed."""

from __future__ import annotations

import argparse
import json
from typing import Any

import cedarpy

from services.runtime.facts.rules import Kind
from tests.bench.checks import world
from tests.bench.checks.measuring import Figures, measure
from tests.bench.checks.peers.running import Library, Loading, run
from tests.bench.checks.peers.slices import Slices
from tests.bench.checks.world import Asked, Given

Entity = dict[str, Any]

POLICY = """
permit (principal, action == Action::"act", resource) when {
    resource has mandate && principal in resource.mandate
    && resource.mandate.start <= context.now && context.now < resource.mandate.end
};
"""
"""A company has one mandate to act here; its holders are in it, accountants by way of their firm."""


def _id(kind: str, name: str) -> Entity:
    return {"type": kind, "id": name}


def _entity(uid: Entity, *parents: Entity, **attributes: Any) -> Entity:
    return {"uid": uid, "attrs": attributes, "parents": list(parents)}


def _mandate(one: Given) -> Entity:
    return _id("Mandate", str(one.number))


def _entities(acts: list[Given], represents: list[Given]) -> list[Entity]:
    start = int(world.LAID.timestamp())
    entities, held = [], dict[str, list[Entity]]()
    for one in acts:
        entities.append(_entity(_mandate(one), start=start, end=int(one.end.timestamp())))
        entities.append(_entity(_id("Party", one.principal), mandate={"__entity": _mandate(one)}))
        held.setdefault(one.delegate, []).append(_mandate(one))
    for one in represents:
        held.setdefault(one.delegate, []).append(_id("Party", one.principal))
        held.setdefault(one.principal, [])
    return entities + [_entity(_id("Party", holder), *parents) for holder, parents in held.items()]


async def _measure(arguments: argparse.Namespace) -> Figures:
    policies = cedarpy.PolicySet.from_str(POLICY)
    loading, note = Loading(), ""
    held = None
    if arguments.held == "yes":
        given = list(world.mandates(0, arguments.size))
        acts = [one for one in given if one.kind is Kind.ACT]
        entities = _entities(acts, [one for one in given if one.kind is Kind.REPRESENT])
        held = cedarpy.Entities.from_json_str(json.dumps(entities))
        del given, acts, entities
        note = loading.note(arguments.size)
    slices = Slices(arguments.size) if held is None else None

    def allowed(question: Asked) -> bool:
        request = {
            "principal": _id("Party", question.delegate),
            "action": _id("Action", "act"),
            "resource": _id("Party", question.principal),
            "context": {"now": int(world.now())},
        }
        facts = held if slices is None else _entities(*slices.of(question))
        return bool(cedarpy.is_authorized(request, policies, facts).allowed)

    figures = await measure(Library(allowed), arguments.size, seconds=arguments.seconds)
    figures.notes += [note] if note else []
    return figures


if __name__ == "__main__":
    run(_measure, "held")
