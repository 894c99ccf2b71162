"""Whether the process of this container serves: what the health checks of compose and the probes of Kubernetes run.

It reads what the process itself reads, and calls it on loopback over mutual
TLS: a service by grpc.health.v1, the gateway by its health path, as the edge.
The kubelet's own gRPC probe speaks no TLS.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from deploy.local import probes
from services.runtime import config, mesh, tls
from services.runtime.config import Address, address, file, setting

HEALTH_PATH = "/healthz"


@dataclass(frozen=True, kw_only=True)
class HealthSettings:
    """What the health command reads, of what its process reads."""

    listen: Address = setting("SOLMU_LISTEN", address, doc="host:port on which the process serves")
    certificate: Path = setting("SOLMU_TLS_CERTIFICATE", file, doc="certificate chain of the process, PEM")
    key: Path = setting("SOLMU_TLS_KEY", file, doc="its private key, PEM")
    authorities: Path = setting("SOLMU_TLS_AUTHORITIES", file, doc="certificates of the node's internal authority, PEM")
    upstream_certificate: Path | None = setting(
        "SOLMU_EDGE_UPSTREAM_CERTIFICATE", file, default=None, doc="of the gateway: certificate of the identity `edge`"
    )
    upstream_key: Path | None = setting(
        "SOLMU_EDGE_UPSTREAM_KEY", file, default=None, doc="of the gateway: private key of the identity `edge`"
    )


def check() -> None:
    """Raises what a probe raises where the process does not serve."""
    settings = config.read(HealthSettings)
    if settings.upstream_certificate is not None and settings.upstream_key is not None:
        edge = tls.Files(settings.upstream_certificate, settings.upstream_key, settings.authorities)
        probe = probes.healthy(port=settings.listen.port, service=mesh.GATEWAY, path=HEALTH_PATH, operator=edge)
    else:
        own = tls.Files(settings.certificate, settings.key, settings.authorities)
        probe = probes.serving(port=settings.listen.port, service=_name(own), operator=own)
    asyncio.run(_once(probe))


async def _once(probe: probes.Probe) -> None:
    await probe()


def _name(files: tls.Files) -> str:
    """The name in the process's own certificate, by which others call it."""
    certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
