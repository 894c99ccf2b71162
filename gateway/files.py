"""The folder from which Envoy reads: files that change as a whole and only when they have to."""

from __future__ import annotations

import json
import os
from pathlib import Path

from gateway.envoy.plan import Json

_PRIVATE_FILE = 0o600
_PRIVATE_FOLDER = 0o700


class Folder:
    """One folder, with one writer. Everything in it is for its owner alone: private keys are among it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, name: str, content: Json | bytes) -> bool:
        """Puts the content in place by renaming. Returns False where it was there already.

        Envoy takes a rename for a change, so what is the same is left alone.
        """
        data = content if isinstance(content, bytes) else json.dumps(content, indent=1).encode()
        target = self._path / name
        target.parent.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
        try:
            if target.read_bytes() == data:
                return False
        except FileNotFoundError:
            pass
        # Beside the folder that Envoy watches, so that it sees one event and not two.
        draft = self._path / f".{target.name}.draft"
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE_FILE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        draft.replace(target)
        return True

    def remove_others(self, pattern: str, *, keep: str) -> None:
        """Removes files of earlier releases."""
        for path in self._path.glob(pattern):
            if path.name != keep:
                path.unlink()
