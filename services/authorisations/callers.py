"""The caller, as records of its acts name it."""

from __future__ import annotations

from services.authorisations.mandates import Actor
from services.runtime import identity
from services.runtime.errors import PermissionDenied


def actor() -> Actor:
    """The caller of the method that is being served. Services of the node have no party; they are named as clients."""
    caller = identity.caller()
    mandates = [name for detail in caller.authorization_details for name in detail.get("mandates", ())]
    return Actor(
        party=caller.party,
        acting_party=caller.actor,
        mandate=mandates[0] if mandates else "",
        client=caller.client or f"services/{caller.service}",
        assurance_level=caller.assurance_level,
    )


def party_actor() -> Actor:
    """The caller, which must be a party. Raises PermissionDenied, NOT_A_PARTY."""
    found = actor()
    if not found.party:
        raise PermissionDenied("NOT_A_PARTY", "the caller is no party")
    return found
