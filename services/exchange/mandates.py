"""By what right somebody acts for another in a call.

This release does not check mandates of calls: one that must rest on a mandate,
or says that it does, is refused. Nothing is passed on unchecked.
"""

from __future__ import annotations

from services.exchange.heads import Header
from services.runtime.errors import PermissionDenied, Unavailable


class NoMandates:
    """Refuses what would have to be checked."""

    async def check(self, on_behalf_of: bytes, *, consumer: str, required: bool) -> tuple[Header, ...]:  # noqa: ARG002  # as who checks
        """Nothing to tell, where nobody stands behind the call."""
        if on_behalf_of:
            raise Unavailable("MANDATE_UNVERIFIABLE", "the mandate could not be checked")
        if required:
            raise PermissionDenied("MANDATE_MISSING", "the service takes calls on behalf of somebody only")
        return ()
