"""The made-up contract `solmu.parcels.v1`, compiled when the tests run."""

from __future__ import annotations

import atexit
import importlib
import importlib.resources
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

from gateway import contracts

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[2]


def compiled(source: Path, name: str) -> tuple[Any, Any]:
    """Compiles one .proto file; returns its message module and its gRPC module."""
    out = Path(tempfile.mkdtemp(prefix="solmu-contract-"))
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    arguments = [
        f"-I{source}",
        f"-I{_ROOT / 'proto'}",
        f"-I{well_known}",
        f"--python_out={out}",
        f"--grpc_python_out={out}",
    ]
    compile_: Any = protoc.main
    if compile_(["protoc", *arguments, name]) != 0:
        raise RuntimeError(f"{name} does not compile")
    sys.path.append(str(out))
    importlib.invalidate_caches()
    module = name.removesuffix(".proto").replace("/", ".")
    return importlib.import_module(f"{module}_pb2"), importlib.import_module(f"{module}_pb2_grpc")


messages, services = compiled(_HERE / "proto", "solmu/parcels/v1/parcels.proto")

DESCRIPTORS: FileDescriptorSet = contracts.descriptor_set([messages.DESCRIPTOR])
