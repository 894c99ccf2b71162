"""Checks containers step by step, offline, and says in plain words what holds, what does not, and what is unknown.

It needs nothing of a node: what is trusted, the caller gives. So a stranger
checks with the same code as the nodes, and with ordinary tools as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TypeVar

from cryptography import x509

from services.exchange.evidence import (
    certificates,
    container,
    records,
    signatures,
    statements,
    status,
    timestamps,
    xades,
)
from services.exchange.evidence.container import Container
from services.exchange.evidence.signatures import BATCH_FILE, BatchPlace, Form, PinnedKey, Signature
from services.exchange.evidence.statements import Kind, Statement
from services.exchange.evidence.xades import XadesFile
from services.runtime.errors import Fault, InvalidArgument

T = TypeVar("T")

SKEW = timedelta(seconds=60)
"""How far a signer's clock may be ahead of a time-stamping authority's."""


class Outcome(Enum):
    """What became of a step."""

    HOLDS = "holds"
    FAILS = "does not hold"
    UNKNOWN = "unknown"


class Step(Enum):
    """What is checked, in this order."""

    CONTAINER = "container"
    STATEMENT = "statement"
    SIGNATURE = "signature"
    CERTIFICATE = "certificate"
    SIGNER = "signer"
    STATUS = "certificate status"
    TIME = "time"
    CONTENT = "content"
    BINDING = "binding"


PROOF = frozenset(Step) - {Step.CONTENT, Step.BINDING}
"""The steps that prove who said what, and when: for a container to be proven all of them hold."""


@dataclass(frozen=True)
class Finding:
    """What one step found."""

    step: Step
    outcome: Outcome
    text: str
    reason: str = ""
    """A value of the contract's `ErrorReason`, where the step does not hold."""


@dataclass(frozen=True)
class Anchors:
    """What the caller trusts, and got by a way of its own."""

    authorities: Sequence[bytes] = ()
    """Certificates (DER) of those who issue, answer for status, and stamp time."""
    signers: Sequence[bytes] = ()
    """Certificates (DER) that are known to be the sender's."""
    max_status_age: timedelta = status.MAX_AGE


@dataclass(frozen=True)
class Beside:
    """What lies beside a container."""

    statement: bytes = b""
    """Of a signature over a batch: the statement."""
    place: BatchPlace | None = None
    """Of a signature over a batch: where the statement is in it."""
    content: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """SHA-256 (hexadecimal) and length of what is at hand of "head", "body" and "trailers"."""


@dataclass
class Report:
    """What was found of one container."""

    findings: list[Finding] = field(default_factory=list)
    statement: Statement | None = None
    """What it says, where it could be read."""
    proven_time: datetime | None = None
    """The instant at which the signature existed, by a trusted authority's word."""

    @property
    def outcome(self) -> Outcome:
        """HOLDS where all that proves who said what and when does; nothing at all may fail."""
        if any(each.outcome is Outcome.FAILS for each in self.findings):
            return Outcome.FAILS
        held = {each.step for each in self.findings if each.outcome is Outcome.HOLDS}
        return Outcome.HOLDS if held >= PROOF else Outcome.UNKNOWN

    def holds(self, step: Step, text: str) -> None:
        """Enters that a step holds."""
        self.findings.append(Finding(step, Outcome.HOLDS, text))

    def unknown(self, step: Step, text: str) -> None:
        """Enters that a step could not be judged, and what it would take."""
        self.findings.append(Finding(step, Outcome.UNKNOWN, text))

    def attempt(self, step: Step, call: Callable[[], T]) -> T | None:
        """What `call` returns; None where it was refused, which is entered."""
        try:
            return call()
        except Fault as fault:
            detail = "".join(f" ({name}: {value})" for name, value in fault.metadata.items() if value)
            self.findings.append(Finding(step, Outcome.FAILS, fault.message + detail, fault.reason))
            return None


def verify(content: bytes, *, anchors: Anchors, beside: Beside | None = None) -> Report:
    """Checks one container.

    1. The container has its files and no others, and its signature file is of signed form 1.
    2. The statement is one; of a batch, the batch holds it.
    3. The signature is over this file and this certificate, and verifies.
    4. A trusted authority issued the certificate, and it counted when it signed.
    5. The certificate is known to be the sender's.
    6. The certificate had not been revoked.
    7. A trusted authority stamped the time.
    8. Content that is at hand is what the statement speaks of.

    What is still to be checked: whether the authorities deserve the trust,
    the status of the time-stamping authority's own certificate, and what the
    statement answers (`check_binding`).
    """
    beside = beside or Beside()
    report = Report()
    opened = report.attempt(Step.CONTAINER, lambda: _open(content))  # 1
    if opened is None:
        return report
    held, found = opened
    report.holds(Step.CONTAINER, f"an ASiC-E container with {held.file}, one signature and nothing else")
    _check_statement(report, held, found, beside)  # 2
    pinned = report.attempt(Step.SIGNATURE, lambda: _verified(held, found))  # 3
    if pinned is None:
        return report
    report.holds(Step.SIGNATURE, f"made over {held.file} with the key of the certificate of {_name(pinned.x509)}")
    stamped = _check_time(report, held, found, anchors)
    issuer = _check_certificate(report, found, pinned, anchors, stamped)  # 4
    _check_signer(report, pinned, anchors)  # 5
    _check_status(report, found, pinned, issuer, max_age=anchors.max_status_age, stamped=stamped)  # 6
    report.findings.sort(key=lambda each: list(Step).index(each.step))  # 7 is judged first: others need its instant
    _check_content(report, beside)  # 8
    return report


