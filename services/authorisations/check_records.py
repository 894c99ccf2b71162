"""Checks as entries of the audit record.

A batch makes thousands of entries that differ in little. What they share is
serialised once for the call, and what a rule says where it met nothing once for
the process: the bytes of a message's fields, one after another, are the message
(Protocol Buffers, "Encoding"). So a question and its answer are written as they
are, without a copy of them within the entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from solmu.authorisations.v1 import checks_pb2
from solmu.authorisations.v1.audit_pb2 import AuditRecord
from solmu.authorisations.v1.parties_pb2 import Party

from services.authorisations import messages
from services.authorisations.audit_store import Entry
from services.runtime.facts import wire
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
        parties = {request.delegate.name: None, request.principal.name: None}
        if response.HasField("through"):  # the organisation whose mandates it went through is concerned too
            parties[response.through.name] = None
        name = response.audit_record
        yield Entry(
            record=name.removeprefix("auditRecords/"),
            record_time=time,
            kind=AuditRecord.KIND_CHECK,
            client=client,
            resource="",
            parties=tuple(parties),
            content=b"".join(
                (
                    _field(_NAME, name.encode()),
                    *[_field(_PARTIES, _field(Party.NAME_FIELD_NUMBER, party.encode())) for party in parties],
                    _field(_REQUEST, request.SerializeToString()),
                    _field(_RESPONSE, response.SerializeToString()),
                    *[_serialised(one) for one in steps],
                    rest,
                )
            ),
        )


def step(of: Step) -> checks_pb2.CheckStep:
    """What a rule judged."""
    said = checks_pb2.CheckStep(rule=of.rule, outcome=of.outcome)  # type: ignore[arg-type]
    for item in of.items:
        one = said.items.add(name=item.name, shortfall=item.shortfall)
        one.start_time.CopyFrom(wire.timestamp(item.window.start))
        if item.window.end is not None:
            one.end_time.CopyFrom(wire.timestamp(item.window.end))
    return said


def _field(number: int, content: bytes) -> bytes:
    """A field of bytes, text or a message as it is written: its tag, the length, and what is in it."""
    return _prefix(number, len(content)) + content


@lru_cache(maxsize=4096)
def _prefix(number: int, length: int) -> bytes:
    varint = [number << 3 | 2]
    while length > 0x7F:
        varint.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes((*varint, length))


_NAME, _PARTIES = AuditRecord.NAME_FIELD_NUMBER, AuditRecord.PARTIES_FIELD_NUMBER
_REQUEST, _RESPONSE = AuditRecord.CHECK_REQUEST_FIELD_NUMBER, AuditRecord.CHECK_RESPONSE_FIELD_NUMBER
_STEPS = AuditRecord.CHECK_STEPS_FIELD_NUMBER


def _serialised(of: Step) -> bytes:
    return _SILENT[of.rule] if not of.items and of.outcome is Outcome.SILENT else _told(of)


def _told(of: Step) -> bytes:
    return _field(_STEPS, step(of).SerializeToString())


_SILENT = {rule: _told(Step(rule, Outcome.SILENT)) for rule in Rule}
