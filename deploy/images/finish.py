"""Last step of building the image: leaves out what nothing runs, compiles, and gives every file the same time.

    python3 finish.py /opt/solmu /stage

It ends up in `/stage/opt/solmu`, to be copied whole: a folder that a COPY makes itself has the time of the build.

Bytecode carries a hash of its source instead of a time, and is compiled in one
order, so that two builds of the same sources make the same bytes.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import shutil
import sys
from pathlib import Path

NOT_RUN = ("pip", "pip-*.dist-info", "pip*", "Activate.ps1", "activate*")
"""The installer, and scripts for shells: whoever breaks in should find neither."""


def main(root: Path, stage: Path) -> int:
    """Finishes the tree in `root` and moves it into `stage`; answers the exit status."""
    packages = next(root.glob("lib/python3.*/site-packages"))
    for folder in (packages, root / "bin"):
        for pattern in NOT_RUN:
            for path in folder.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    for cache in root.rglob("__pycache__"):
        shutil.rmtree(cache)
    for record in packages.glob("*.dist-info/direct_url.json"):
        record.unlink()
    compiled = compileall.compile_dir(
        root, quiet=1, maxlevels=30, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    moment = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    staged = stage / root.relative_to("/")
    staged.parent.mkdir(parents=True)
    shutil.move(root, staged)
    for path in stage.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        os.utime(path, (moment, moment), follow_symlinks=False)
    return 0 if compiled else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
