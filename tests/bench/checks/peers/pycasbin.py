"""casbin: mandates as policies in memory, firms' accountants as roles, looked up by the principal (FastEnforcer)."""

from __future__ import annotations

import argparse
import tempfile

from casbin.fast_enforcer import FastEnforcer

from services.runtime.facts.rules import Kind
from tests.bench.checks import world
from tests.bench.checks.measuring import Figures, measure
from tests.bench.checks.peers.running import Library, Loading, run
from tests.bench.checks.world import Asked

MODEL = """
[request_definition]
r = delegate, principal, theme, now
[policy_definition]
p = delegate, principal, theme, start, end
[role_definition]
g = _, _
[policy_effect]
e = some(where (p.eft == allow))
[matchers]
m = r.principal == p.principal && r.theme == p.theme && g(r.delegate, p.delegate) && holds(r.now, p.start, p.end)
"""


async def _measure(arguments: argparse.Namespace) -> Figures:
    loading = Loading()
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as model:
        model.write(MODEL)
        model.flush()
        enforcer = FastEnforcer(model.name, cache_key_order=[1])
    enforcer.add_function("holds", lambda now, start, end: float(start) <= now < float(end))
    policies, roles = [], []
    start = str(world.LAID.timestamp())
    for one in world.mandates(0, arguments.size):
        if one.kind is Kind.REPRESENT:
            roles.append([one.delegate, one.principal])
        else:
            policies.append([one.delegate, one.principal, world.THEME, start, str(one.end.timestamp())])
    enforcer.add_policies(policies)
    enforcer.add_grouping_policies(roles)
    note = loading.note(arguments.size)

    def allowed(question: Asked) -> bool:
        answer = enforcer.enforce(question.delegate, question.principal, world.THEME, world.now())
        return bool(answer)

    figures = await measure(Library(allowed), arguments.size, seconds=arguments.seconds)
    figures.notes.append(note)
    return figures


if __name__ == "__main__":
    run(_measure)
