"""What is written field by field reads as the message that it stands for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from solmu.authorisations.v1.audit_pb2 import AuditRecord
from solmu.authorisations.v1.parties_pb2 import Party

from services.authorisations import check_records
from services.authorisations.check_records import Judged
from services.runtime.facts import wire
from services.runtime.facts.checking import (
    Basis,
    Item,
    Outcome,
    Question,
    Reason,
    Rule,
    Shortfall,
    Step,
    Verdict,
    Window,
)

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
NAME = "auditRecords/0198a5a0-0000-7000-8000-000000000001"
DELEGATE, PRINCIPAL, FIRM = f"persons/{'a' * 26}", f"organisations/{'b' * 26}", f"organisations/{'c' * 26}"
FOUND = Item("mandates/0198a5a0-0000-7000-8000-000000000002", Window(NOW, NOW + timedelta(days=1)))
ENDLESS = Item("registers/persons/records/1", Window(NOW, None), Shortfall.JOINTLY)
SILENT = tuple(Step(rule, Outcome.SILENT) for rule in Rule)

ALLOWED = Verdict(
    allowed=True,
    basis=Basis.REPRESENTED_MANDATE,
    mandates=tuple(f"mandates/{number}" for number in range(30)),
    through=FIRM,
    expire=FOUND.window.end,
    assurance_level=2,
    steps=(*SILENT[:4], Step(Rule.REPRESENT, Outcome.ALLOWS, (FOUND, ENDLESS))),
)
DENIED = Verdict(
    allowed=False, reason=Reason.JOINTLY_ONLY, steps=(*SILENT[:4], Step(Rule.ACT, Outcome.SILENT, (ENDLESS,)))
)


@pytest.mark.parametrize("verdict", [ALLOWED, DENIED], ids=["allowed", "denied"])
@pytest.mark.parametrize("specifier", ["", "x" * 20_000], ids=["short", "of three bytes' length"])
def test_an_entry_reads_as_the_message_that_it_stands_for(verdict: Verdict, specifier: str):
    question = Question(
        delegate=DELEGATE,
        principal=PRINCIPAL,
        theme_id="taxes",
        specifier=specifier,
        through=verdict.through,
        assurance_level=1,
        at=NOW,
    )
    request = wire.request(question)
    response = wire.response(verdict, consistency_token="0" * 32, audit_record=NAME)
    shared = AuditRecord(method="solmu.authorisations.v1.CheckService/Check", record_time=wire.timestamp(NOW))
    shared.actor.client = "clients/tax-office"
    (entry,) = check_records.entries([Judged(request, response, verdict.steps)], shared)
    parties = [DELEGATE, PRINCIPAL, *([FIRM] if verdict.through else [])]
    assert AuditRecord.FromString(entry.content) == AuditRecord(
        name=NAME,
        record_time=wire.timestamp(NOW),
        kind=AuditRecord.KIND_CHECK,
        actor=shared.actor,
        method=shared.method,
        parties=[Party(name=party) for party in parties],
        check_request=request,
        check_response=response,
        check_steps=map(check_records.step, verdict.steps),
    )
    assert (entry.parties, entry.client, f"auditRecords/{entry.record}") == (tuple(parties), "clients/tax-office", NAME)


@pytest.mark.parametrize("verdict", [ALLOWED, DENIED], ids=["allowed", "denied"])
def test_an_answer_says_all_of_its_verdict_but_the_steps(verdict: Verdict):
    answer = wire.response(verdict, consistency_token="", audit_record=NAME)
    assert wire.verdict(answer) == verdict._replace(steps=())