def check_binding(reports: Sequence[Report]) -> None:
    """Enters for each answer, receipt and refusal whether what it answers is among the others."""
    known = {report.statement.sha256.hex(): report.statement for report in reports if report.statement}
    for report in reports:
        answer = report.statement
        if answer is None or answer.kind in {Kind.REQUEST, Kind.ENVELOPE}:
            continue
        question = known.get(answer.lines.get("answers", ""))
        if question is None:
            report.unknown(Step.BINDING, "what it answers is not among the containers given")
        elif report.attempt(Step.BINDING, lambda a=answer, q=question: _bound(a, q)):  # type: ignore[misc]
            report.holds(Step.BINDING, f"it answers the {question.kind.value} of {question.sender[1]}")


def _bound(answer: Statement, question: Statement) -> bool:
    statements.check_bound(answer, question)
    return True


def _open(content: bytes) -> tuple[Container, XadesFile]:
    held = container.read(content)
    found = xades.read(held.signature)
    if found.file != held.file:
        raise InvalidArgument(
            "CONTAINER_FILE_MISSING", "the signature is over a file that is not there", file=found.file
        )
    return held, found


def _check_statement(report: Report, held: Container, found: XadesFile, beside: Beside) -> None:
    if held.file == BATCH_FILE and (not beside.statement or beside.place is None):
        report.unknown(
            Step.STATEMENT, "one signature covers many statements; give the statement and its place in the batch"
        )
        return
    content = beside.statement if held.file == BATCH_FILE else held.content
    said = report.attempt(Step.STATEMENT, lambda: statements.parse(content))
    if said is None:
        return
    if held.file == BATCH_FILE and not report.attempt(
        Step.STATEMENT, lambda: _in_batch(said, found, held.content, beside.place)
    ):
        return
    report.statement = said
    report.holds(
        Step.STATEMENT,
        f"{said.kind.value} {said.lines['id']} of {said.lines['time']}, from {said.sender[1]} to {said.receiver[1]}",
    )


def _in_batch(said: Statement, found: XadesFile, file: bytes, place: BatchPlace | None) -> bool:
    signature = Signature(Form.XADES_1_BATCH, found.signing_time, b"", found.value, place)
    if signatures.signed_file(said, signature)[1] != file:
        raise InvalidArgument("BATCH_PATH_INVALID", "the batch does not hold the statement at the place given")
    return True


def _verified(held: Container, found: XadesFile) -> PinnedKey:
    if len(found.certificate) > certificates.MAX_CERTIFICATE_BYTES:
        raise _not_for("certificate")
    try:
        pinned = PinnedKey.of(found.certificate)
    except (ValueError, x509.InvalidVersion):
        raise _not_for("certificate") from None
    if xades.algorithm_of(found) is not pinned.algorithm:
        raise InvalidArgument("SIGNATURE_FORM_REFUSED", "the signature names another algorithm than its key's")
    if not xades.names_its_certificate(found, pinned):
        raise InvalidArgument(
            "KEY_CERTIFICATE_MISMATCH", "the certificate beside the signature is not the one that was signed with it"
        )
    if not xades.covers(found, pinned, hashlib.sha256(held.content).digest()):
        raise InvalidArgument("SIGNATURE_INVALID", f"{held.file} is not the file that was signed")
    signatures.raw_verify(pinned.public_key, pinned.algorithm, found.value, found.signed_info)
    return pinned


def _not_for(rule: str) -> InvalidArgument:
    return InvalidArgument("CONTAINER_MALFORMED", "the signer's certificate cannot be read", rule=rule)


def _check_time(report: Report, held: Container, found: XadesFile, anchors: Anchors) -> datetime | None:
    signed = datetime.fromtimestamp(found.signing_time, UTC)
    if not held.record and not found.time_stamp:
        report.unknown(Step.TIME, f"there is no time stamp; the signer says {signed:%Y-%m-%d %H:%M:%S} UTC")
        return None
    if not anchors.authorities:
        report.unknown(Step.TIME, "there is a time stamp; give the authorities that you trust, to judge it")
        return None
    stamp = report.attempt(Step.TIME, lambda: _stamp(held, found, signed, anchors))
    if stamp is None:
        return None
    kind = "an evidence record (RFC 4998)" if held.record else "a time stamp (RFC 3161)"
    report.holds(Step.TIME, f"{kind} of {_name(stamp.authority)}: it existed at {stamp.time:%Y-%m-%d %H:%M:%S} UTC")
    report.proven_time = stamp.time
    return stamp.time


