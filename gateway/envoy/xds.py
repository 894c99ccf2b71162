"""The grammar of Envoy's files: typed extensions, resources, and sources that are watched.

Every file but the bootstrap is a list of xDS resources. Envoy looks at it
again when it is renamed into place, and keeps the old configuration where the
new one is wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.envoy.plan import Json

BOOTSTRAP = "bootstrap.json"
ADMIN_SOCKET = "admin.sock"
LISTENERS = "listeners/listeners.json"
CLUSTERS = "clusters/clusters.json"
AUTHENTICATION = "filters/authentication.json"
REVOCATION = "revocations/revocation.json"

GRPC_REQUEST: Json = {
    "name": "content-type",
    "string_match": {"safe_regex": {"regex": r"application/grpc(\+.*)?"}},
}
"""Header match for what Envoy itself takes for a gRPC call; gRPC-Web is none."""

TCP_KEEPALIVE: Json = {"keepalive_time": 60, "keepalive_interval": 10, "keepalive_probes": 3}
"""Finds out within 90 s that the other end of a quiet stream has vanished."""


def route_file(name: str) -> str:
    """Name of the file that holds the routes of a listener (RDS)."""
    return f"routes/{name}.json"


def secret_file(name: str) -> str:
    """Name of the file that holds a secret (SDS). One file each, so that one that is wrong holds up no other."""
    return f"secrets/{name}.json"


def typed(type_name: str, **fields: Any) -> Json:
    """A message as `google.protobuf.Any`."""
    return {"@type": f"type.googleapis.com/{type_name}", **fields}


def extension(name: str, type_name: str, **fields: Any) -> Json:
    """A named extension with its configuration."""
    return {"name": name, "typed_config": typed(type_name, **fields)}


def http_filter(name: str, kind: str, **fields: Any) -> Json:
    """A filter of `envoy.extensions.filters.http`, such as kind "rbac.v3.RBAC"."""
    return extension(name, f"envoy.extensions.filters.http.{kind}", **fields)


def resources(*messages: Json) -> Json:
    """Content of a file with resources."""
    return {"resources": list(messages)}


def watched(folder: Path, name: str) -> Json:
    """A source of configuration: a file that is watched by its folder.

    Each kind of file has a folder of its own, since a rename in it makes Envoy
    read all that it watches there.
    """
    path = folder / name
    return {
        "resource_api_version": "V3",
        "path_config_source": {"path": str(path), "watched_directory": {"path": str(path.parent)}},
    }


def seconds(value: float) -> str:
    """A `google.protobuf.Duration` in JSON."""
    return f"{value:g}s"
