"""NATS of the embedded node: one account per service, and between them only what `mesh` says.

Each service owns an account with one stream in it. Of another's account it
sees one durable consumer, through exports and imports that name nothing else.
Permissions within one shared account would not hold: the server does not check
the reply subject of a request against them, so any service could have foreign
messages stored under its neighbour's subjects.

A client is who its certificate says (`verify_and_map`, by the URI name).
Streams are synced at every message: with the server's default a crash of the
machine loses what was acknowledged, and young streams whole.

With SOLMU_NATS_ADDRESS=host:port the node starts no NATS. That server must then
have accounts with these users, exports and imports, verify clients against the
node's internal authority and show a certificate of it for that host name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.local.ports import LOOPBACK
from services.runtime import mesh, tls

SYSTEM_ACCOUNT = "SYSTEM"
"""The server's own account, open to `operator`: health probes and statistics."""

CONFIGURATION = "nats.conf"
"""The configuration's name, beside the streams."""

STREAM_BYTES = 1 << 30
"""Disk that one service's account may fill, 1 GiB: events carry no payload, so this is millions of them."""

MEMORY_BYTES = 64 << 20
"""Memory for streams kept in memory. The services have none; the server wants a limit."""

MAX_PAYLOAD_BYTES = 1 << 20
"""Largest event, 1 MiB, the server's default: said here because the outbox relies on it."""

Configuration = dict[str, Any]


def render(
    *, node: str, port: int, store: Path, identity: tls.Files, services: Mapping[str, mesh.Service] = mesh.SERVICES
) -> str:
    """The server's configuration file. A pure function; JSON, which the server reads as its own format."""
    accounts = {SYSTEM_ACCOUNT: {"users": [_user(node, mesh.OPERATOR)]}}
    accounts |= {_account(name): _service_account(node, service) for name, service in services.items()}
    configuration: Configuration = {
        "server_name": node,
        "listen": f"{LOOPBACK}:{port}",
        "max_payload": MAX_PAYLOAD_BYTES,
        "logtime_utc": True,
        "tls": {
            "cert_file": str(identity.certificate),
            "key_file": str(identity.key),
            "ca_file": str(identity.authorities),
            "verify_and_map": True,
            "min_version": "1.3",
        },
        "jetstream": {
            "store_dir": str(store),
            "sync_interval": "always",
            "max_memory_store": MEMORY_BYTES,
            "max_file_store": STREAM_BYTES * len(services),
        },
        "system_account": SYSTEM_ACCOUNT,
        "accounts": accounts,
    }
    return json.dumps(configuration, indent=2) + "\n"


def _service_account(node: str, service: mesh.Service) -> Configuration:
    return {
        "users": [_user(node, service.name)],
        "jetstream": {"max_file": STREAM_BYTES, "max_memory": 0},
        "exports": [export for reader in mesh.consumers(service.name) for export in _exports(service.name, reader)],
        "imports": [imported for publisher in service.consumes for imported in _imports(publisher, service.name)],
    }


def _exports(publisher: str, reader: str) -> list[Configuration]:
    """What a reader needs of its durable: the next messages, the durable's state, and to acknowledge."""
    accounts = [_account(reader)]
    return [
        {"service": _next(publisher, reader), "response_type": "stream", "accounts": accounts},
        {"service": _info(publisher, reader), "accounts": accounts},
        {"service": _acknowledge(publisher, reader), "accounts": accounts},
    ]


def _imports(publisher: str, reader: str) -> list[Configuration]:
    """The same three, in the reader's account; the API under a prefix that tells the publishers apart."""
    prefix = mesh.api_prefix(publisher)
    account = _account(publisher)
    return [
        {
            "service": {"account": account, "subject": subject},
            "to": prefix + subject.removeprefix("$JS.API"),
        }
        for subject in (_next(publisher, reader), _info(publisher, reader))
    ] + [{"service": {"account": account, "subject": _acknowledge(publisher, reader)}}]


def _next(publisher: str, durable: str) -> str:
    return f"$JS.API.CONSUMER.MSG.NEXT.{mesh.stream(publisher)}.{durable}"


def _info(publisher: str, durable: str) -> str:
    return f"$JS.API.CONSUMER.INFO.{mesh.stream(publisher)}.{durable}"


def _acknowledge(publisher: str, durable: str) -> str:
    return f"$JS.ACK.{mesh.stream(publisher)}.{durable}.>"


def _account(service: str) -> str:
    return service.upper()


def _user(node: str, service: str) -> dict[str, str]:
    return {"user": mesh.service_uri(node, service)}