def _stamp(held: Container, found: XadesFile, signed: datetime, anchors: Anchors) -> timestamps.Stamp:
    stamps = []
    if held.record:
        stamps.append(records.verify(held.record, held.group, authorities=anchors.authorities))
    if found.time_stamp:
        imprint = hashlib.sha256(signatures.signature_value(found.value)).digest()
        stamps.append(timestamps.verify(found.time_stamp, imprint, authorities=anchors.authorities))
    first = min(stamps, key=lambda each: each.time)
    if signed > first.time + SKEW:
        raise InvalidArgument("TIME_STAMP_INVALID", "the signer says that it signed after the time stamp was made")
    return first


def _check_certificate(
    report: Report, found: XadesFile, pinned: PinnedKey, anchors: Anchors, stamped: datetime | None
) -> x509.Certificate | None:
    signed = datetime.fromtimestamp(found.signing_time, UTC)
    if report.attempt(Step.CERTIFICATE, lambda: _counted(pinned, found.signing_time)) is None:
        return None
    if not anchors.authorities:
        report.unknown(Step.CERTIFICATE, "give the authorities that you trust, to judge who issued the certificate")
        return None
    issuer = report.attempt(
        Step.CERTIFICATE,
        lambda: certificates.check_issued(pinned.x509, found.chain, anchors.authorities, at=signed),
    )
    if issuer is None:
        return None
    if stamped is not None and stamped > pinned.x509.not_valid_after_utc:
        report.unknown(Step.CERTIFICATE, "its time was over before the time stamp: it may have signed after its end")
    else:
        report.holds(Step.CERTIFICATE, f"issued by {_name(issuer)}, whom you trust, and in its time when it signed")
    return issuer


def _counted(pinned: PinnedKey, signing_time: int) -> bool:
    signatures.check_period(pinned, signing_time)
    return True


def _check_signer(report: Report, pinned: PinnedKey, anchors: Anchors) -> None:
    whose = report.statement.sender[1] if report.statement else "the sender"
    if not anchors.signers:
        report.unknown(
            Step.SIGNER,
            f"whether {_name(pinned.x509)} is {whose}: give a certificate that you know to be the sender's",
        )
    elif pinned.certificate in anchors.signers:
        report.holds(Step.SIGNER, f"the certificate is one that you gave as that of {whose}")
    else:
        report.findings.append(
            Finding(Step.SIGNER, Outcome.FAILS, "the certificate is none of those given", "SIGNER_NOT_SENDER")
        )


def _check_status(
    report: Report,
    found: XadesFile,
    pinned: PinnedKey,
    issuer: x509.Certificate | None,
    *,
    max_age: timedelta,
    stamped: datetime | None,
) -> None:
    if not found.status:
        report.unknown(Step.STATUS, "there is no word on whether the certificate had been revoked")
        return
    if issuer is None:
        report.unknown(Step.STATUS, "there is a status; it cannot be judged before the certificate's issuer is trusted")
        return
    judged = report.attempt(Step.STATUS, lambda: _status(found, pinned.x509, issuer, max_age=max_age, stamped=stamped))
    if judged is None:
        return
    if judged.revoked is not None:
        report.holds(Step.STATUS, f"revoked on {judged.revoked:%Y-%m-%d %H:%M:%S} UTC, after it had signed")
    else:
        report.holds(Step.STATUS, f"not revoked as of {judged.as_of:%Y-%m-%d %H:%M:%S} UTC")


def _status(
    found: XadesFile,
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    *,
    max_age: timedelta,
    stamped: datetime | None,
) -> status.Status:
    signed = datetime.fromtimestamp(found.signing_time, UTC)
    judged = status.verify(found.status, certificate, issuer, at=signed, max_age=max_age)
    # Without a proven time it may have signed at any time, whatever it says: revoked is revoked.
    status.check_good(judged, at=stamped or datetime.max.replace(tzinfo=UTC))
    return judged


def _check_content(report: Report, beside: Beside) -> None:
    if report.statement is None:
        return
    lines = report.statement.lines
    for name in ("head", "body", "trailers"):
        said = (lines.get(f"{name}-sha256"), lines.get(f"{name}-bytes"))
        if name in beside.content:
            digest, size = beside.content[name]
            matches = said == (digest, str(size))
            reason = "" if matches else f"{name.upper()}_DIGEST_MISMATCH"
            text = f"the {name} at hand is {'the one' if matches else 'not the one'} that the statement speaks of"
            report.findings.append(Finding(Step.CONTENT, Outcome.HOLDS if matches else Outcome.FAILS, text, reason))
        elif said[0]:
            report.unknown(Step.CONTENT, f"the {name} is not at hand: {said[1]} bytes with SHA-256 {said[0]}")


def _name(certificate: x509.Certificate) -> str:
    """Whose a certificate says it is, for people: names are anybody's text."""
    return ascii(certificate.subject.rfc4514_string())[1:-1]
