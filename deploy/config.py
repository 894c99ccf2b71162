"""Every setting of every process, in one place: the reference page, and a check that tells all faults at once.

    python -m deploy.config reference           prints deploy/settings.md, from the settings classes
    python -m deploy.config check [messages ...]   checks this environment for processes, their files included; without
                                                a name, for the embedded node
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
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from deploy.containers.jobs import OperatorSettings, PrepareSettings
from deploy.local.node import NodeSettings
from gateway.settings import GatewaySettings, new_folder
from services.authorisations import provider_file
from services.authorisations.keyring import KeyRing
from services.authorisations.settings import Settings as AuthorisationsSettings
from services.exchange import __main__ as exchange
from services.exchange.__main__ import Settings as ExchangeSettings
from services.messages import blob_bucket, blob_settings
from services.messages.__main__ import Settings as MessagesSettings
from services.messages.blob_settings import AttachmentSettings
from services.messages.notifications import settings as notification_settings
from services.runtime import config, mesh, start_checks
from services.runtime.config import ConfigError, ProcessSettings
from services.runtime.keys import files as key_files
from services.runtime.keys import setting

EX_CONFIG = 78
EX_USAGE = 64

PREFIX = "SOLMU_"

NODE = "node"
"""The embedded node, among the processes."""

PROCESSES: Mapping[str, tuple[type[Any], ...]] = {
    "authorisations": (AuthorisationsSettings,),
    "messages": (MessagesSettings,),
    "exchange": (ExchangeSettings,),
    "gateway": (GatewaySettings,),
    "prepare": (PrepareSettings,),
    "provision": (OperatorSettings,),
    "renewal": (PrepareSettings, OperatorSettings),
    NODE: (NodeSettings,),
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


LOOKS: Mapping[str, tuple[Callable[[Any], object], ...]] = {
    "authorisations": (
        lambda settings: KeyRing(folder=settings.token_keys, clock=lambda: datetime.now(UTC)),
        lambda settings: (
            settings.identity_providers and provider_file.read(settings.identity_providers, embedded=settings.embedded)
        ),
    ),
    "messages": (AttachmentSettings.store, notification_settings.ports),
    "exchange": (exchange.tokens,),
}
"""What a process makes of its settings at its start, without its engines; each raises ConfigError with its faults."""


def fields(process: str) -> dict[str, dataclasses.Field[Any]]:
    """The settings of a process, by variable."""
    return {field.metadata["name"]: field for settings in PROCESSES[process] for field in dataclasses.fields(settings)}


def names() -> set[str]:
    """Every variable that some process reads."""
    return {name for process in PROCESSES for name in fields(process)}


def _handed_on(environment: Environment) -> dict[str, dataclasses.Field[Any]]:
    """The settings in an environment that an embedded node hands on to its processes."""
    every = {name: field for process in mesh.SERVICES for name, field in fields(process).items()}
    return {name: every[name] for name in every.keys() & environment.keys()}


def faults(process: str, environment: Environment, *, on_disk: bool = True) -> list[str]:
    """What is wrong with the environment of a process: missing, malformed and unknown variables, and bad files."""
    found: list[str] = []
    own = fields(process)
    for name, field in sorted((_handed_on(environment) | own if process == NODE else own).items()):
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
    return found + _deeper(process, environment) if on_disk else found


def _deeper(process: str, environment: Environment) -> list[str]:
    """What is wrong with what the settings name, as far as they can be read: certificates, keys, other files."""
    try:
        settings = config.read(PROCESSES[process][0], environment)
    except ConfigError:
        return []
    found: list[str] = []
    if isinstance(settings, ProcessSettings):
        found += start_checks.certificate_faults(settings, process, now=datetime.now(UTC))
    for look in LOOKS.get(process, ()):
        try:
            look(settings)
        except ConfigError as error:
            found += error.faults
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
        case ["check", *processes] if set(processes) <= PROCESSES.keys():
            found = {process: faults(process, os.environ) for process in processes or [NODE]}
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
