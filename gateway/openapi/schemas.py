"""Messages and enums of the contracts as JSON Schemas (2020-12): proto3's JSON form, with the rules of `buf.validate`.

Rules that JSON Schema cannot say (those of 64-bit numbers, which are strings in
JSON, of durations, and those written in CEL) go into the description.
"""

from __future__ import annotations

import re
from typing import Any

from buf.validate import validate_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto

from gateway.openapi.contract import Contract

Schema = dict[str, Any]

_F = FieldDescriptorProto
_INTEGERS_64 = {_F.TYPE_INT64, _F.TYPE_UINT64, _F.TYPE_SINT64, _F.TYPE_FIXED64, _F.TYPE_SFIXED64}
_INTEGERS_32 = {_F.TYPE_INT32, _F.TYPE_UINT32, _F.TYPE_SINT32, _F.TYPE_FIXED32, _F.TYPE_SFIXED32}

_WELL_KNOWN: dict[str, Schema] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {
        "type": "string",
        "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$",
        "description": 'Seconds, such as "3.5s".',
    },
    "google.protobuf.FieldMask": {"type": "string", "description": 'Fields by name, such as "displayName,scopes".'},
    "google.rpc.Status": {
        "type": "object",
        "description": "An error of gRPC (google.rpc.Status).",
        "properties": {
            "code": {"type": "integer", "description": "google.rpc.Code."},
            "message": {"type": "string"},
            "details": {"type": "array", "items": {"type": "object"}},
        },
    },
    "google.api.HttpBody": {
        "type": "object",
        "description": "Content of any type.",
        "properties": {"contentType": {"type": "string"}, "data": {"type": "string", "contentEncoding": "base64"}},
    },
}

_FORMATS = {"uuid": "uuid", "uri": "uri"}
_BOUNDS = {"gt": "exclusiveMinimum", "gte": "minimum", "lt": "exclusiveMaximum", "lte": "maximum"}
_SIGNS = {"gt": ">", "gte": "≥", "lt": "<", "lte": "≤"}


def component(name: str) -> str:
    """Name of a message's or enum's schema: "messages.Attachment.State" for solmu.messages.v1.Attachment.State."""
    return re.sub(r"^solmu\.([a-z]+)\.v[0-9]+\.", r"\1.", name)


