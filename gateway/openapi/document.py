"""The document as a whole: descriptors in, OpenAPI 3.1 out. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from buf.validate import validate_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorSet

from gateway.openapi.contract import Contract
from gateway.openapi.examples import EXAMPLES
from gateway.openapi.paths import translate
from gateway.openapi.refusals import PREFIX, Refusals
from gateway.openapi.refusals import schemas as refusal_schemas
from gateway.openapi.schemas import Schemas, is_required
from gateway.routes import Binding, Route, routes

JSON = "application/json"
ANY_CONTENT = "application/octet-stream"
HTTP_BODY = "google.api.HttpBody"
TOKEN_PATH = "/oauth2/token"  # noqa: S105 - a path

ETAG = "etag"
"""Field of a resource that tells its version."""

MAX_QUERY_DEPTH = 3
"""How deep fields of fields are query parameters."""

INTRODUCTION = """\
The REST interface of a Solmu node. Every method is there by gRPC too, on the same port.

**Getting in.** Every connection needs the client's certificate (mutual TLS). With it the token endpoint gives an
access token that is bound to the certificate and lasts 300 seconds at most (OAuth 2.0 client credentials, RFC 8705):
`POST /oauth2/token` with `grant_type=client_credentials`, `client_id` and `scope`. Each operation names the scopes
that it needs.

**JSON** is that of proto3: names in lowerCamelCase, 64-bit numbers as strings, bytes in base64, times by RFC 3339.
Fields of default value are left out. Unknown query parameters are refused, unknown members of a body are dropped.

**Refusals** are problem documents (RFC 9457). Branch on `reason`; the text may change.

