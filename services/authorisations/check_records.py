"""Checks as entries of the audit record.

A batch makes thousands of entries that differ in little. What they share is
serialised once for the call, and what a rule says where it met nothing once for
the process: the bytes of a message's fields, one after another, are the message.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from solmu.authorisations.v1 import checks_pb2
from solmu.authorisations.v1.audit_pb2 import AuditRecord

from services.authorisations import messages
from services.authorisations.audit_store import Entry
from services.runtime.facts.checking import Outcome, Rule, Step


class Judged(NamedTuple):
    """A check as it is recorded."""

    request: checks_pb2.CheckRequest
    """With names for its parties, and the instant that was judged."""
    response: checks_pb2.CheckResponse
    """With the name of its entry."""
    steps: Sequence[Step] = ()


def entries(checks: Sequence[Judged], shared: AuditRecord) -> Iterator[Entry]:
    """The entries of some checks. `shared` says what is the same of all: time, actor, method, purpose, trace."""
    shared.kind = AuditRecord.KIND_CHECK
    rest, time, client = shared.SerializeToString(), messages.instant(shared.record_time), shared.actor.client
    for request, response, steps in checks:
        parties = [request.delegate, request.principal]
        if response.HasField("through"):  # the organisation whose mandates it went through is concerned too
            parties.append(response.through)
        own = AuditRecord(
            name=response.audit_record, parties=parties, check_request=request, check_response=response
        ).SerializeToString()
        yield Entry(
            record=response.audit_record.removeprefix("auditRecords/"),
            record_time=time,
            kind=AuditRecord.KIND_CHECK,
            client=client,
            resource="",
            parties=tuple({party.name: None for party in parties}),
            content=b"".join((own, *map(_serialised, steps), rest)),
        )


def step(of: Step) -> checks_pb2.CheckStep:
    """What a rule judged."""
    return checks_pb2.CheckStep(
        rule=of.rule,  # type: ignore[arg-type]
        outcome=of.outcome,  # type: ignore[arg-type]
        items=[
            checks_pb2.CheckStep.Item(
                name=item.name,
                shortfall=item.shortfall,  # type: ignore[arg-type]
                start_time=messages.timestamp(item.window.start),
                end_time=messages.timestamp(item.window.end),
            )
            for item in of.items
        ],
    )


def _serialised(of: Step) -> bytes:
    return _SILENT[of.rule] if not of.items and of.outcome is Outcome.SILENT else _told(of)


def _told(of: Step) -> bytes:
    return AuditRecord(check_steps=[step(of)]).SerializeToString()


_SILENT = {rule: _told(Step(rule, Outcome.SILENT)) for rule in Rule}
