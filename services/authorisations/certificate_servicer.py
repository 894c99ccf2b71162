"""CertificateService: spreads the news of revoked client certificates."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from solmu.authorisations.v1 import certificates_pb2

from services.authorisations import events
from services.runtime.database import Database
from services.runtime.outbox import Outbox
from services.runtime.revocations import Revocations, refuse_certificates


class CertificateServicer:
    """Answers CertificateService. `clock` gives the time, with its zone."""

    def __init__(
        self, *, database: Database, outbox: Outbox, revocations: Revocations, clock: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._revocations = revocations
        self._clock = clock

    async def ReportRevokedCertificates(
        self, request: certificates_pb2.ReportRevokedCertificatesRequest
    ) -> certificates_pb2.ReportRevokedCertificatesResponse:
        """Has certificates refused, here at once and elsewhere by the event that commits with it."""
        now = self._clock()
        async with self._database.transaction() as transaction:
            fresh = await refuse_certificates(transaction, request.serial_numbers, report_time=now)
            if fresh:
                await self._outbox.append(transaction, [events.certificates_revoked(fresh, now=now)])
        if fresh:
            self._outbox.wake()
            await self._revocations.look()
        return certificates_pb2.ReportRevokedCertificatesResponse()