**Lists** take `pageSize` and `pageToken`; the token of an empty or absent `nextPageToken` is the end. **Feeds** take a
`cursor`. **Writes** that carry a key (`requestId`, `idempotencyKey`, `messageId`) may be repeated with the same key
and content. **Versions**: an answer's `etag` is its header `ETag` too, `If-Match` stands for a request's.
What is not built yet answers 501 with `METHOD_NOT_IMPLEMENTED`.
"""

_REASON = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")
_F = FieldDescriptorProto


def document(descriptors: FileDescriptorSet) -> dict[str, Any]:
    """The REST interface that these contracts declare.

    The descriptors have comments in them (protoc's `--include_source_info`).
    Raises ContractError where they make no route table.
    """
    contract = Contract(descriptors)
    operations = _Operations(contract)
    paths: dict[str, dict[str, Any]] = {}
    table = routes(descriptors)
    for route in table:
        for number, binding in enumerate(route.rest):
            path, operation = operations.operation(route, binding, number)
            paths.setdefault(path, {})[binding.verb.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Solmu",
            "version": "1",
            "summary": "Messages, mandates and signed data exchange",
            "description": INTRODUCTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/", "description": "The node that serves this page"}],
        "tags": [
            {"name": _tag(name), "description": contract.comment(name)}
            for name in sorted({route.service for route in table})
        ],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted({**operations.schemas.components, **refusal_schemas()}.items())),
            "responses": dict(sorted(operations.refusals.components.items())),
            "securitySchemes": _security(table),
        },
    }


class _Operations:
    """Makes operations, and gathers the components that they refer to."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self.schemas = Schemas(contract)
        self.refusals = Refusals(contract)

    def operation(self, route: Route, binding: Binding, number: int) -> tuple[str, dict[str, Any]]:
        """The path of one binding of a method, and the operation on it."""
        name = f"{route.service}.{route.method}"
        method = self._contract.methods[name]
        request, answer = method.input_type.lstrip("."), method.output_type.lstrip(".")
        bound = dict(self._bound(request, binding))
        path, in_path = translate(binding.template, bound)
        comment = self._contract.comment(name)
        summary, _, rest = comment.partition("\n")
        examples = EXAMPLES.get(f"{route.upstream}.{route.method}", {}) if not number else {}
        operation: dict[str, Any] = {
            "operationId": f"{route.upstream}.{route.method}" + (f".{number + 1}" if number else ""),
            "tags": [_tag(route.service)],
            "summary": summary.split(". ")[0].rstrip("."),
            "description": "\n\n".join(filter(None, [comment if rest else summary, _limits(route)])),
            "security": [{"certificate": [], "token": list(route.scopes)}],
            "parameters": [
                {
                    "name": parameter.name,
                    "in": "path",
                    "required": True,
                    "description": f"Part of `{parameter.field}`.",
                    "schema": {"type": "string"} | ({"pattern": parameter.pattern} if parameter.pattern else {}),
                }
                for parameter in in_path
            ]
            + list(self._query(request, binding, set(bound)))
            + list(self._if_match(request)),
        }
        if binding.body:
            operation["requestBody"] = self._body(request, route, binding, set(bound), examples)
        operation["responses"] = {
            "200": self._answer(answer, route, examples),
            **self.refusals.responses(route.upstream),
        }
        named = self._named_reasons(comment, route.upstream)
        if named:
            operation["x-solmu-reasons"] = named
        return path, operation

    def _bound(self, request: str, binding: Binding) -> Iterator[tuple[str, str]]:
        """Fields in the path, by their paths, with the patterns that rule them."""
        for found in re.findall(r"\{([a-z0-9_.]+)", binding.template):
            field = self._field(request, found)
            yield found, field.options.Extensions[validate_pb2.field].string.pattern

    def _field(self, message: str, path: str) -> FieldDescriptorProto:
        first, _, rest = path.partition(".")
        [field] = [field for field in self._contract.messages[message].field if field.name == first]
        return self._field(field.type_name.lstrip("."), rest) if rest else field

    def _query(self, request: str, binding: Binding, bound: set[str]) -> Iterator[dict[str, Any]]:
        """A parameter for each field that is in neither path nor body."""
        if binding.body == "*":
            return
        yield from self._parameters(request, bound | {binding.body}, "", "", MAX_QUERY_DEPTH)

    def _parameters(
        self, message: str, taken: set[str], fields: str, names: str, depth: int
    ) -> Iterator[dict[str, Any]]:
        for field in self._contract.messages[message].field:
            if fields + field.name in taken:
                continue
            schema = self.schemas.field(message, field) if not self._is_made_of_fields(field) else None
            if schema is None:
                if depth and field.label != _F.LABEL_REPEATED:
                    inner = field.type_name.lstrip(".")
                    prefixes = f"{fields}{field.name}.", f"{names}{field.json_name}."
                    yield from self._parameters(inner, taken, *prefixes, depth - 1)
                continue
            description = schema.pop("description", "")
            required = {"required": True} if is_required(field) and not fields else {}
            schema.pop("readOnly", None)
            yield {
                "name": names + field.json_name,
                "in": "query",
                **required,
                "description": description,
                "schema": schema,
            }

    def _if_match(self, request: str) -> Iterator[dict[str, Any]]:
        """The condition on a version, where the request or the resource in it has a field for it."""
        fields = self._contract.messages[request].field
        resources = [
            self._contract.messages.get(field.type_name.lstrip("."))
            for field in fields
            if field.type == _F.TYPE_MESSAGE and field.label != _F.LABEL_REPEATED
        ]
        if any(field.name == ETAG for field in fields) or any(
            field.name == ETAG for resource in resources if resource is not None for field in resource.field
        ):
            yield {
                "name": "If-Match",
                "in": "header",
                "description": "The `etag` of the version that is to be changed (RFC 9110), in place of the field.",
                "schema": {"type": "string"},
            }

    def _is_made_of_fields(self, field: FieldDescriptorProto) -> bool:
        return field.type == _F.TYPE_MESSAGE and not field.type_name.startswith(".google.")

    def _body(
        self, request: str, route: Route, binding: Binding, bound: set[str], examples: dict[str, Any]
    ) -> dict[str, Any]:
        if binding.body == "*":
            key = f"{route.upstream}.{route.method}.Body"
            self.schemas.components[key] = self.schemas.message(request, without=frozenset(bound))
            schema: dict[str, Any] = {"$ref": f"#/components/schemas/{key}"}
            required = bool(self.schemas.components[key].get("required"))
        else:
            field = self._field(request, binding.body)
            if field.type_name == f".{HTTP_BODY}":
                description = "The content itself."
                return {"required": True, "description": description, "content": {ANY_CONTENT: {"schema": {}}}}
            schema, required = self.schemas.reference(field.type_name.lstrip(".")), True
        if route.client_streaming:
            schema = {"type": "array", "items": schema}
        content: dict[str, Any] = {"schema": schema}
        if "request" in examples:
            content["examples"] = {"usual": {"value": examples["request"]}}
        return {"required": required or route.client_streaming, "content": {JSON: content}}

    def _answer(self, answer: str, route: Route, examples: dict[str, Any]) -> dict[str, Any]:
        if answer == HTTP_BODY:
            return {"description": "The content itself, of its own type.", "content": {"*/*": {"schema": {}}}}
        content: dict[str, Any] = {"schema": self.schemas.reference(answer)}
        if "answer" in examples:
            content["examples"] = {"usual": {"value": examples["answer"]}}
        if route.server_streaming:
            return {"description": "A stream: one JSON object a line.", "content": {JSON: content}}
        found: dict[str, Any] = {"description": self._contract.comment(answer) or "Done.", "content": {JSON: content}}
        if any(field.name == ETAG for field in self._contract.messages[answer].field):
            text = "The version, as the member `etag` has it."
            found["headers"] = {"ETag": {"description": text, "schema": {"type": "string"}}}
        return found

    def _named_reasons(self, comment: str, service: str) -> list[str]:
        """The documented reasons that the comment on a method speaks of."""
        known = {
            value.name.removeprefix(PREFIX)
            for package in (service, "runtime")
            for value in self._contract.enums[f"solmu.{package}.v1.ErrorReason"].value
        }
        return sorted(known & set(_REASON.findall(comment)))


def _limits(route: Route) -> str:
    kind = "stream" if route.client_streaming or route.server_streaming else "call"
    return (
        f"Scopes: {', '.join(f'`{scope}`' for scope in route.scopes)}. Body: at most {route.max_request_bytes} bytes. "
        f"Time: {route.timeout_seconds} s for a {kind}. gRPC: `{route.path}`."
    )


def _tag(service: str) -> str:
    """The tag of a service: messages / Attachment for solmu.messages.v1.AttachmentService."""
    _, package, _, name = service.split(".")
    return f"{package} / {name.removesuffix('Service')}"


def _security(table: tuple[Route, ...]) -> dict[str, Any]:
    opens: dict[str, list[str]] = {}
    for route in table:
        for scope in route.scopes:
            opens.setdefault(scope, []).append(route.method)
    scopes = {scope: ", ".join(sorted(set(methods))) for scope, methods in sorted(opens.items())}
    return {
        "certificate": {"type": "mutualTLS", "description": "The client's certificate, on every connection."},
        "token": {
            "type": "oauth2",
            "description": "An access token bound to the client's certificate (RFC 8705, RFC 9068).",
            "flows": {"clientCredentials": {"tokenUrl": TOKEN_PATH, "scopes": scopes}},
        },
    }
