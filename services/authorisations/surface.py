"""Which servicer answers which service of the contract."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.descriptor import ServiceDescriptor
from solmu.authorisations.v1 import (
    administration_pb2,
    audit_pb2,
    certificates_pb2,
    checks_pb2,
    clients_pb2,
    log_in_pb2,
    mandate_service_pb2,
    registers_pb2,
    themes_pb2,
    tokens_pb2,
    watch_pb2,
)

from services.authorisations.administration_servicer import AdministrationServicer
from services.authorisations.audit_servicer import AuditServicer
from services.authorisations.certificate_servicer import CertificateServicer
from services.authorisations.check_servicer import CheckServicer
from services.authorisations.client_servicer import ClientServicer
from services.authorisations.log_in_servicer import LogInServicer
from services.authorisations.mandate_servicer import MandateServicer
from services.authorisations.register_servicer import RegisterServicer
from services.authorisations.theme_servicer import ThemeServicer
from services.authorisations.token_servicer import KeyServicer, TokenServicer
from services.authorisations.watch_servicer import WatchServicer


def surface(
    *,
    clients: ClientServicer,
    certificates: CertificateServicer,
    tokens: TokenServicer,
    keys: KeyServicer,
    mandates: MandateServicer,
    themes: ThemeServicer,
    checks: CheckServicer,
    audit: AuditServicer,
    watch: WatchServicer,
    registers: RegisterServicer,
    administration: AdministrationServicer,
    log_ins: LogInServicer,
) -> Iterator[tuple[ServiceDescriptor, object]]:
    """Every service of the contract, with what answers it."""
    yield clients_pb2.DESCRIPTOR.services_by_name["ClientService"], clients
    yield certificates_pb2.DESCRIPTOR.services_by_name["CertificateService"], certificates
    yield tokens_pb2.DESCRIPTOR.services_by_name["TokenService"], tokens
    yield tokens_pb2.DESCRIPTOR.services_by_name["KeyService"], keys
    yield mandate_service_pb2.DESCRIPTOR.services_by_name["MandateService"], mandates
    yield themes_pb2.DESCRIPTOR.services_by_name["ThemeService"], themes
    yield checks_pb2.DESCRIPTOR.services_by_name["CheckService"], checks
    yield audit_pb2.DESCRIPTOR.services_by_name["AuditService"], audit
    yield watch_pb2.DESCRIPTOR.services_by_name["WatchService"], watch
    yield registers_pb2.DESCRIPTOR.services_by_name["RegisterService"], registers
    yield administration_pb2.DESCRIPTOR.services_by_name["AdministrationService"], administration
    yield log_in_pb2.DESCRIPTOR.services_by_name["LogInService"], log_ins
