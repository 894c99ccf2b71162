"""python -m deploy.local: see `deploy.local.commands`. Checks first what the rest cannot be read without."""

import sys

OLDEST_PYTHON = (3, 11)

if sys.version_info < OLDEST_PYTHON:
    sys.exit(
        f"Solmu needs Python {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or newer, and this is "
        f"{sys.version_info[0]}.{sys.version_info[1]} ({sys.executable}).\n"
        "What to do: install a newer one and name it to make: make PYTHON=python3.12 up"
    )
if sys.platform != "linux":
    sys.exit("The embedded node runs on Linux only.\nWhat to do: use a Linux machine, or compose (deploy/README.md).")

from deploy.local.commands import main  # noqa: E402

sys.exit(main())
