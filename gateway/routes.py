"""Routes of the edge, read from the contracts.

A method of `proto/` says in its option `access` which scopes open it, how much
it takes and how long, and in `google.api.http` how it looks at REST. This
module turns descriptors into `Route` values and knows nothing of Envoy.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from google.api import annotations_pb2
from google.api.http_pb2 import HttpRule
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto
from solmu.options.v1 import access_pb2

DEFAULT_MAX_REQUEST_BYTES = 1 << 20
"""Request body of a method that declares no limit: 1 MiB, as `access.proto` promises."""

DEFAULT_UNARY_SECONDS = 15
"""Time for a unary call that declares none: longer than any sound call, shorter than people wait."""

DEFAULT_STREAM_SECONDS = 3600
"""Time for a stream that declares none: an hour, after which a reader resumes with its cursor."""

_HTTP: Any = annotations_pb2.http
_PACKAGE = re.compile(r"solmu\.([a-z]+)\.v[0-9]+")
_VARIABLE = re.compile(r"\{[^}]*\}")
_VERBS = ("get", "put", "post", "delete", "patch")


class ContractError(Exception):
    """The contracts do not make a route table; lists every fault."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("the contracts have faults:\n" + "\n".join(f"  {fault}" for fault in faults))
        self.faults = faults


@dataclass(frozen=True)
class Binding:
    """How a method looks at REST: one `google.api.HttpRule`."""

    verb: str
    """HTTP method in upper case."""
    template: str
    """Path template, such as "/v1/{name=units/*}"."""
    body: str
    """Request field that the body is; "*" for the whole request, empty for no body."""

    @property
    def pattern(self) -> str:
        """The template as a regular expression (RE2) over the path without its query.

        A `*` is one path segment without a colon, since a colon begins a custom
        verb ("/v1/{name=units/*}:close") and resource ids have none. `**` is
        any number of segments.
        """
        pattern, end = "", 0
        for variable in _VARIABLE.finditer(self.template):
            _, _, segments = variable.group().strip("{}").partition("=")
            pattern += _literal(self.template[end : variable.start()]) + _segments(segments or "*")
            end = variable.end()
        return pattern + _literal(self.template[end:])

    @property
    def prefix(self) -> str:
        """What every path of `pattern` begins with, letter by letter."""
        literal, _, _ = self.pattern.partition("[^")
        return literal.replace("\\", "")


@dataclass(frozen=True)
class Route:
    """One public method: a method that some scope opens."""

    service: str
    """Full name of the proto service: "solmu.messages.v1.UnitService"."""
    method: str
    upstream: str
    """Service of the node that has it: "messages"."""
    scopes: tuple[str, ...]
    """Scopes that the token must carry, all of them. Never empty."""
    max_request_bytes: int
    timeout_seconds: int
    client_streaming: bool
    server_streaming: bool
    rest: tuple[Binding, ...]

    @property
    def path(self) -> str:
        """Path of the gRPC call."""
        return f"/{self.service}/{self.method}"


class Door(Enum):
    """A public port of the edge. The values are the names of its listener and of its routes."""

    SYSTEMS = "edge"
    """For information systems: client certificate required. Every method of the contracts is here, and only here."""
    BROWSERS = "browsers"
    """For people's browsers, which have no certificate: log-in, metadata and documentation."""


@dataclass(frozen=True)
class Endpoint:
    """A path of a foreign protocol, served by the gateway process."""

    path: str
    """With a variable in braces, as the adapter's server writes it, where `pattern` is set."""
    max_request_bytes: int
    doors: frozenset[Door] = frozenset({Door.SYSTEMS})
    scopes: tuple[str, ...] = ()
    """Scopes that the token must carry, all of them; for `Door.SYSTEMS` alone. Empty: no token is asked for."""
    echoes_request_id: bool = False
    """Whether the caller's own `x-request-id` names the call, in answers and in the log, in place of the edge's; for
    `Door.SYSTEMS` alone."""
    pattern: str = ""
    """Regular expression (RE2) over the whole path; empty: `path` is all there is."""
    timeout_seconds: int = DEFAULT_UNARY_SECONDS

    @property
    def prefix(self) -> str:
        """What every path of the endpoint begins with, letter by letter."""
        return self.path.partition("{")[0] if self.pattern else self.path


