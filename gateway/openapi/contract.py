"""The descriptors by name, each with the comment that stands before it in its file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)

_MESSAGES, _ENUMS, _SERVICES = 4, 5, 6
"""Numbers of the members of a FileDescriptorProto, of which the paths of comments are made."""

_FIELDS, _NESTED, _NESTED_ENUMS, _VALUES, _METHODS = 2, 3, 4, 2, 2

_BREAK = re.compile(r"(?<!\n)\n(?![\n ]*[-*\n])")
"""A line break inside a paragraph."""


class Contract:
    """All messages, enums and services of a descriptor set; names are full, without a leading dot."""

    def __init__(self, descriptors: FileDescriptorSet) -> None:
        self.messages: dict[str, DescriptorProto] = {}
        self.enums: dict[str, EnumDescriptorProto] = {}
        self.services: dict[str, ServiceDescriptorProto] = {}
        self.methods: dict[str, MethodDescriptorProto] = {}
        self._comments: dict[str, str] = {}
        for file in descriptors.file:
            self._add_file(file)

    def comment(self, name: str) -> str:
        """The comment on what has this name, a line for each paragraph; empty where it has none."""
        return self._comments.get(name, "")

    def _add_file(self, file: FileDescriptorProto) -> None:
        comments = {
            tuple(location.path): _flowing(location.leading_comments)
            for location in file.source_code_info.location
            if location.leading_comments
        }
        for name, path, found in _named(file):
            if path in comments:
                self._comments[name] = comments[path]
            match found:
                case DescriptorProto():
                    self.messages[name] = found
                case EnumDescriptorProto():
                    self.enums[name] = found
                case ServiceDescriptorProto():
                    self.services[name] = found
                case MethodDescriptorProto():
                    self.methods[name] = found


def _named(file: FileDescriptorProto) -> Iterator[tuple[str, tuple[int, ...], Any]]:
    for index, message in enumerate(file.message_type):
        yield from _in_message(file.package, (_MESSAGES, index), message)
    for index, enum in enumerate(file.enum_type):
        yield from _in_enum(file.package, (_ENUMS, index), enum)
    for index, service in enumerate(file.service):
        name, path = f"{file.package}.{service.name}", (_SERVICES, index)
        yield name, path, service
        for place, method in enumerate(service.method):
            yield f"{name}.{method.name}", (*path, _METHODS, place), method


def _in_message(
    scope: str, path: tuple[int, ...], message: DescriptorProto
) -> Iterator[tuple[str, tuple[int, ...], Any]]:
    name = f"{scope}.{message.name}"
    yield name, path, message
    for index, field in enumerate(message.field):
        yield f"{name}.{field.name}", (*path, _FIELDS, index), field
    for index, nested in enumerate(message.nested_type):
        yield from _in_message(name, (*path, _NESTED, index), nested)
    for index, enum in enumerate(message.enum_type):
        yield from _in_enum(name, (*path, _NESTED_ENUMS, index), enum)


def _in_enum(
    scope: str, path: tuple[int, ...], enum: EnumDescriptorProto
) -> Iterator[tuple[str, tuple[int, ...], Any]]:
    name = f"{scope}.{enum.name}"
    yield name, path, enum
    for index, value in enumerate(enum.value):
        yield f"{name}.{value.name}", (*path, _VALUES, index), value


def _flowing(comment: str) -> str:
    """A comment without the line breaks of the file it stands in."""
    lines = "\n".join(line.removeprefix(" ") for line in comment.rstrip().splitlines())
    return _BREAK.sub(" ", lines)
