"""Generates Python code beside the contracts; `--check` fails where what is committed differs.

Messages, stubs for type checkers, and gRPC code where a file has a service.
Classes of google.api and google.rpc come from googleapis-common-protos and are
not generated; buf.validate is, since only its Rust engine is published.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDERS = ("solmu", "buf", "kms")

GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def generate(root: Path, out: Path) -> None:
    """Runs protoc over the contracts below `root` into `out`."""
    files = sorted(path.relative_to(root) for folder in FOLDERS for path in (root / folder).rglob("*.proto"))
    served = [file for file in files if "\nservice " in (root / file).read_text(encoding="utf-8")]
    _protoc(root, f"--python_out={out}", f"--mypy_out=quiet:{out}", *map(str, files))
    _protoc(root, f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}", *map(str, served))


def committed(root: Path) -> dict[str, bytes]:
    """The generated files below a folder, by name."""
    files = [path for folder in FOLDERS for kind in GENERATED for path in (root / folder).rglob(kind)]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def _protoc(root: Path, *arguments: str) -> None:
    plugins = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{root}", *arguments]
    subprocess.run(command, check=True, env=os.environ | plugins)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("root", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fresh_root = Path(folder)
        generate(given.root, fresh_root)
        fresh, present = committed(fresh_root), committed(given.root)
        if given.check:
            stale = sorted(name for name in fresh.keys() | present.keys() if fresh.get(name) != present.get(name))
            if stale:
                print("generated code is not up to date; run `make proto`:", *stale, sep="\n  ", file=sys.stderr)
            return 1 if stale else 0
        for name in present.keys() - fresh.keys():
            (given.root / name).unlink()
        for name, content in fresh.items():
            (given.root / name).write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