def routes(descriptors: FileDescriptorSet) -> tuple[Route, ...]:
    """The public methods of the contracts, in order of their paths.

    Files outside `solmu.<service>.v<n>` are passed over. Raises ContractError
    where a method lacks the option `access`, opens to nobody, or shares a REST
    binding with another.
    """
    found: list[Route] = []
    faults: list[str] = []
    for file, service, method in _methods(descriptors):
        name = f"{file.package}.{service}.{method.name}"
        if not method.options.HasExtension(access_pb2.access):
            faults.append(f"{name} does not say who may call it: set option (solmu.options.v1.access)")
            continue
        access = method.options.Extensions[access_pb2.access]
        if not access.scopes and not access.callers:
            faults.append(f"{name} opens to nobody: set scopes or callers in (solmu.options.v1.access)")
        if access.scopes:
            found.append(_route(file, service, method))
    faults += _clashes(found)
    if faults:
        raise ContractError(faults)
    return tuple(sorted(found, key=lambda route: route.path))


def scopes(table: tuple[Route, ...]) -> tuple[str, ...]:
    """Every scope that some public method asks for, sorted."""
    return tuple(sorted({scope for route in table for scope in route.scopes}))


def _methods(descriptors: FileDescriptorSet) -> Iterator[tuple[FileDescriptorProto, str, MethodDescriptorProto]]:
    for file in descriptors.file:
        if _PACKAGE.fullmatch(file.package):
            for service in file.service:
                for method in service.method:
                    yield file, service.name, method


def _route(file: FileDescriptorProto, service: str, method: MethodDescriptorProto) -> Route:
    access = method.options.Extensions[access_pb2.access]
    package = _PACKAGE.fullmatch(file.package)
    assert package is not None
    streaming = method.client_streaming or method.server_streaming
    return Route(
        service=f"{file.package}.{service}",
        method=method.name,
        upstream=package.group(1),
        scopes=tuple(sorted(set(access.scopes))),
        max_request_bytes=access.max_request_bytes or DEFAULT_MAX_REQUEST_BYTES,
        timeout_seconds=access.timeout_seconds or (DEFAULT_STREAM_SECONDS if streaming else DEFAULT_UNARY_SECONDS),
        client_streaming=method.client_streaming,
        server_streaming=method.server_streaming,
        rest=tuple(_bindings(method)),
    )


def _bindings(method: MethodDescriptorProto) -> Iterator[Binding]:
    if not method.options.HasExtension(_HTTP):
        return
    rule: HttpRule = method.options.Extensions[_HTTP]
    for each in (rule, *rule.additional_bindings):
        verb = each.WhichOneof("pattern")
        if verb in _VERBS:
            yield Binding(verb=verb.upper(), template=getattr(each, verb), body=each.body)
        elif verb == "custom":
            yield Binding(verb=each.custom.kind, template=each.custom.path, body=each.body)


def _clashes(table: list[Route]) -> list[str]:
    seen = Counter((binding.verb, binding.pattern) for route in table for binding in route.rest)
    return [
        f"{route.service}.{route.method} shares {binding.verb} {binding.template} with another method"
        for route in table
        for binding in route.rest
        if seen[binding.verb, binding.pattern] > 1
    ]


def _literal(text: str) -> str:
    return re.sub(r"[.+*?()|\[\]^$\\]", r"\\\g<0>", text)


def _segments(pattern: str) -> str:
    return "/".join({"*": "[^/:]+", "**": "[^:]+"}.get(part, _literal(part)) for part in pattern.split("/"))
