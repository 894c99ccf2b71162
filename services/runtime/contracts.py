"""The contracts of the node's services, as descriptors.

Every generated module of `proto/solmu/<service>/` is a contract; none has to
be listed anywhere.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import solmu
from google.protobuf.descriptor import FileDescriptor
from solmu.options.v1 import access_pb2

from services.runtime import mesh


def files(service: str) -> Iterator[FileDescriptor]:
    """The files of a service's contract, in the order of their names."""
    for root in solmu.__path__:
        for path in sorted(Path(root, service).glob("v*/*_pb2.py")):
            yield importlib.import_module(f"solmu.{service}.{path.parent.name}.{path.stem}").DESCRIPTOR


def scopes(services: Iterable[str] = tuple(mesh.SERVICES)) -> frozenset[str]:
    """Every scope that some method of these services' contracts needs."""
    return frozenset(
        scope
        for name in services
        for file in files(name)
        for service in file.services_by_name.values()
        for method in service.methods
        for scope in method.GetOptions().Extensions[access_pb2.access].scopes
    )
