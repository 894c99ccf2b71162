"""About which themes a client may ask: every one, or those that it is registered with."""

from __future__ import annotations

import time
from collections.abc import Callable

from services.authorisations import store
from services.runtime import identity
from services.runtime.database import Database
from services.runtime.errors import PermissionDenied

KEPT_SECONDS = 1.0
"""How long what a client may ask about is kept: no answer rests on anything older than three seconds."""

MOST_KEPT = 10_000
"""Clients kept; beyond that all are read again."""

Themes = frozenset[str]
"""Names of themes; none of them stands for every theme."""


class Limits:
    """Knows about which themes the callers may ask. Services of the node may ask about every one."""

    def __init__(self, *, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._kept: dict[str, tuple[float, Themes]] = {}

    async def themes(self) -> Themes:
        """Themes about which the caller of the method that is being served may ask."""
        client_id = identity.caller().client_id
        if not client_id:
            return Themes()
        now = self._clock()
        read, found = self._kept.get(client_id, (float("-inf"), Themes()))
        if now - read >= KEPT_SECONDS:
            client = await store.find(self._database, client_id)
            found = Themes(client.themes) if client else Themes()
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            self._kept[client_id] = (now, found)
        return found


def hold(theme: str, limits: Themes) -> None:
    """Raises PermissionDenied, THEME_NOT_YOURS, where a theme is not among those that may be asked about."""
    if limits and theme not in limits:
        raise PermissionDenied("THEME_NOT_YOURS", "the client may not ask about this theme", theme=theme)
