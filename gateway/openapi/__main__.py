"""python -m gateway.openapi: writes the document from the contracts in `proto/` (development only)."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from gateway.openapi import FILE, document

ROOT = Path(__file__).parents[2] / "proto"


def descriptors(root: Path = ROOT) -> FileDescriptorSet:
    """The contracts with their comments, as protoc reads them."""
    files = sorted(str(path.relative_to(root)) for path in (root / "solmu").rglob("*.proto"))
    with tempfile.NamedTemporaryFile() as out:
        options = [f"-I{root}", f"--descriptor_set_out={out.name}", "--include_imports", "--include_source_info"]
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *options, *files], check=True)  # noqa: S603
        return FileDescriptorSet.FromString(Path(out.name).read_bytes())


def text(descriptor_set: FileDescriptorSet) -> str:
    """The document as it is written: one form, so that a difference is one of content."""
    return json.dumps(document(descriptor_set), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name(FILE).write_text(text(descriptors()), encoding="utf-8")
