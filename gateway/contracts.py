"""The contracts of the node's services, as the descriptor set that Envoy translates by."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import error_details_pb2, status_pb2

from services.runtime import contracts

_OF_REFUSALS = (status_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR)
"""Without these Envoy cannot translate a refusal, and sends REST callers an empty body."""


def load(services: Iterable[str]) -> FileDescriptorSet:
    """The contracts of these services, with all that they import."""
    return descriptor_set(file for service in services for file in contracts.files(service))


def descriptor_set(files: Iterable[FileDescriptor]) -> FileDescriptorSet:
    """The files, those that refusals are made of, and all that they import, each after what it imports."""
    found: dict[str, FileDescriptor] = {}

    def add(file: FileDescriptor) -> None:
        if file.name not in found:
            for imported in file.dependencies:
                add(imported)
            found[file.name] = file

    for file in (*_OF_REFUSALS, *files):
        add(file)
    descriptors = FileDescriptorSet()
    for file in found.values():
        file.CopyToProto(descriptors.file.add())
    return descriptors
