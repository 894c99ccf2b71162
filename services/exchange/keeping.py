"""What is kept of each statement: its proof always, its content as the policy says.

The journal writes it with the statement (`journal.Keep`), so that there is none
without its evidence.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from datetime import UTC, datetime

from services.exchange import evidence_store
from services.exchange.evidence_rules import Content, Rules, Stamp, Stamping
from services.exchange.evidence_store import Certificate, Evidence, Kept
from services.exchange.journal import Entry
from services.runtime.database import Database, Row
from services.runtime.errors import InvalidArgument
from services.runtime.sealing import Sealer, Vault

FRAME = 256 * 1024
"""Bytes of content in one row: what is sealed, and read, at once."""

PARTS = {"head": 1, "body": 2, "trailers": 3}
"""The numbers of parts in the table `content`."""

FindCertificate = Callable[[bytes], Certificate | None]
"""The certificate of a signer by its SHA-256, with the authorities above it."""

_KEPT = {Content.CONTENT_STATE_KEPT, Content.CONTENT_STATE_ENCRYPTED}


class Keeping:
    """Keeps evidence. `rules_of` says what goes by a policy's line: id "/" revision."""

    def __init__(self, *, vault: Vault, rules_of: Callable[[str], Rules], certificate: FindCertificate) -> None:
        self._vault = vault
        self._rules_of = rules_of
        self._certificate = certificate

    def keep(self, entries: Collection[Entry]) -> Kept:
        """What goes with statements, should they be written.

        Raises InvalidArgument, CERTIFICATE_UNKNOWN, where a signer's
        certificate is nowhere: nothing is taken that could not be shown later.
        """
        now = datetime.now(UTC)
        signers = {entry.signature.certificate_sha256 for entry in entries}
        answers = {entry.certificate_status for entry in entries} - {b""}
        evidence = {entry.key: self._evidence(entry, now) for entry in entries}
        return Kept(
            tuple(evidence.values()),
            certificates=[self._found(sha256) for sha256 in sorted(signers)],
            statuses={_digest(answer): answer for answer in sorted(answers)},
            content=[(entry.key, *frame) for entry in entries for frame in self._frames(evidence[entry.key], entry)],
        )

    async def read(self, database: Database, row: Row, part: str, *, offset: int = 0) -> AsyncIterator[bytes]:
        """A part of a statement's content that is kept, from `offset` on, a frame at a time."""
        sealer = self._sealer(row["sha256"], row["content_key"])
        first, skip = divmod(offset, FRAME)
        async for frame, data in evidence_store.content(database, row["seq"], PARTS[part], first=first):
            content = sealer.open(data, context=_context(part, frame)) if sealer else data
            yield content[skip:] if frame == first else content

    def _found(self, sha256: bytes) -> Certificate:
        certificate = self._certificate(sha256)
        if certificate is None:
            raise InvalidArgument("CERTIFICATE_UNKNOWN", "the directory does not have the certificate for statements")
        return certificate

    def _evidence(self, entry: Entry, now: datetime) -> Evidence:
        rules = self._rules_of(entry.policy)
        stamp = Stamp.TIME_STAMP_STATE_PENDING
        if entry.time_stamp:
            stamp = Stamp.TIME_STAMP_STATE_SINGLE
        elif rules.stamping is Stamping.NONE:
            stamp = Stamp.TIME_STAMP_STATE_NONE
        content = entry.content
        body = len(content.body or b"") + len(content.trailers)
        head_state: Content.ValueType = rules.content if content.head else Content.CONTENT_STATE_UNSPECIFIED
        body_state = _body_state(entry, rules, size=body)
        kept = {head_state, body_state} & _KEPT
        sealed = Content.CONTENT_STATE_ENCRYPTED in kept
        return Evidence(
            key=entry.key,
            stamp_state=stamp,
            status_sha256=_digest(entry.certificate_status) if entry.certificate_status else None,
            head_state=head_state,
            body_state=body_state,
            content_key=self._vault.new_key(owner=_owner(entry.statement.sha256)) if sealed else b"",
            content_expire_time=now + rules.content_duration if kept else None,
            expire_time=now + rules.evidence_duration,
        )

    def _frames(self, evidence: Evidence, entry: Entry) -> Iterator[tuple[int, int, bytes]]:
        """Part, frame and data of what is kept."""
        if not {evidence.head_state, evidence.body_state} & _KEPT:
            return
        sealer = self._sealer(entry.statement.sha256, evidence.content_key)
        kept = {
            "head": entry.content.head if evidence.head_state in _KEPT else b"",
            "body": entry.content.body if evidence.body_state in _KEPT else b"",
            "trailers": entry.content.trailers if evidence.body_state in _KEPT else b"",
        }
        for part, content in kept.items():
            for frame, at in enumerate(range(0, len(content or b""), FRAME)):
                data = (content or b"")[at : at + FRAME]
                yield PARTS[part], frame, sealer.seal(data, context=_context(part, frame)) if sealer else data

    def _sealer(self, sha256: bytes, content_key: bytes) -> Sealer | None:
        return self._vault.sealer(content_key, owner=_owner(sha256)) if content_key else None


def _body_state(entry: Entry, rules: Rules, *, size: int) -> Content.ValueType:
    if int(entry.statement.lines.get("body-bytes", "0")) + len(entry.content.trailers) == 0:
        return Content.CONTENT_STATE_UNSPECIFIED
    if entry.content.body is None or size > rules.max_body_bytes:
        return Content.CONTENT_STATE_NOT_KEPT
    return rules.content


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _owner(sha256: bytes) -> str:
    return f"statements/{sha256.hex()}"


def _context(part: str, frame: int) -> str:
    return f"{part}/{frame}"
