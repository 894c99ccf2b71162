"""The keys of the embedded node, while it runs: `python -m deploy.local.keys COMMAND`.

The commands are those of `services/runtime/keys`, and run for each service that
seals, in turn. With SOLMU_ROOT_KEY the node has another root than its file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from deploy.local.node import NodeSettings
from deploy.local.plan import POSTGRES, SOURCE, root_key
from deploy.local.ports import LOOPBACK
from deploy.local.state import State
from services.runtime import config

SEALING = ("messages", "exchange")
"""The services that have service keys."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command for all of them; answers the first exit status that is not 0."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    state = State(config.read(NodeSettings).state)
    try:
        port = json.loads(state.ports_file.read_text())[POSTGRES]
    except FileNotFoundError:
        print(f"there is no node in {state.root}: `solmu up` makes one", file=sys.stderr)
        return 1
    once = given[:1] in (["make"], ["wrap-file"])
    for service in SEALING[:1] if once else SEALING:
        if not once:
            print(f"{service}:", flush=True)
        command = [sys.executable, "-m", "services.runtime.keys", *given]
        environment = os.environ | _environment(state, service, port)
        done = subprocess.run(command, cwd=SOURCE, env=environment, check=False)
        if done.returncode != 0:
            return done.returncode
    return 0


def _environment(state: State, service: str, port: int) -> dict[str, str]:
    identity = state.identity(service)
    return {
        "SOLMU_DATABASE": f"postgresql://{service}@{LOOPBACK}:{port}/{service}",
        "SOLMU_TLS_CERTIFICATE": str(identity.certificate),
        "SOLMU_TLS_KEY": str(identity.key),
        "SOLMU_TLS_AUTHORITIES": str(identity.authorities),
        "SOLMU_ROOT_KEY": root_key(state),
    }


if __name__ == "__main__":
    sys.exit(main())
