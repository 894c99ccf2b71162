"""A token in software, SoftHSM2: one per test run, since its library reads its settings once per process."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

MODULES = [Path("/usr/lib/softhsm/libsofthsm2.so"), Path("/usr/lib64/pkcs11/libsofthsm2.so")]

LABEL = "solmu"


@dataclass(frozen=True)
class SoftToken:
    """The library, and a file with the PIN, of the token `LABEL`."""

    module: Path
    pin: Path


def initialised(folder: Path) -> SoftToken:
    """A token in a folder of its own. Skips the test where SoftHSM2 is not installed."""
    pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed (pip install 'solmu[pkcs11]')")
    module = next((path for path in MODULES if path.exists()), None)
    tool = shutil.which("softhsm2-util")
    if module is None or tool is None:
        pytest.skip("SoftHSM2 is not installed (apt-get install softhsm2)")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\nlog.level = ERROR\n")
    os.environ["SOFTHSM2_CONF"] = str(folder / "softhsm2.conf")
    subprocess.run(
        [tool, "--init-token", "--free", "--label", LABEL, "--pin", "123456", "--so-pin", "12345678"],
        check=True,
        capture_output=True,
    )
    (folder / "pin").write_text("123456\n")
    return SoftToken(module, folder / "pin")
