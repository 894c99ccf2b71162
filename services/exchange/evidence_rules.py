"""What a policy says of evidence, with the contract's defaults filled in (policies.proto). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from solmu.exchange.v1.evidence_pb2 import Statement
from solmu.exchange.v1.policies_pb2 import WHEN_AWAY_STOP, ExchangePolicy

from services.exchange.evidence.status import Status, fresh_until
from services.runtime.errors import Unavailable

Content = Statement.ContentState
Stamp = Statement.TimeStampState
_Mode = ExchangePolicy.ContentRetention.Mode
_Stamping = ExchangePolicy.TimeStamping.Mode

MAX_PENDING = 1_000_000
MAX_PENDING_AGE = timedelta(hours=72)
CONTENT_DURATION = timedelta(days=30)
MAX_BODY_BYTES = 10 * 1024 * 1024
EVIDENCE_DURATION = timedelta(days=3652)
STATUS_GRACE = timedelta(hours=24)


class Stamping(Enum):
    """When time is proven."""

    BATCHED = "batched"
    SYNCHRONOUS = "synchronous"
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What goes for the evidence of an exchange."""

    stamping: Stamping = Stamping.BATCHED
    stop_when_away: bool = False
    """Whether exchanges stop while no time-stamping authority answers."""
    authorities: tuple[str, ...] = ()
    """Trust services, by name and in this order; empty: any of the mesh."""
    max_pending: int = MAX_PENDING
    max_pending_age: timedelta = MAX_PENDING_AGE
    status_max_age: timedelta | None = None
    """How old a certificate's status may be; None: as the mesh says."""
    stop_without_status: bool = False
    """Whether exchanges stop at once where there is no fresh status."""
    status_grace: timedelta = STATUS_GRACE
    """For how long to go on without a fresh one otherwise."""
    content: Content.ValueType = Content.CONTENT_STATE_NOT_KEPT
    """What becomes of content: not kept, kept, or kept encrypted."""
    content_duration: timedelta = CONTENT_DURATION
    max_body_bytes: int = MAX_BODY_BYTES
    evidence_duration: timedelta = EVIDENCE_DURATION


@dataclass(frozen=True)
class Backlog:
    """What waits for time stamps."""

    pending: int = 0
    oldest: datetime | None = None
    """When the oldest of it was kept."""
    failing_since: datetime | None = None
    """From when on no authority has answered; None: one did, the last time."""


def rules(policy: ExchangePolicy) -> Rules:
    """What a policy says."""
    stamping, retention, status = policy.time_stamping, policy.content_retention, policy.certificate_status
    return Rules(
        stamping={
            _Stamping.MODE_SYNCHRONOUS: Stamping.SYNCHRONOUS,
            _Stamping.MODE_NONE: Stamping.NONE,
        }.get(stamping.mode, Stamping.BATCHED),
        stop_when_away=stamping.when_away == WHEN_AWAY_STOP,
        authorities=tuple(stamping.authorities),
        status_max_age=_span(status, "max_age", timedelta(0)) or None,
        stop_without_status=status.when_away == WHEN_AWAY_STOP,
        status_grace=_span(status, "grace", STATUS_GRACE),
        max_pending=stamping.max_pending or MAX_PENDING,
        max_pending_age=_span(stamping, "max_pending_age", MAX_PENDING_AGE),
        content={
            _Mode.MODE_ENCRYPTED: Content.CONTENT_STATE_ENCRYPTED,
            _Mode.MODE_PLAIN: Content.CONTENT_STATE_KEPT,
        }.get(retention.mode, Content.CONTENT_STATE_NOT_KEPT),
        content_duration=_span(retention, "duration", CONTENT_DURATION),
        max_body_bytes=retention.max_body_bytes or MAX_BODY_BYTES,
        evidence_duration=_span(policy, "evidence_retention", EVIDENCE_DURATION),
    )


def check_backlog(given: Rules, backlog: Backlog, *, now: datetime) -> None:
    """Refuses an exchange whose statements would wait for longer than its policy allows.

    Raises Unavailable: TIME_STAMP_UNAVAILABLE where the policy stops while no
    authority answers, TIME_STAMP_BACKLOG_FULL where as many statements wait as
    may, or one for as long.
    """
    if given.stamping is Stamping.NONE:
        return
    if given.stop_when_away and backlog.failing_since is not None:
        raise unavailable()
    too_old = backlog.oldest is not None and backlog.oldest + given.max_pending_age < now
    if backlog.pending >= given.max_pending or too_old:
        raise Unavailable("TIME_STAMP_BACKLOG_FULL", "as many statements wait for their time stamp as may")


def usable_until(given: Rules, known: Status, mesh_max_age: timedelta) -> datetime:
    """Until when an exchange goes on by a status: as mesh and policy allow, and for the policy's grace after that."""
    end = fresh_until(known, min(given.status_max_age or mesh_max_age, mesh_max_age))
    return end if given.stop_without_status else end + given.status_grace


def unavailable() -> Unavailable:
    """No authority answers."""
    return Unavailable("TIME_STAMP_UNAVAILABLE", "no time-stamping authority answers")


def _span(message: Message, name: str, default: timedelta) -> timedelta:
    value: Duration = getattr(message, name)
    return value.ToTimedelta() if message.HasField(name) else default
