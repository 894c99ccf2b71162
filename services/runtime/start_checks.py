"""What is looked at before a process serves, so that a node that cannot be right does not run half.

Each check says what is wrong and what to do, and raises ConfigError with all
that it found.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime, timedelta

from cryptography import x509

from services.runtime import mesh, tls
from services.runtime.config import ConfigError, ProcessSettings
from services.runtime.database import Database

CLOCK_TOLERANCE = timedelta(minutes=1)
"""How far the clocks of a process and of its database may be apart: more than any that is kept in step."""


def certificate_faults(settings: ProcessSettings, process: str, *, now: datetime) -> list[str]:
    """What is wrong with the certificate of a process. Revocation is not checked: inside a node there is none."""
    files = settings.tls
    try:
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        authorities = x509.load_pem_x509_certificates(files.authorities.read_bytes())
    except ValueError:
        return ["SOLMU_TLS_CERTIFICATE or SOLMU_TLS_AUTHORITIES holds no certificate in PEM"]
    found = []
    try:
        tls.check(files)
    except (OSError, ValueError):
        found.append("SOLMU_TLS_KEY is not the key of SOLMU_TLS_CERTIFICATE")
    if now > certificate.not_valid_after_utc:
        found.append(
            f"SOLMU_TLS_CERTIFICATE expired on {certificate.not_valid_after_utc:%Y-%m-%d}: renew it"
            " (`make up`, the job `prepare` or cert-manager), or set this machine's clock if it is ahead"
        )
    if now < certificate.not_valid_before_utc:
        found.append("SOLMU_TLS_CERTIFICATE is not valid yet: is this machine's clock behind?")
    if not any(_issued(certificate, authority) for authority in authorities):
        found.append("SOLMU_TLS_CERTIFICATE was not issued by an authority in SOLMU_TLS_AUTHORITIES")
    expected = mesh.service_uri(settings.node, process)
    if expected not in _uris(certificate):
        found.append(f"SOLMU_TLS_CERTIFICATE is not that of {expected}: check SOLMU_NODE")
    return found


def check_certificate(settings: ProcessSettings, process: str) -> None:
    """Raises ConfigError where others would refuse the certificate of this process."""
    if faults := certificate_faults(settings, process, now=datetime.now(UTC)):
        raise ConfigError(faults)


async def check_clock(database: Database) -> None:
    """Raises ConfigError where this machine's clock and the database's disagree."""
    before = datetime.now(UTC)
    theirs: datetime = await database.fetchval("select clock_timestamp()")
    after = datetime.now(UTC)
    if before - CLOCK_TOLERANCE <= theirs <= after + CLOCK_TOLERANCE:
        return
    problem = (
        f"this machine's clock says {after:%Y-%m-%d %H:%M:%S} UTC, and the database's {theirs:%Y-%m-%d %H:%M:%S}:"
        " set the one that is wrong, and have both kept in step (NTP)"
    )
    raise ConfigError([problem])


async def check_node(database: Database, node: str) -> None:
    """Raises ConfigError where the database is another node's."""
    if (first := await _first(database, "node", node)) != node:
        problem = (
            f"SOLMU_NODE is {node}, and the database is that of the node {first}: two nodes must not share one, and"
            " no node must run with another's name. Name the right one, or the right database"
        )
        raise ConfigError([problem])


async def check_key(database: Database, setting: str, key: bytes) -> None:
    """Raises ConfigError where a key is another one than the database was filled with."""
    value = hmac.digest(key, f"solmu check of {setting}".encode(), hashlib.sha256).hex()
    if await _first(database, setting, value) != value:
        problem = (
            f"{setting} is not the key that this database was filled with: was a backup restored in part? Restore"
            " keys and databases of one backup; a key that was made anew cannot replace the old one"
        )
        raise ConfigError([problem])


async def _first(database: Database, what: str, value: str) -> str:
    """What the first process found; it is this one where there was none before."""
    await database.execute(
        "insert into start_check (what, value) values ($1, $2) on conflict (what) do nothing", what, value
    )
    found: str = await database.fetchval("select value from start_check where what = $1", what)
    return found


def _issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:  # noqa: BLE001 - any defect means that it was not
        return False
    return True


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)
