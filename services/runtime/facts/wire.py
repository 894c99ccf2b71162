"""Between the messages of the contract and the values that checks are judged by."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

from google.protobuf.timestamp_pb2 import Timestamp
from solmu.authorisations.v1.checks_pb2 import DECISION_ALLOWED, DECISION_DENIED, CheckRequest, CheckResponse
from solmu.authorisations.v1.themes_pb2 import Theme

from services.runtime.facts.checking import Basis, Question, Reason, Verdict
from services.runtime.facts.rules import GREATEST_DEPTH, LEAST_AGE, Kind, PartyKind, RegisterRight, Rules

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def micros(time: Timestamp) -> int:
    """Microseconds since 1970: what PostgreSQL tells apart."""
    return time.seconds * 1_000_000 + time.nanos // 1000


def micros_of(time: datetime) -> int:
    """The same of a time with its zone."""
    return (time - _BEGINNING) // _MICROSECOND


@lru_cache(maxsize=16_384)
def instant(of: int) -> datetime:
    """The instant of so many microseconds since 1970."""
    return _BEGINNING + timedelta(microseconds=of)


@lru_cache(maxsize=16_384)
def timestamp(time: datetime) -> Timestamp:
    """A time as the contract has it, to be put into a message and not to be changed."""
    seconds, rest = divmod(micros_of(time), 1_000_000)
    return Timestamp(seconds=seconds, nanos=rest * 1000)


@lru_cache(maxsize=4096)
def rules_in(document: bytes) -> Rules:
    """The rules of a theme, read from what it says: a serialised `Theme`."""
    return rules(Theme.FromString(document))


def rules(theme: Theme) -> Rules:
    """The rules of a theme."""
    return Rules(
        longest_terms={Kind(term.kind): term.months for term in theme.longest_terms},
        principal_kind=PartyKind(theme.principal_kind),
        delegate_kind=PartyKind(theme.delegate_kind),
        least_age=theme.least_age or LEAST_AGE,
        specifier_pattern=theme.specifier_rule.pattern,
        specifier_required=theme.specifier_rule.required,
        register_rights=tuple(
            RegisterRight(role=one.role, until_age=one.until_age, jointly_is_enough=one.jointly_is_enough)
            for one in theme.register_rights
        ),
        assurance_level=theme.assurance_level,
        greatest_depth=theme.greatest_depth or GREATEST_DEPTH,
        issued_end_with_issuer=theme.issued_end_with_issuer,
        ignored_blocks=frozenset(theme.ignored_blocks),
    )


def request(question: Question) -> CheckRequest:
    """A question as it is asked of the service, with the instant that is judged."""
    asked = CheckRequest()
    ask(asked, question)
    return asked


def ask(asked: CheckRequest, question: Question) -> None:
    """The same in a message that is there, empty, within another: nothing is copied."""
    asked.theme = f"themes/{question.theme_id}"
    asked.delegate.name = question.delegate
    asked.principal.name = question.principal
    seconds, rest = divmod(micros_of(question.at), 1_000_000)
    asked.at.seconds, asked.at.nanos = seconds, rest * 1000
    if question.specifier:
        asked.specifier = question.specifier
    if question.through:
        asked.through.name = question.through
    if question.assurance_level:
        asked.assurance_level = question.assurance_level  # type: ignore[assignment]


def response(verdict: Verdict, *, consistency_token: str, audit_record: str) -> CheckResponse:
    """A verdict as the service answers it, with the facts that it was judged by and where it is recorded."""
    answer = CheckResponse()
    fill(answer, verdict, consistency_token=consistency_token, audit_record=audit_record)
    return answer


def fill(answer: CheckResponse, verdict: Verdict, *, consistency_token: str, audit_record: str) -> None:
    """The same in a message that is there, empty, within another: nothing is copied."""
    answer.decision = DECISION_ALLOWED if verdict.allowed else DECISION_DENIED
    answer.consistency_token = consistency_token
    answer.audit_record = audit_record
    answer.needed_assurance_level = verdict.assurance_level  # type: ignore[assignment]
    if not verdict.allowed:
        answer.reason = verdict.reason  # type: ignore[assignment]
        return
    answer.basis = verdict.basis  # type: ignore[assignment]
    answer.mandates.extend(verdict.mandates)
    if verdict.through:
        answer.through.name = verdict.through
    if verdict.expire:
        answer.expire_time.CopyFrom(timestamp(verdict.expire))


def verdict(response: CheckResponse) -> Verdict:
    """The service's answer as a verdict, without the steps that led to it."""
    return Verdict(
        allowed=response.decision == DECISION_ALLOWED,
        reason=Reason(response.reason),
        basis=Basis(response.basis),
        mandates=tuple(response.mandates),
        through=response.through.name,
        expire=instant(micros(response.expire_time)) if response.HasField("expire_time") else None,
        assurance_level=response.needed_assurance_level,
    )