class Schemas:
    """Schemas of a contract; remembers those asked for, and what they are made of, as `components`."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self.components: dict[str, Schema] = {}

    def reference(self, name: str) -> Schema:
        """A reference to the schema of a message or enum, or the schema of a well-known type itself."""
        if name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[name])
        key = component(name)
        if key not in self.components:
            self.components[key] = {}  # a message may contain itself
            is_enum = name in self._contract.enums
            self.components[key] = self._enum(name) if is_enum else self.message(name)
        return {"$ref": f"#/components/schemas/{key}"}

    def message(self, name: str, *, without: frozenset[str] = frozenset()) -> Schema:
        """The schema of a message, but for the fields that come otherwise."""
        message = self._contract.messages[name]
        fields = [field for field in message.field if field.name not in without]
        properties = {field.json_name: self.field(name, field) for field in fields}
        required = [field.json_name for field in fields if is_required(field)]
        schema: Schema = {"type": "object", "description": self._contract.comment(name), "properties": properties}
        if required:
            schema["required"] = required
        alternatives = _required_oneofs(message, fields)
        if alternatives:
            schema["allOf"] = alternatives
        return schema

    def field(self, message: str, field: FieldDescriptorProto) -> Schema:
        """The schema of a field, with its rules and its comment."""
        rules = field.options.Extensions[validate_pb2.field]
        comment = self._contract.comment(f"{message}.{field.name}")
        remarks = [f"Rule: {rule.message or rule.expression}." for rule in rules.cel]
        if field.label == _F.LABEL_REPEATED:
            schema = self._repeated(field, rules, remarks)
        else:
            schema = self._single(field, rules, remarks)
        schema = dict(schema)
        schema["description"] = " ".join(filter(None, [comment, schema.get("description", ""), *remarks]))
        if "Output only." in comment:
            schema["readOnly"] = True
        if "Input only." in comment:
            schema["writeOnly"] = True
        return schema

    def _repeated(self, field: FieldDescriptorProto, rules: Any, remarks: list[str]) -> Schema:
        entry = self._contract.messages.get(field.type_name.lstrip("."))
        if entry is not None and entry.options.map_entry:
            key, value = entry.field
            schema: Schema = {
                "type": "object",
                "additionalProperties": self._single(value, rules.map.values, remarks),
            }
            names = self._single(key, rules.map.keys, remarks)
            if len(names) > 1:
                schema["propertyNames"] = names
            _take(schema, rules.map, min_pairs="minProperties", max_pairs="maxProperties")
            return schema
        schema = {"type": "array", "items": self._single(field, rules.repeated.items, remarks)}
        _take(schema, rules.repeated, min_items="minItems", max_items="maxItems", unique="uniqueItems")
        return schema

    def _single(  # noqa: PLR0911 - one for each kind of value
        self, field: FieldDescriptorProto, rules: Any, remarks: list[str]
    ) -> Schema:
        kind = field.type
        if kind == _F.TYPE_MESSAGE:
            remarks += _bounds_in_words(rules.duration, seconds=True)
            return self.reference(field.type_name.lstrip("."))
        if kind == _F.TYPE_ENUM:
            return self._enum_value(field.type_name.lstrip("."), rules.enum)
        if kind == _F.TYPE_STRING:
            return _string(rules.string, required=rules.required)
        if kind == _F.TYPE_BYTES:
            return _bytes(rules.bytes, remarks)
        if kind == _F.TYPE_BOOL:
            return {"type": "boolean"}
        if kind in _INTEGERS_64:
            remarks += _bounds_in_words(rules.int64 if rules.HasField("int64") else rules.uint64)
            return {"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"}
        if kind in _INTEGERS_32:
            schema: Schema = {"type": "integer", "format": "int32"}
            _take(schema, rules.int32, **_BOUNDS)
            return schema
        return {"type": "number"}

    def _enum(self, name: str) -> Schema:
        values = self._contract.enums[name].value
        lines = [f"- `{value.name}`: {self._contract.comment(f'{name}.{value.name}')}" for value in values]
        description = "\n".join([self._contract.comment(name), "", *lines]).strip()
        return {"type": "string", "description": description, "enum": [value.name for value in values]}

    def _enum_value(self, name: str, rules: Any) -> Schema:
        by_number = {value.number: value.name for value in self._contract.enums[name].value}
        schema = self.reference(name)
        if rules.not_in:
            schema["not"] = {"enum": [by_number[number] for number in rules.not_in]}
        allowed = getattr(rules, "in")
        if allowed:
            schema["enum"] = [by_number[number] for number in allowed]
        return schema


def is_required(field: FieldDescriptorProto) -> bool:  # noqa: PLR0911 - one for each kind of value
    """Whether a request without the field is refused: said so, or the rules refuse the value that stands for none."""
    rules = field.options.Extensions[validate_pb2.field]
    if rules.required:
        return True
    ignored = rules.ignore != validate_pb2.IGNORE_UNSPECIFIED
    if ignored or field.proto3_optional or field.HasField("oneof_index"):
        return False
    if field.label == _F.LABEL_REPEATED:
        return bool(rules.repeated.min_items)
    if field.type == _F.TYPE_STRING:
        text = rules.string
        if text.pattern and not re.search(text.pattern, ""):
            return True
        return bool(text.min_len or text.uuid or text.uri or text.prefix or getattr(text, "in"))
    if field.type == _F.TYPE_BYTES:
        return bool(rules.bytes.min_len or rules.bytes.len)
    if field.type == _F.TYPE_ENUM:
        return 0 in rules.enum.not_in
    return (rules.int64.HasField("gt") and rules.int64.gt >= 0) or (rules.int32.HasField("gt") and rules.int32.gt >= 0)


def _required_oneofs(message: DescriptorProto, fields: list[FieldDescriptorProto]) -> list[Schema]:
    """For each oneof of which one has to be set: exactly one of its members."""
    found = []
    for index, oneof in enumerate(message.oneof_decl):
        members = [field.json_name for field in fields if field.HasField("oneof_index") and field.oneof_index == index]
        if members and oneof.options.Extensions[validate_pb2.oneof].required:
            found.append({"oneOf": [{"required": [member]} for member in members]})
    return found


def _string(rules: Any, *, required: bool) -> Schema:
    schema: Schema = {"type": "string"}
    _take(schema, rules, min_len="minLength", max_len="maxLength", pattern="pattern")
    if required and "minLength" not in schema:
        schema["minLength"] = 1
    if rules.prefix:
        schema["pattern"] = "^" + re.escape(rules.prefix)
    for rule, form in _FORMATS.items():
        if getattr(rules, rule):
            schema["format"] = form
    allowed = getattr(rules, "in")
    if allowed:
        schema["enum"] = list(allowed)
    if rules.not_in:
        schema["not"] = {"enum": list(rules.not_in)}
    return schema


def _bytes(rules: Any, remarks: list[str]) -> Schema:
    if rules.HasField("len"):
        remarks.append(f"{rules.len} bytes.")
    else:
        remarks += [f"At least {rules.min_len} bytes."] if rules.min_len else []
        remarks += [f"At most {rules.max_len} bytes."] if rules.max_len else []
    return {"type": "string", "contentEncoding": "base64"}


def _bounds_in_words(rules: Any, *, seconds: bool = False) -> list[str]:
    words = []
    for rule, sign in _SIGNS.items():
        if rules.HasField(rule):
            bound = getattr(rules, rule)
            words.append(f"{sign} {f'{bound.seconds}s' if seconds else bound}")
    return [f"Value {' and '.join(words)}."] if words else []


def _take(schema: Schema, rules: Any, **keywords: str) -> None:
    """Copies the rules that are set, by the names that JSON Schema has for them."""
    for rule, keyword in keywords.items():
        if rules.HasField(rule):
            schema[keyword] = getattr(rules, rule)
