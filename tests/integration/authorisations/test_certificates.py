"""The news of revoked client certificates."""

from __future__ import annotations

from solmu.authorisations.v1.certificates_pb2 import ReportRevokedCertificatesRequest
from solmu.authorisations.v1.events_pb2 import CertificatesRevoked

from services.runtime.identity import CERTIFICATES
from tests.integration.authorisations.service import Service


async def test_each_certificate_is_news_once_whichever_edge_reports_it(service: Service) -> None:
    for serials in (["0a0a", "0b0b"], ["0a0a", "0b0b"], ["0b0b", "0c0c"]):
        await service.certificates.ReportRevokedCertificates(ReportRevokedCertificatesRequest(serial_numbers=serials))
    rows = await service.database.fetch(
        "select payload from outbox where type = $1 order by seq", CertificatesRevoked.DESCRIPTOR.full_name
    )
    told = [sorted(CertificatesRevoked.FromString(row["payload"]).serial_numbers) for row in rows]
    assert told == [["0a0a", "0b0b"], ["0c0c"]]


async def test_a_reported_certificate_is_on_the_list_of_what_ends_streams(service: Service) -> None:
    report = ReportRevokedCertificatesRequest(serial_numbers=["0d0d"])
    await service.certificates.ReportRevokedCertificates(report)
    await service.database.execute("update revoked_certificate set report_time = now()")
    await service.revocations.load()
    assert service.revocations.revoked(f"{CERTIFICATES}0d0d")
    await service.database.execute("update revoked_certificate set report_time = now() - interval '1 day'")
    await service.revocations.load()
    assert not service.revocations.revoked(f"{CERTIFICATES}0d0d")
