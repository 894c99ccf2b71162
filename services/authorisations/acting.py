"""Reading mandates in another's name: what allows it, and how far it goes.

A token on another's behalf is for one theme, and where it says so for one thing
in it. Whoever shows it reads what concerns that, and not all that is the
principal's. Whether the right behind it still holds is judged for every call.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from services.authorisations.mandates import Mandate
from services.runtime import identity
from services.runtime.errors import Fault, PermissionDenied, Unavailable
from services.runtime.facts.cache import FactCache
from services.runtime.facts.checking import Question
from services.runtime.identity import Caller, Right

PATIENCE = 3.0
"""Seconds to wait for facts that are fresh enough."""


class Acting:
    """Says who may act for whom. `latest` is the newest revision that this process has written."""

    def __init__(self, *, facts: FactCache, latest: Callable[[], str], clock: Callable[[], datetime]) -> None:
        self._facts = facts
        self._latest = latest
        self._clock = clock

    async def right(self, caller: Caller) -> Right:
        """What allows this caller to act for the party that it names.

        Raises PermissionDenied, MANDATE_NOT_ENOUGH, and Unavailable where it
        cannot be known now.
        """
        theme_id, specifier = _subject(caller)
        table = await self._facts.reach(known=self._latest(), patience=PATIENCE)
        now = self._clock()
        question = Question(
            delegate=caller.actor, principal=caller.party, theme_id=theme_id, specifier=specifier, at=now,
            assurance_level=caller.assurance_level,
        )  # fmt: skip
        verdict = table.judge(question, now=now)
        if isinstance(verdict, Unavailable):
            raise verdict
        if isinstance(verdict, Fault) or not verdict.allowed or not _known_surely(caller, verdict.assurance_level):
            raise _refused()
        return Right(mandates=verdict.mandates, through=verdict.through, specifier=specifier)


def theme() -> str:
    """The one theme whose mandates the caller may read, `themes/{theme}`; empty where the party itself calls."""
    caller = identity.caller()
    return f"themes/{_subject(caller)[0]}" if caller.actor else ""


def may_read(mandate: Mandate) -> bool:
    """Whether the mandate is of what the caller may act in; always where the party itself calls."""
    caller = identity.caller()
    if not caller.actor:
        return True
    theme_id, specifier = _subject(caller)
    return mandate.theme_id == theme_id and specifier in ("", mandate.specifier)


def _subject(caller: Caller) -> tuple[str, str]:
    """The theme and the specifier of the caller's token. Raises PermissionDenied, MANDATE_NOT_ENOUGH."""
    details = [detail for detail in caller.authorization_details if detail.get("type") == "mandate"]
    theme, specifier = (details[0].get("theme"), details[0].get("specifier", "")) if len(details) == 1 else (None, None)
    if not isinstance(theme, str) or not isinstance(specifier, str):
        raise _refused()
    return theme.removeprefix("themes/"), specifier


def _known_surely(caller: Caller, needed: int) -> bool:
    """Levels are of persons; one who is not known at all is not known surely enough."""
    return not caller.actor.startswith("persons/") or caller.assurance_level >= needed


def _refused() -> PermissionDenied:
    return PermissionDenied("MANDATE_NOT_ENOUGH", "no mandate in force allows this")
