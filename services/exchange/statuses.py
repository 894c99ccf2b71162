"""The status of certificates: fetched ahead for this node's own, judged for those of others (RFC 6960).

What a signer's node staples is verified once and remembered, so that a
statement costs a look-up. An answer that says "revoked" always stops; where
there is no fresh one, the policy says whether an exchange goes on.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import aiohttp
from cryptography import x509
from solmu.exchange.v1 import keys_pb2

from services.exchange import authorities, status_store
from services.exchange.evidence import status
from services.exchange.evidence.signatures import PinnedKey
from services.exchange.evidence.status import Status
from services.exchange.evidence_rules import Rules, usable_until
from services.runtime.database import PASSING, Database
from services.runtime.errors import Fault, InvalidArgument, Unavailable

logger = logging.getLogger(__name__)

LOOK_INTERVAL = 1.0
"""Seconds between two looks for what is to be fetched, or was fetched by another process."""

RETRY_INTERVAL = timedelta(seconds=30)
"""Between two tries where no responder answers."""

SHARE = 3
"""A status is fetched anew when one part in so many of its time is over: two thirds of it to notice that it fails."""

AHEAD = timedelta(minutes=1)
"""How far a responder's clock may be ahead of this node's."""

REMEMBERED = 10_000
"""Certificates of others whose last status is remembered."""


@dataclass(frozen=True)
class Issuer:
    """Who answers for a certificate, as the directory says."""

    certificate: x509.Certificate
    """The authority that issued it."""
    uris: tuple[str, ...]
    responders: tuple[bytes, ...] = ()
    """Certificates (DER) that may answer for it besides the authority and whom it named itself."""


FindIssuer = Callable[[bytes], Issuer | None]
"""Who answers for a certificate (DER)."""


@dataclass(frozen=True)
class Known:
    """An answer that was verified."""

    answer: bytes
    status: Status


class Statuses:
    """The statuses of a process. `own` are the certificates (DER) of this node's keys that are in use."""

    def __init__(
        self,
        *,
        database: Database,
        session: aiohttp.ClientSession,
        issuer: FindIssuer,
        own: Callable[[], Collection[bytes]],
        max_age: Callable[[], timedelta],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database = database
        self._session = session
        self._issuer = issuer
        self._own = own
        self._max_age = max_age
        self._clock = clock
        self._known: dict[bytes, Known] = {}

    async def turn(self) -> float:
        """Fetches what is due; one process at a time."""
        await self.fetch_due()
        return LOOK_INTERVAL

    async def follow(self) -> None:
        """Takes what was fetched, for as long as the process runs."""
        while True:
            try:
                await self.load()
            except PASSING as error:
                logger.warning("certificate status is not known", extra={"error": type(error).__qualname__})
            await asyncio.sleep(LOOK_INTERVAL)

    async def load(self) -> None:
        """Takes what was fetched for this node's certificates."""
        for row in await status_store.all_of(self._database):
            if row["answer"]:
                said = Status(row["update_time"], row["end_time"], row["revoke_time"])
                self._known[row["certificate_sha256"]] = Known(row["answer"], said)

    async def fetch_due(self) -> None:
        """Asks for what is to be fetched now."""
        due = {row["certificate_sha256"]: row["refresh_time"] for row in await status_store.all_of(self._database)}
        for certificate in self._own():
            sha256 = hashlib.sha256(certificate).digest()
            if sha256 not in due or due[sha256] <= self._clock():
                await self.refresh(certificate)

    async def refresh(self, certificate: bytes) -> None:
        """Asks for the status of one of this node's certificates now, and keeps what came or why nothing did."""
        sha256 = hashlib.sha256(certificate).digest()
        now = self._clock()
        try:
            found = await self._ask(certificate, now)
        except Fault as fault:
            logger.warning("no certificate status", extra={"reason": fault.reason})
            await status_store.set_failure(
                self._database, sha256, failure=fault.reason, refresh_time=now + RETRY_INTERVAL
            )
            return
        end = status.fresh_until(found.status, self._max_age())
        await status_store.set_answer(
            self._database,
            sha256,
            answer=found.answer,
            update_time=found.status.as_of,
            end_time=found.status.until,
            revoke_time=found.status.revoked,
            refresh_time=now + max((end - now) / SHARE, RETRY_INTERVAL),
        )
        self._known[sha256] = found

    def staple(self, pinned: PinnedKey, rules: Rules) -> bytes:
        """The status to go with a statement that this node signs now.

        Raises InvalidArgument, CERTIFICATE_REVOKED, and Unavailable, STATUS_MISSING or STATUS_STALE, where the policy
        does not go on without a fresh one. Empty: there is none, and it goes on.
        """
        known = self._known.get(pinned.sha256)
        try:
            return self._judged(known, rules)
        except InvalidArgument as fault:
            if fault.reason == "CERTIFICATE_REVOKED":
                raise
            raise Unavailable(fault.reason, fault.message) from None

    def accept(self, pinned: PinnedKey, answer: bytes, rules: Rules) -> bytes:
        """The status by which a statement of another node is taken: the one stapled to it, or the last that was.

        Raises InvalidArgument: CERTIFICATE_REVOKED, STATUS_MISSING, STATUS_STALE, STATUS_NOT_FOR_CERTIFICATE,
        STATUS_RESPONDER_INVALID.
        """
        known = self._known.get(pinned.sha256)
        if answer and (known is None or known.answer != answer):
            fresh = self._verified(pinned.certificate, answer)
            if known is None or fresh.status.as_of >= known.status.as_of:
                known = fresh
                self._remember(pinned.sha256, fresh)
        return self._judged(known, rules)

    async def view(self, certificate: bytes) -> keys_pb2.CertificateStatus:
        """What is known of one of this node's certificates, as the contract shows it."""
        row = await status_store.one(self._database, hashlib.sha256(certificate).digest())
        shown = keys_pb2.CertificateStatus()
        if row is None:
            return shown
        shown.refresh_time.FromDatetime(row["refresh_time"])
        shown.refresh_failure = row["failure"]
        if row["answer"]:
            revoked = row["revoke_time"]
            shown.state = shown.STATE_REVOKED if revoked else shown.STATE_GOOD
            shown.response = row["answer"]
            shown.update_time.FromDatetime(row["update_time"])
            said = Status(row["update_time"], row["end_time"], revoked)
            shown.expire_time.FromDatetime(status.fresh_until(said, self._max_age()))
            if revoked:
                shown.revoke_time.FromDatetime(revoked)
        return shown

    async def _ask(self, certificate: bytes, now: datetime) -> Known:
        issuer = self._found_issuer(certificate)
        loaded = x509.load_der_x509_certificate(certificate)
        answer = await authorities.certificate_status(self._session, issuer.uris, loaded, issuer.certificate)
        return self._verified(certificate, answer, now=now)

    def _verified(self, certificate: bytes, answer: bytes, *, now: datetime | None = None) -> Known:
        issuer = self._found_issuer(certificate)
        at = now or self._clock()
        said = status.verify(
            answer,
            x509.load_der_x509_certificate(certificate),
            issuer.certificate,
            at=at,
            max_age=None,  # the policy of each exchange says
            responders=issuer.responders,
        )
        if said.as_of > at + AHEAD:
            raise InvalidArgument("STATUS_STALE", "the certificate's status is from the time to come")
        return Known(answer, said)

    def _found_issuer(self, certificate: bytes) -> Issuer:
        issuer = self._issuer(certificate)
        if issuer is None:
            raise InvalidArgument("STATUS_RESPONDER_INVALID", "the directory names nobody who answers for it")
        return issuer

    def _judged(self, known: Known | None, rules: Rules) -> bytes:
        now = self._clock()
        if known is None:
            if rules.stop_without_status:
                raise InvalidArgument("STATUS_MISSING", "there is no status for the certificate")
            return b""
        status.check_good(known.status, at=now)
        if usable_until(rules, known.status, self._max_age()) < now:
            raise InvalidArgument("STATUS_STALE", "the certificate's status is older than is allowed")
        return known.answer

    def _remember(self, sha256: bytes, known: Known) -> None:
        if len(self._known) >= REMEMBERED:
            self._known.pop(next(iter(self._known)))
        self._known[sha256] = known
