"""The contracts of the node's services, as descriptors.

Every generated module of `proto/solmu/<service>/` is a contract; none has to
be listed here.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path

import solmu
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import error_details_pb2, status_pb2

_OF_REFUSALS = (status_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR)
"""Without these Envoy cannot translate a refusal, and sends REST callers an empty body."""


def load(services: Iterable[str]) -> FileDescriptorSet:
    """The contracts of these services, with all that they import."""
    return descriptor_set(file for service in services for file in _files(service))


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


def _files(service: str) -> list[FileDescriptor]:
    modules = {
        f"solmu.{service}.{path.parent.name}.{path.stem}"
        for root in solmu.__path__
        for path in Path(root, service).glob("v*/*_pb2.py")
    }
    return [importlib.import_module(module).DESCRIPTOR for module in sorted(modules)]
