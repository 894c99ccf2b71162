"""OpenAPI documents of services: their operations, and what other members see of them. Pure.

Version 3.x, JSON or YAML (read as JSON's superset: no tags, no aliases). What
is not checked: schemas, examples and all else that is no operation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import yaml
from solmu.exchange.v1 import services_pb2

from services.exchange import access
from services.exchange.access import Pattern
from services.runtime.errors import Fault, InvalidArgument

MAX_BYTES = 3 << 20
MAX_OPERATIONS = 2000
"""Of one service: several times what the largest public interfaces have."""


METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")


def read(content: bytes) -> dict[str, Any]:
    """An OpenAPI document of version 3. Raises InvalidArgument, DESCRIPTION_INVALID."""
    if len(content) > MAX_BYTES:
        raise _invalid("it is larger than 3 MiB")
    try:
        text = content.decode("utf-8")
        document = json.loads(text) if text.lstrip().startswith("{") else _yaml(text)
    except (ValueError, yaml.YAMLError, RecursionError):
        raise _invalid("it is neither JSON nor YAML") from None
    if not isinstance(document, dict) or not str(document.get("openapi", "")).startswith("3."):
        raise _invalid("it is not OpenAPI of version 3")
    if not isinstance(document.get("paths", {}), dict):
        raise _invalid("its paths are no object")
    return document


def endpoints(document: dict[str, Any]) -> list[services_pb2.Service.Endpoint]:
    """The operations of a document. Raises InvalidArgument, DESCRIPTION_INVALID, where two of them are one."""
    found, operations, ids = [], set(), set()
    for path, method, operation in _operations(document):
        identifier = operation.get("operationId", "")
        if not isinstance(identifier, str) or len(identifier) > 255:
            raise _invalid("an operationId is no string of at most 255 characters")
        pattern = Pattern(method.upper(), path)
        try:
            access.check_pattern(pattern)
        except Fault:
            raise _invalid("a path cannot be a pattern") from None
        place = method, tuple("{}" if part.startswith("{") else part for part in path.split("/"))
        if place in operations or (identifier and identifier in ids):
            raise _invalid("two operations are one")
        operations.add(place)
        ids.add(identifier)
        summary = operation.get("summary", "")
        found.append(
            services_pb2.Service.Endpoint(
                method=pattern.method,
                path=path,
                operation_id=identifier,
                summary=summary[:1000] if isinstance(summary, str) else "",
            )
        )
    if len(found) > MAX_OPERATIONS:
        raise _invalid(f"it has more than {MAX_OPERATIONS} operations")
    return found


def public(document: dict[str, Any]) -> bytes:
    """The document as other members see it, JSON: server addresses are turned into their paths."""
    shown = dict(document)
    if "servers" in shown:
        shown["servers"] = _paths_only(shown["servers"])
    if isinstance(shown.get("paths"), dict):
        shown["paths"] = {path: _public_item(item) for path, item in shown["paths"].items()}
    return json.dumps(shown, ensure_ascii=False, default=str).encode("utf-8")


def _yaml(text: str) -> Any:
    """YAML without aliases, by which a small document can stand for a huge one."""
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.CSafeLoader)):
        raise ValueError
    return yaml.load(text, Loader=yaml.CSafeLoader)


def _public_item(item: Any) -> Any:
    if not isinstance(item, dict):
        return item
    shown = {key: _public_item(value) if key in METHODS else value for key, value in item.items()}
    if "servers" in shown:
        shown["servers"] = _paths_only(shown["servers"])
    return shown


def _paths_only(servers: Any) -> list[dict[str, str]]:
    found = []
    for server in servers if isinstance(servers, list) else ():
        url = server.get("url", "") if isinstance(server, dict) else ""
        try:
            path = urlsplit(url).path if isinstance(url, str) else ""
        except ValueError:
            path = ""
        found.append({"url": path or "/"})
    return found


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document.get("paths", {}).items():
        if not isinstance(path, str) or not path.startswith("/") or not isinstance(item, dict):
            raise _invalid("a path does not begin with a slash, or has no operations")
        for method in METHODS:
            if method in item:
                if not isinstance(item[method], dict):
                    raise _invalid("an operation is no object")
                yield path, method, item[method]


def _invalid(defect: str) -> Fault:
    return InvalidArgument("DESCRIPTION_INVALID", f"the description cannot be taken: {defect}", defect=defect)
