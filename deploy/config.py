"""Every setting of every process, in one place: the reference page, and a check that tells all faults at once.

    python -m deploy.config reference           prints deploy/settings.md, from the settings classes
    python -m deploy.config check messages      checks this environment for one process, its files included
    python -m deploy.config compose < JSON      checks all processes of `docker compose config --format json`

`check` is for inside a container: `docker compose run --rm messages python -m
deploy.config check messages`. `compose` runs outside, where the files that
settings name cannot be looked at; it checks all else. Exit status 78
(EX_CONFIG) where there are faults.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from cryptography import x509

from deploy.containers.jobs import OperatorSettings, PrepareSettings
from deploy.local.node import NodeSettings
from gateway.settings import GatewaySettings, new_folder
from services.authorisations.settings import Settings as AuthorisationsSettings
from services.exchange.__main__ import Settings as ExchangeSettings
from services.messages import blob_bucket, blob_settings
from services.messages.__main__ import Settings as MessagesSettings
from services.runtime import config, mesh, tls
from services.runtime.config import ProcessSettings
from services.runtime.keys import files as key_files
from services.runtime.keys import setting

EX_CONFIG = 78
EX_USAGE = 64

PREFIX = "SOLMU_"

PROCESSES: Mapping[str, tuple[type[Any], ...]] = {
    "authorisations": (AuthorisationsSettings,),
    "messages": (MessagesSettings,),
    "exchange": (ExchangeSettings,),
    "gateway": (GatewaySettings,),
    "prepare": (PrepareSettings,),
    "provision": (OperatorSettings,),
    "renewal": (PrepareSettings, OperatorSettings),
    "node": (NodeSettings,),
}
"""What each process reads, by its name in the compose file; `node` is the embedded node."""

ON_DISK = (
    config.file,
    config.folder,
    key_files.read,
    setting.root,
    new_folder,
    blob_settings.place,
    blob_bucket.credentials,
)
"""Parsers that look at the disk of the machine on which the process runs."""

Environment = Mapping[str, str]


def fields(process: str) -> dict[str, dataclasses.Field[Any]]:
    """The settings of a process, by variable."""
    return {field.metadata["name"]: field for settings in PROCESSES[process] for field in dataclasses.fields(settings)}


def names() -> set[str]:
    """Every variable that some process reads."""
    return {name for process in PROCESSES for name in fields(process)}


def faults(process: str, environment: Environment, *, on_disk: bool = True) -> list[str]:
    """What is wrong with the environment of a process: missing, malformed and unknown variables, and bad files."""
    found: list[str] = []
    for name, field in sorted(fields(process).items()):
        value = environment.get(name, "")
        if not value:
            if field.default is dataclasses.MISSING:
                found.append(f"{name} is not set: {field.metadata['doc']}")
        elif on_disk or field.metadata["parse"] not in ON_DISK:
            try:
                field.metadata["parse"](value)
            except (ValueError, OSError) as error:
                found.append(f"{name}: {error}")
    known = names()
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            found.append(f"{name} is no setting" + (f"; {near[0]} is one" if near else ""))
    if on_disk and not found and issubclass(PROCESSES[process][0], ProcessSettings):
        found += certificate_faults(config.read(PROCESSES[process][0], environment), process, now=datetime.now(UTC))
    return found


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
        found.append(f"SOLMU_TLS_CERTIFICATE expired on {certificate.not_valid_after_utc:%Y-%m-%d}: run `prepare`")
    if now < certificate.not_valid_before_utc:
        found.append("SOLMU_TLS_CERTIFICATE is not valid yet: is this machine's clock behind?")
    if not any(_issued(certificate, authority) for authority in authorities):
        found.append("SOLMU_TLS_CERTIFICATE was not issued by an authority in SOLMU_TLS_AUTHORITIES")
    expected = mesh.service_uri(settings.node, process)
    if expected not in _uris(certificate):
        found.append(f"SOLMU_TLS_CERTIFICATE is not that of {expected}: check SOLMU_NODE")
    return found


def reference() -> str:
    """The reference page, Markdown."""
    lines = [
        "# Settings",
        "",
        "Every variable that a process reads, from the settings classes: `python -m deploy.config reference` writes",
        "this page. An empty value counts as not set. Secrets are files; their content never stands in the",
        "environment. Wrong ones end a process at its start with status 78 and a list of all faults.",
    ]
    for process in PROCESSES:
        lines += ["", f"## {process}", "", "| setting | default | |", "|---|---|---|"]
        for name, field in sorted(fields(process).items()):
            lines.append(f"| `{name}` | {_default(process, field)} | {field.metadata['doc']} |")
    return "\n".join([*lines, ""])


def compose_faults(compose: Mapping[str, Any]) -> dict[str, list[str]]:
    """The faults of every process of a compose file as `docker compose config --format json` prints it."""
    environments = {
        process: {name: str(value or "") for name, value in (service.get("environment") or {}).items()}
        for process, service in compose["services"].items()
        if process in PROCESSES
    }
    return {process: faults(process, environment, on_disk=False) for process, environment in environments.items()}


def main(arguments: Sequence[str]) -> int:
    """Runs one command; answers the exit status."""
    match list(arguments):
        case ["reference"]:
            sys.stdout.write(reference())
            return 0
        case ["check", process] if process in PROCESSES:
            found = {process: faults(process, os.environ)}
        case ["compose"]:
            found = compose_faults(json.load(sys.stdin))
        case _:
            sys.stderr.write(f"{__doc__}\nProcesses: {', '.join(PROCESSES)}\n")
            return EX_USAGE
    for process, listed in found.items():
        for fault in listed:
            sys.stderr.write(f"{process}: {fault}\n")
    return EX_CONFIG if any(found.values()) else 0


def _default(process: str, field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "**must be set**"
    if process == "node" and field.name == "state":
        return "`.solmu` in the clone"
    if field.default is None or field.default == "":
        return ""
    if isinstance(field.default, bool):
        return "no" if not field.default else "yes"
    return str(field.default)


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
